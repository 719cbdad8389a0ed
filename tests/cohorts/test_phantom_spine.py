"""The source `phantom-spine`: volumes as cells of nine slices, with the corners of their bodies in the same pixels."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from mskray.cohorts.plan import ShardPlan
from mskray.cohorts.schema import CORNERS, pixels, shard_schema
from mskray.cohorts.shards import ShardJob, write_shard
from mskray.cohorts.sources import get_source
from mskray.imaging.phantoms.spine import SpineSpec, spine
from mskray.imaging.spine import LEVELS
from mskray.imaging.spine_cell import spine_cell
from mskray.storage import locate


@pytest.mark.parametrize("size", [256, 128])
def test_a_shard_holds_volumes_and_corners(tmp_path: Path, size: int) -> None:
    source = get_source("phantom-spine")
    options = source.Options.model_validate({"patients": 2, "seed": 4})
    image = source.format(size, "uint8", "pad", options)
    assert image.shape == (9, size, size)
    items = list(source.items(None, options))
    assert len({item.patient_id for item in items}) == len(items) == 2
    names = ("path", "instance_id", "study_id", "patient_id", "body_part", "view", "view_index", "laterality", "row")
    rows = [{name: getattr(item, name) for name in names} for item in items]
    entry = write_shard(
        ShardJob(source, options, None, locate(tmp_path).uri, image, source.tasks(None, options)),
        ShardPlan("train", 0, "0" * 16, 0, 2),
        rows,
    )
    assert entry.shard is not None
    assert not entry.quarantined
    table = pq.read_table(tmp_path / entry.shard.path, partitioning=None)
    found = pixels(table["image"], shard_schema(image, (), False, True).field("image"))
    assert found.shape == (2, 9, size, size)
    assert found[:, 4].max() == 255
    for index, row in enumerate(table.to_pylist()):
        phantom = spine(SpineSpec(2, 4), index)
        # The cell is what a detector of this size makes of the volume, not a cell of another size resized.
        np.testing.assert_array_equal(found[index], spine_cell(phantom.volume, size).pixels)
        assert [body["level"] for body in row["vertebrae"]] == list(LEVELS)
        across, down = row["column_spacing_mm"] / row["scale_x"], row["row_spacing_mm"] / row["scale_y"]
        for stored, body in zip(row["vertebrae"], phantom.vertebrae, strict=True):
            corners = np.array([stored[name] for name in CORNERS]).reshape(4, 2)
            assert (corners > 0).all()
            assert (corners < size).all()
            assert -0.5 <= stored["slice"] <= 8.5
            sides = np.diff(corners, axis=0) * (across, down)
            np.testing.assert_allclose(sides, np.diff(body.corners, axis=0) * phantom.volume.spacing_mm[1], atol=0.02)
            # Marrow lies between the corners, brighter than the air around the patient and not saturated.
            x, y = np.rint(corners.mean(axis=0)).astype(int)
            assert 0 < found[index, round(stored["slice"]), y - 2 : y + 3, x - 2 : x + 3].mean() < 250
