"""How well a map or box finds what is known to be there: the pointing game and the overlap of boxes.

    truth = stacked_boxes([[(10, 20, 30, 30)], [], [(1, 2, 8, 8), (40, 40, 9, 9)]])
    pointing_hits(peaks(maps), truth), box_iou(boxes, truth)

Boxes are x, y, w, h in pixels; pixel i covers i to i + 1. Volumes are compared with masks voxel by voxel:

    mask_hits(volume_peaks(maps), masks, margin=zhang_margin(224))
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


ZHANG_MARGIN = 15 / 500
"""Zhang et al. allow a point 15 px beside its object in images of 500 px (their section 4.1)."""


def zhang_margin(longer_side: int) -> float:
    """The margin of Zhang et al. in pixels, for images of that longer side."""
    return ZHANG_MARGIN * longer_side


def volume_peaks(maps: np.ndarray) -> np.ndarray:
    """Where each map (n, slices, rows, columns) is largest: (n, 3) slice, row, column; NaN for a flat map."""
    flat = maps.reshape(len(maps), -1)
    points = np.stack(np.unravel_index(flat.argmax(axis=1), maps.shape[1:]), axis=1).astype(np.float64)
    return np.where((flat.max(axis=1) > flat.min(axis=1))[:, None], points, np.nan)


def mask_hits(points: np.ndarray, masks: np.ndarray, margin: float = 0.0, *, any_slice: bool = False) -> np.ndarray:
    """Whether each point (n, 3) of `volume_peaks` lies on its volume's mask: (n,) bool; a NaN point never does.

    Args:
        masks: (n, slices, rows, columns) bool; a volume without a true voxel cannot be hit.
        margin: pixels by which a point may lie beside the mask, within the slice: slices are too far apart.
        any_slice: count the mask of every slice, as if they were laid on one another: is the place in the plane right?
            By default the point's own slice must show it.
    """
    known = np.isfinite(points).all(axis=1)
    at = np.where(known[:, None], points, 0).astype(int)
    truth = masks.any(axis=1) if any_slice else masks[np.arange(len(masks)), at[:, 0]]
    row, column = (np.arange(side) - at[:, axis, None] for axis, side in ((1, masks.shape[2]), (2, masks.shape[3])))
    near = row[:, :, None] ** 2 + column[:, None, :] ** 2 <= margin**2
    return known & (truth & near).any(axis=(1, 2))
