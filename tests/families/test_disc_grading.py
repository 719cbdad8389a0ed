"""Where what a grader sees lies in the volume, and what grades no discs."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from block_spine import BlockSpine
from small_run import untrained_bundle
from small_spinenet import fitted, recipe

from mskray.bundles import save_bundle
from mskray.errors import UserError
from mskray.families import Images, load_predictor
from mskray.families.disc_grading import discs_between, load_disc_grader
from mskray.storage import locate


@pytest.mark.parametrize("tilt", [0.0, 20.0])
@pytest.mark.parametrize("columns", [84, 83], ids=["the middle as it is", "made smaller, odd sides"])
@pytest.mark.parametrize("spacing", [(4.0, 0.6, 0.6), (2.0, 0.5, 0.8)])
def test_an_impulse_is_mapped_back_to_its_voxel(
    tmp_path: Path, tilt: float, columns: int, spacing: tuple[float, float, float]
) -> None:
    save_bundle(fitted(recipe(data={"image_size": columns, "slices": 3})), locate(tmp_path / "model"), "f00")
    _, grader = load_disc_grader(str(tmp_path / "model"))
    _, predictor = load_predictor(str(tmp_path / "model"))
    spine = BlockSpine(tilt=tilt, spacing=spacing)
    _, rows, across = spine.shape
    wanted = np.array([spine.middle + 4 / spacing[0], rows / 2 - 8.0, across / 2 + 9.0])
    spot = np.zeros(spine.shape[1:], np.float32)
    spot[int(wanted[1]), int(wanted[2])] = 1
    pixels = spine.volume.pixels.copy()
    pixels[int(wanted[0])] += 3000 * cv2.GaussianBlur(spot, (0, 0), 2.0)
    seen = []
    for each in (spine.volume, replace(spine.volume, pixels=pixels)):
        disc = grader.cut(each, spine.vertebrae["L4"], spine.vertebrae["L5"]).cut
        assert disc is not None
        seen.append(predictor.hotspots(Images([disc.cell]), "side", np.zeros(1), 1)[0][0])
    bright = seen[1] - seen[0]
    assert bright.shape == disc.shape
    bright[bright < 0.02] = 0
    places = np.indices(bright.shape).reshape(3, -1)
    middle = places @ bright.ravel() / bright.sum()
    np.testing.assert_allclose(disc.matrix @ [*middle, 1], wanted, atol=0.15)


def test_discs_are_between_neighbours_from_above() -> None:
    known = dict.fromkeys(("S1", "L5", "L3", "L2", "T12"))
    assert [level for level, _ in discs_between(known)] == ["L2/L3", "L5/S1"]


def test_what_grades_no_discs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a classifier of radiographs: discs are graded by a spinenet"):
        load_disc_grader(untrained_bundle(tmp_path / "other", "mobilenet_v3_small"))
