"""Spines become samples: which bodies count, where their corners are, what is shown of each fourth."""

import numpy as np
import pytest

from mskray.cohorts.schema import CORNERS
from mskray.imaging.inputs import InputFormat
from mskray.imaging.spine import LEVELS
from mskray.training.spine_samples import BODY, MOST, NONE, PART, SACRUM, SLICES, SpineSamples


def spine_row(size: int = 128, shift: float = 0.0) -> list[dict]:
    """T12 to S1 of 14 × 12 px, 17 px apart, from the row 4 + `shift` on; the middle of each in slice 4.5."""
    bodies = []
    for number, level in enumerate(LEVELS):
        left, top = 50.0, 4.0 + shift + 17 * number
        ends = [left, top, left + 14, top, left + 14, top + 12, left, top + 12]
        bodies.append({"level": level, "slice": 4.5, **dict(zip(CORNERS, ends, strict=True))})
    return bodies


def spine_rows(count: int, size: int = 128) -> dict[str, np.ndarray]:
    vertebrae = np.empty(count, object)
    vertebrae[:] = [spine_row(size) for _ in range(count)]
    images = np.full((count, 9, size, size), 50, np.uint8)
    images += np.arange(9, dtype=np.uint8)[:, None, None]
    return {"image": images, "vertebrae": vertebrae}


@pytest.mark.parametrize("input_size", [128, 64])
def test_samples_hold_the_middle_slices_and_corners_of_the_input(input_size: int) -> None:
    samples, rows = SpineSamples(128), spine_rows(4)
    made = samples.load(rows, InputFormat(input_size))
    assert made["image"].shape == (4, SLICES, input_size, input_size)
    assert made["image"][0, :, 5, 5].tolist() == [52, 53, 54, 55, 56]
    assert made["kinds"][0].tolist() == [BODY] * 6 + [SACRUM]
    np.testing.assert_allclose(made["corners"][0, 1, 0], np.array([50, 21]) * input_size / 128)
    np.testing.assert_allclose(made["slices"][0], 0.5)
    assert made["label"].tolist() == samples.labels({"vertebrae": rows["vertebrae"]}).tolist() == [7, 5, 7, 7]


def test_each_fourth_spine_is_shown_from_l1_to_l5() -> None:
    made = SpineSamples(128).load(spine_rows(6), InputFormat(128))
    assert made["label"].tolist() == [7, 5, 7, 7, 7, 5]
    assert made["kinds"][1].tolist() == [NONE, *[BODY] * 5, NONE]
    shown = np.flatnonzero(made["image"][1, 0, :, 0])
    assert (shown[0], shown[-1]) == (20, 4 + 17 * 5 + 12)
    assert made["image"][0].all()


def test_bodies_that_the_canvas_cuts_are_in_view_in_part() -> None:
    rows = spine_rows(1)
    rows["vertebrae"][0] = spine_row(shift=-10.0)
    made = SpineSamples(128).load(rows, InputFormat(128))
    assert made["kinds"][0].tolist() == [PART, *[BODY] * 5, SACRUM]
    assert made["label"].tolist() == [6]
    rows["vertebrae"][0] = []
    empty = SpineSamples(128).load(rows, InputFormat(128))
    assert empty["kinds"].shape == (1, MOST)
    assert not empty["kinds"].any()
    assert empty["label"].tolist() == [0]
