"""The pointing game and the overlap of boxes, by hand."""

import numpy as np
import pytest

from mskray.explain.localisation import box_iou, centres, peaks, pointing_hits, stacked_boxes


def test_boxes_are_stacked_image_by_image() -> None:
    stacked = stacked_boxes([[(1, 2, 3, 4)], [], [(5, 6, 7, 8), (9, 10, 11, 12)]])
    assert stacked.shape == (3, 2, 4)
    assert stacked[2].tolist() == [[5, 6, 7, 8], [9, 10, 11, 12]]
    assert np.isnan(stacked[[0, 1, 1], [1, 0, 1]]).all()
    assert stacked_boxes([[], []]).shape == (2, 0, 4)


def test_a_peak_is_the_middle_of_its_pixel() -> None:
    maps = np.zeros((3, 4, 6))
    maps[0, 2, 5] = maps[1, 0, 0] = 1
    points = peaks(maps)
    assert points[:2].tolist() == [[5.5, 2.5], [0.5, 0.5]]
    assert np.isnan(points[2]).all()


@pytest.mark.parametrize(
    ("point", "margin", "hit"),
    [
        ((10.5, 20.5), 0, True),
        ((9.5, 20.5), 0, False),
        ((9.5, 20.5), 1, True),
        ((40.5, 50.5), 0, False),
        ((101, 101), 0, True),
        ((np.nan, np.nan), 99, False),
    ],
)
def test_pointing_hits_any_true_box_of_its_image(point: tuple[float, float], margin: float, hit: bool) -> None:
    truth = stacked_boxes([[(10, 20, 30, 30), (100, 100, 2, 2)], [], [(0, 0, 200, 200)]])
    assert pointing_hits(np.array([point] * 3), truth, margin).tolist() == [hit, False, not np.isnan(point[0])]


@pytest.mark.parametrize(
    ("box", "iou"),
    [
        ((0, 0, 10, 10), 1.0),
        ((5, 0, 10, 10), 50 / 150),
        ((2, 2, 5, 5), 25 / 100),
        ((10, 0, 10, 10), 0.0),
        ((50, 50, 4, 8), 0.5),  # the second true box
        ((5, 5, 0, 0), 0.0),
    ],
)
def test_overlap_with_the_true_box_that_fits_best(box: tuple[int, ...], iou: float) -> None:
    truth = stacked_boxes([[(0, 0, 10, 10), (50, 50, 4, 4)], []])
    np.testing.assert_allclose(box_iou(np.array([box, box], float), truth), [iou, 0])
    assert box_iou(np.array([box], float), stacked_boxes([[]])).tolist() == [0]


def test_centres() -> None:
    assert centres(np.array([[2.0, 4, 6, 10]])).tolist() == [[5, 9]]
