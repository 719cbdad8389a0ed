"""Volumes as cohorts of spines store them: slices, proportions, grey levels, and corners there and back."""

import numpy as np
import pytest

from mskray.imaging.spine import FoundVertebra
from mskray.imaging.spine_cell import middles_beside, spine_cell
from mskray.imaging.volumes.volume import Volume


def volume(shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> Volume:
    """Each slice is as grey as its number says."""
    pixels = np.broadcast_to(np.arange(shape[0], dtype=np.float32)[:, None, None] + 1, shape)
    return Volume(pixels, spacing, np.eye(4))


@pytest.mark.parametrize(
    ("slices", "apart", "shown"),
    [
        (9, 4.0, list(range(9))),
        (15, 4.0, list(range(3, 12))),
        (12, 4.4, list(range(1, 10))),
        (5, 4.0, [None, None, 0, 1, 2, 3, 4, None, None]),
        (1, 4.0, [None] * 4 + [0] + [None] * 4),
        (41, 1.0, list(range(4, 40, 4))),  # thin slices: each fourth
    ],
)
def test_the_middle_slices_are_taken_and_others_are_black(slices: int, apart: float, shown: list) -> None:
    made = volume((slices, 20, 20), (apart, 1.0, 1.0))
    made = Volume(np.where(np.arange(20) < 10, made.pixels, 0), made.spacing_mm, made.affine)
    cell = spine_cell(made, size=20)
    assert cell.pixels.shape == (9, 20, 20)
    grey = cell.pixels[:, 0, 0].astype(float)
    assert [each > 0 for each in grey] == [each is not None for each in shown]
    there = [each for each in shown if each is not None]
    numbers = [round(cell.first + cell.step * place) for place, each in enumerate(shown) if each is not None]
    assert numbers == there
    assert (np.diff(grey[grey > 0]) >= 0).all()


@pytest.mark.parametrize(
    ("slices", "apart", "middles"),
    [(1, 4.0, [0]), (15, 4.0, [7, 2, 12]), (12, 4.0, [5, 0, 10]), (41, 2.0, [20, 10, 30, 0, 40]), (9, 4.0, [4])],
)
def test_cells_beside_the_middle_are_inside_the_volume(slices: int, apart: float, middles: list[int]) -> None:
    made = volume((slices, 20, 20), (apart, 1.0, 1.0))
    cells = [spine_cell(made, size=20, beside=beside) for beside in middles_beside(made, 5)]
    assert [round(cell.first + cell.step * 4) for cell in cells] == middles


def test_pixels_become_isotropic_and_corners_find_their_way_back() -> None:
    given = volume((9, 40, 100), (4.0, 2.0, 1.0))  # 80 × 100 mm
    cell = spine_cell(given, size=50)
    assert cell.placement.scale_y == pytest.approx(1.0)
    assert cell.placement.scale_x == pytest.approx(0.5)
    corners = np.array([[10.0, 5.0], [40.0, 5.0], [40.0, 25.0], [10.0, 25.0]])
    body = FoundVertebra("L3", 4.5, corners, 0.9)
    there = cell.to_cell(body)
    np.testing.assert_allclose(there.corners[0], [5, 10])  # 5 rows below the upper border of 5 px
    back = cell.to_volume(there)
    np.testing.assert_allclose(back.corners, corners)
    assert (back.level, back.slice, back.score) == ("L3", 4.5, 0.9)


def test_grey_levels_are_stretched_between_percentiles() -> None:
    pixels = np.zeros((9, 32, 32), np.float32)
    pixels[:, :16] = 1000
    pixels[4, 0, 0] = 1e6  # one pixel of 9,216 sets no scale
    cell = spine_cell(Volume(pixels, (4.0, 1.0, 1.0), np.eye(4)), size=32)
    assert cell.pixels[0, 0, 5] == 255
    assert cell.pixels[0, 20, 5] == 0
    flat = spine_cell(Volume(np.full((9, 8, 8), 7.0, np.float32), (4.0, 1.0, 1.0), np.eye(4)), size=32)
    assert not flat.pixels.any()
