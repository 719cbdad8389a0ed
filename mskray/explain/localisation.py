"""How well a map or box finds what is known to be there: the pointing game and the overlap of boxes.

    truth = stacked_boxes([[(10, 20, 30, 30)], [], [(1, 2, 8, 8), (40, 40, 9, 9)]])
    pointing_hits(peaks(maps), truth), box_iou(boxes, truth)

Boxes are x, y, w, h in pixels; pixel i covers i to i + 1.
"""

from collections.abc import Sequence

import numpy as np

from mskray.imaging.regions import intersection_over_union


def stacked_boxes(boxes: Sequence[Sequence[Sequence[float]]]) -> np.ndarray:
    """Put the boxes of each image side by side: (n, most boxes of an image, 4), NaN where an image has fewer."""
    stacked = np.full((len(boxes), max([len(each) for each in boxes], default=0), 4), np.nan)
    for row, each in zip(stacked, boxes, strict=True):
        if each:
            row[: len(each)] = each
    return stacked


def peaks(maps: np.ndarray) -> np.ndarray:
    """Where each map (n, rows, columns) is largest: (n, 2) x, y of the pixel's middle, NaN for a flat map."""
    flat = maps.reshape(len(maps), -1)
    row, column = np.divmod(flat.argmax(axis=1), maps.shape[2])
    points = np.stack([column, row], axis=1) + 0.5
    return np.where((flat.max(axis=1) > flat.min(axis=1))[:, None], points, np.nan)


def centres(boxes: np.ndarray) -> np.ndarray:
    """The middles (n, 2) of boxes (n, 4): where a box points."""
    return boxes[:, :2] + boxes[:, 2:] / 2


def pointing_hits(points: np.ndarray, truth: np.ndarray, margin: float = 0.0) -> np.ndarray:
    """Whether each point (n, 2) lies in one of its image's true boxes (n, k, 4): (n,) bool.

    Source: the pointing game of Zhang et al. 2016, "Top-down neural attention by excitation backprop", section 4.1.

    Args:
        margin: pixels by which a point may lie outside.
    """
    low, high = truth[..., :2] - margin, truth[..., :2] + truth[..., 2:] + margin
    inside = (points[:, None] >= low) & (points[:, None] <= high)  # false where either is NaN
    return inside.all(axis=2).any(axis=1)


def box_iou(boxes: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Intersection over union of each box (n, 4) with that of its image's true boxes (n, k, 4) which fits it best.

    Returns (n,), 0 where an image has no true box or the box no area.
    """
    shares = intersection_over_union(boxes[:, None], truth)[:, 0]
    return np.nan_to_num(shares).max(axis=1, initial=0.0)
