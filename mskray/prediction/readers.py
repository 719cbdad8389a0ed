"""Rows for a predictor, from a cohort's shards or from files: identity, and pixels as bytes with their shape.

Pixels travel as bytes because files differ in size. These functions run in Ray Data tasks, without torch. A store that
cannot be read is a UserError; a file that cannot is a row with its error.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from mskray.cohorts import Cohort
from mskray.cohorts.schema import MISSING
from mskray.cohorts.unreadable import unreadable
from mskray.errors import UserError
from mskray.imaging.decode import DecodeError, DecodeLimits, decode
from mskray.storage import Location, locate

IDENTITY = ("instance_id", "study_id", "patient_id", "body_part", "view_index")
PIXELS = ("pixels", "shape", "dtype")

Reader = Callable[[Any], Any]
"""A function for `map_batches`: a batch of items as arrays in, an Arrow table out."""


def cohort_reader(cohort: Cohort, label_column: str | None) -> Reader:
    """Return a function from one `split` and `shard` number to the shard's rows, with `label` (null where missing).

    Args:
        label_column: None where the cohort has none; every label is then null.
    """
    wanted = ["image", *IDENTITY] if label_column is None else ["image", label_column, *IDENTITY]
    shards = {split: cohort.shards(split) for split in cohort.splits}

    def read(items: dict[str, np.ndarray]) -> pa.Table:
        split = str(items["split"][0])
        shard = shards[split][int(items["shard"][0])]
        data = cohort.read_shard(shard, wanted)
        labels = np.full(shard.rows, MISSING) if label_column is None else data[label_column]
        return pa.table(
            {
                **{name: pa.array(data[name].tolist()) for name in IDENTITY},
                "split": pa.array([split] * shard.rows, pa.string()),
                "label": pa.array(labels.astype(np.int32), pa.int32(), mask=labels < 0),
                "error": pa.nulls(len(labels), pa.string()),
                **_pixel_columns(list(data["image"])),
            }
        )

    return read


def file_reader(root: Location) -> Reader:
    """Return a function from `path`s below `root` to one row each, with `error` where a file is not readable.

    It raises UserError where the store is at fault.
    """

    def read(items: dict[str, np.ndarray]) -> pa.Table:
        paths = [str(path) for path in items["path"]]
        decoded = [read_radiograph(root, path) for path in paths]
        return pa.table(
            {
                "path": pa.array(paths, pa.string()),
                "body_part": pa.array([part for _, part, _ in decoded], pa.string()),
                "error": pa.array([error for _, _, error in decoded], pa.string()),
                **_pixel_columns([pixels for pixels, _, _ in decoded]),
            }
        )

    return read


def list_files(place: Location) -> tuple[Location, list[str]]:
    """Return a folder or prefix with the paths of all files below it; a single file counts as a folder of one.

    Raises:
        UserError: there is no file.
    """
    if place.is_file():
        return locate(place.uri.rpartition("/")[0]), [place.name]
    paths = [entry.path for entry in place.walk()]
    if not paths:
        raise UserError(f"{place} holds no files: give an image, a folder or prefix of images, or a cohort")
    return place, paths


def pixel_arrays(rows: pa.Table) -> Iterator[np.ndarray]:
    """Yield the array of each row that has pixels: a read-only view of the table's bytes.

    Pictures are (rows, columns), stacks (slices, rows, columns).
    """
    dtypes, shapes = rows["dtype"].to_pylist(), rows["shape"].to_pylist()
    for pixels, dtype, shape in zip(rows["pixels"], dtypes, shapes, strict=True):
        if pixels.is_valid:
            yield np.frombuffer(pixels.as_buffer(), dtype).reshape(shape)


def _pixel_columns(images: list[np.ndarray | None]) -> dict[str, Any]:
    return {
        "pixels": pa.array([None if each is None else each.tobytes() for each in images], pa.large_binary()),
        "shape": pa.array([None if each is None else each.shape for each in images], pa.list_(pa.int32())),
        "dtype": pa.array(["" if each is None else each.dtype.name for each in images], pa.string()),
    }


def read_radiograph(root: Location, path: str) -> tuple[np.ndarray | None, str, str | None]:
    """Read one file below `root`: its pixels (rows, columns) or None, its body part or "", why it is not readable.

    Raises:
        UserError: the store is at fault.
    """
    place, limits = root.join(path), DecodeLimits()
    try:
        image = decode(place.read_bytes(limits.max_bytes), limits)
    except DecodeError as error:
        return None, "", str(error)
    except UserError as error:
        return None, "", f"cannot be read: {unreadable(error, place, root).reason}"
    if image.pixels.ndim != 2:
        return None, "", f"{image.pixels.shape[0]} frames where a radiograph has one"
    return image.pixels, str(image.metadata.get("body_part") or "").upper(), None
