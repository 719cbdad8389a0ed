"""Drawn bodies are where they were found, whatever the pixels' proportions."""

import numpy as np
import pytest

from mskray.imaging.spine import FoundVertebra
from mskray.imaging.spine_overlay import draw_spine

CORNERS = np.array([[10.0, 20.0], [30.0, 20.0], [30.0, 35.0], [10.0, 35.0]])


@pytest.mark.parametrize(("spacing", "shape"), [((1.0, 1.0), (512, 512)), ((2.0, 1.0), (512, 256))])
def test_outlines_follow_the_corners(spacing: tuple[float, float], shape: tuple[int, int]) -> None:
    body = FoundVertebra("L5", 4.0, CORNERS, 0.87)
    picture = draw_spine(np.full((64, 64), 40, np.uint8), spacing, [body])
    assert picture.shape == (*shape, 3)
    coloured = (picture.max(axis=2) > 200).nonzero()
    down, across = shape[0] / 64, shape[1] / 64
    left = coloured[1].min()
    assert left == pytest.approx(10 * across, abs=2)
    assert coloured[0].min() == pytest.approx(20 * down, abs=2)
    assert coloured[0].max() == pytest.approx(35 * down, abs=2)
    # Its name and score stand at its right.
    assert coloured[1].max() > 31 * across + 10


def test_notes_are_lines_below_the_picture() -> None:
    plain = draw_spine(np.zeros((64, 64), np.uint8), (1.0, 1.0), [])
    noted = draw_spine(np.zeros((64, 64), np.uint8), (1.0, 1.0), [], ["a.nii.gz", "no vertebral body was found"])
    assert len(noted) == len(plain) + 2 * 22
    assert not plain.any()
    assert noted[len(plain) :].max() > 200
