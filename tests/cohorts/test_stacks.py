"""Cohorts of stacks: cells of several slices, and the corners of vertebral bodies in their pixels."""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pyarrow.parquet as pq
import pytest

from mskray.cohorts.contact_sheet import shown
from mskray.cohorts.plan import ShardPlan
from mskray.cohorts.schema import ImageFormat, pixels, shard_schema
from mskray.cohorts.shards import Entry, ShardJob, write_shard
from mskray.cohorts.sources import Item, Loaded, Rejected, Source
from mskray.config import Section
from mskray.imaging.decode import DecodedImage
from mskray.imaging.regions import FitMode
from mskray.imaging.spine import Vertebra
from mskray.storage import Location, locate

BODY = Vertebra("L4", 1.5, np.array([[10, 4], [30, 4], [30, 20], [10, 20]], float))


class Stacks(Source[Section]):
    """Three slices of 20 rows and 40 columns, or as many as the path says."""

    name: ClassVar[str] = "stacks"
    summary: ClassVar[str] = "made here"
    kind: ClassVar[str] = "spine"
    Options: ClassVar[type[Section]] = Section
    located: ClassVar[bool] = False
    vertebrae: ClassVar[bool] = True
    rows: ClassVar[int] = 0

    def tasks(self, location: Location | None, options: Section) -> tuple[()]:
        return ()

    def items(self, location: Location | None, options: Section) -> Iterator[Item | Rejected]:
        yield from ()

    def format(self, size: int, dtype: Literal["uint8", "uint16"], fit: FitMode, options: Section) -> ImageFormat:
        return ImageFormat(size=size, dtype=dtype, fit=fit, slices=3, rows=self.rows)

    def load(self, path: str, data: bytes, options: Section) -> Loaded:
        made = np.stack([np.full((20, 40), 50 * (number + 1), np.uint8) for number in range(int(path))])
        return Loaded(DecodedImage(made, "made", 8, None, {}), vertebrae=(BODY,))


class Cells(Stacks):
    """The same, stored as they are."""

    name: ClassVar[str] = "cells"
    rows: ClassVar[int] = 20


def written(folder: Path, source: Source[Section], size: int, paths: list[str]) -> tuple[Entry, ImageFormat]:
    image = source.format(size, "uint8", "pad", Section())
    job = ShardJob(source, Section(), None, locate(folder).uri, image, ())
    known = {"study_id": "s", "patient_id": "p", "body_part": "LSPINE", "view": None, "laterality": None, "row": None}
    rows = [{"path": path, "instance_id": f"i{n}", "view_index": n, **known} for n, path in enumerate(paths)]
    return write_shard(job, ShardPlan("train", 0, "0" * 16, 0, len(rows)), rows), image


def test_slices_are_fitted_one_by_one_and_corners_with_them(tmp_path: Path) -> None:
    entry, image = written(tmp_path, Stacks(), 32, ["3"])
    assert image.shape == (3, 32, 32)
    assert image.bytes == 3 * 32 * 32
    assert entry.shard is not None
    schema = shard_schema(image, (), masks=False, vertebrae=True)
    table = pq.read_table(tmp_path / entry.shard.path, partitioning=None)
    found = pixels(table["image"], schema.field("image"))
    assert found.shape == (1, 3, 32, 32)
    assert found[0, :, 16, 16].tolist() == [50, 100, 150]
    assert found[0, :, 2].max() == 0, "40 columns fill 32, 20 rows 16 of them"
    body = table["vertebrae"][0].as_py()[0]
    assert (body["level"], body["slice"]) == ("L4", 1.5)
    corners = [body[f"{axis}{number}"] for number in range(4) for axis in "xy"]
    assert corners == pytest.approx([8, 11.2, 24, 11.2, 24, 24, 8, 24])
    assert (table["rows"][0].as_py(), table["columns"][0].as_py()) == (20, 40)


def test_a_stack_in_the_shape_of_its_cell_is_stored_as_it_is(tmp_path: Path) -> None:
    entry, image = written(tmp_path, Cells(), 40, ["3"])
    assert image.shape == (3, 20, 40)
    assert str(image) == "3 × 20 × 40 px, uint8, pad"
    assert entry.shard is not None
    table = pq.read_table(tmp_path / entry.shard.path, partitioning=None)
    found = pixels(table["image"], shard_schema(image, (), False, True).field("image"))
    assert [np.unique(each).tolist() for each in found[0]] == [[50], [100], [150]]
    body = table["vertebrae"][0].as_py()[0]
    assert [body["x0"], body["y0"], body["x2"], body["y2"]] == [10, 4, 30, 20]


def test_another_number_of_slices_goes_to_quarantine(tmp_path: Path) -> None:
    entry, _ = written(tmp_path, Stacks(), 32, ["2", "3"])
    assert entry.rows == 1
    assert [(row.path, row.reason) for row in entry.quarantined] == [("2", "2 slices where 3 are stored")]


def test_the_format_of_plain_pictures_reads_and_hashes_as_before() -> None:
    assert ImageFormat(size=64, dtype="uint8", fit="pad").model_dump(exclude_defaults=True) == {
        "size": 64,
        "dtype": "uint8",
        "fit": "pad",
    }
    assert ImageFormat.model_validate({"size": 64, "dtype": "uint8", "fit": "pad"}).shape == (64, 64)


def test_the_contact_sheet_shows_the_middle_slice_or_both_of_a_pair() -> None:
    stack = np.stack([np.full((4, 6), number, np.uint8) for number in range(5)])
    assert np.unique(shown(stack)).tolist() == [2]
    assert shown(stack[:2]).shape == (4, 12)
    assert shown(stack[3]).shape == (4, 6)
