"""Bodies of a detector against those of a cohort: pixels of either size become millimetres, and figures of these."""

from itertools import product

import numpy as np
import pytest

from mskray.evaluation.vertebrae import vertebra_figures
from mskray.families.vertebra_finding import Spine
from mskray.imaging.spine import FoundVertebra
from mskray.verbs.vertebra_evaluation import compared, spine_result

SPINES = 6  # intervals need several patients
NAMES = [f"{axis}{corner}" for corner, axis in product(range(4), "xy")]


def block(left: float, top: float) -> np.ndarray:
    """Corners of a body of 40 × 24 px of the cell."""
    return np.array([[left, top], [left + 40, top], [left + 40, top + 24], [left, top + 24]])


def columns(spines: list[list[tuple[str, np.ndarray]]], spacing: tuple[float, float], scale: tuple[float, float]):
    """A shard's columns; spacing of a pixel of the volume (column, row) in mm, scale (x, y) of the cell in it."""
    vertebrae = np.empty(len(spines), object)
    vertebrae[:] = [
        [{"level": level, "slice": 4.0, **dict(zip(NAMES, corners.ravel(), strict=True))} for level, corners in bodies]
        for bodies in spines
    ]
    count = len(spines)
    return {
        "image": np.zeros((count, 9, 8, 8), np.uint8),
        "instance_id": np.array([f"i{number}" for number in range(count)]),
        "patient_id": np.array([f"p{number}" for number in range(count)]),
        "vertebrae": vertebrae,
        "row_spacing_mm": np.full(count, spacing[1]),
        "column_spacing_mm": np.full(count, spacing[0]),
        "scale_x": np.full(count, scale[0]),
        "scale_y": np.full(count, scale[1]),
    }


class Saying:
    """Finds what it was told to."""

    def __init__(self, *spines: list[tuple[str, np.ndarray]]) -> None:
        self.spines = [
            Spine(tuple(FoundVertebra(level, 4.0, corners, 0.9) for level, corners in bodies), ()) for bodies in spines
        ]

    def find(self, stacks):
        assert len(stacks) == len(self.spines)
        return self.spines


def test_corners_are_compared_in_millimetres() -> None:
    """Cell pixels are 0.5 mm across (1 mm at twice the size) and 2 mm down (0.5 mm at a quarter)."""
    true = [("L4", block(10, 20)), ("L5", block(12, 60))]
    data = columns([true] * SPINES, spacing=(1.0, 0.5), scale=(2.0, 0.25))
    found = [("L4", block(16, 20)), ("L5", block(12, 61.5))]
    rows = compared(Saying(*[found] * SPINES), data)
    np.testing.assert_allclose(rows[0]["true"][0]["corners"], block(10, 20) * [0.5, 2.0])
    figures = vertebra_figures([spine_result(row) for row in rows], 100).figures
    # Half the corners are 6 px × 0.5 mm off, half 1.5 px × 2 mm.
    assert figures["corner_mm"].value == pytest.approx(3.0)
    assert (figures["found"].value, figures["levels"].value, figures["stray"].value) == (1, 1, 0)


def test_missed_stray_and_misnamed_bodies_count_against_their_spine_alone() -> None:
    true = [("L4", block(10, 20)), ("L5", block(12, 60))]
    misnamed = [("L3", block(10, 20)), ("L4", block(12, 60))]
    missed_and_stray = [("L4", block(10, 20)), ("L3", block(100, 200))]
    data = columns([true] * SPINES, spacing=(1.0, 1.0), scale=(1.0, 1.0))
    rows = compared(Saying(*[true, misnamed, missed_and_stray] * (SPINES // 3)), data)
    figures = vertebra_figures([spine_result(row) for row in rows], 100)
    assert figures.spines == SPINES
    assert figures.figures["found"].value == pytest.approx(5 / 6)
    assert figures.figures["levels"].value == pytest.approx(1 / 3)
    assert figures.figures["stray"].value == pytest.approx(1 / 3)


def test_an_unknown_spacing_is_that_of_pixels() -> None:
    data = columns([[("L5", block(0, 0))]], spacing=(np.nan, np.nan), scale=(1.0, 1.0))
    (row,) = compared(Saying([]), data)
    assert row["true"][0]["corners"] == block(0, 0).tolist()
    assert row["found"] == []
