"""Crops by coordinates and means over areas, exact whatever precision the network around them runs at.

Coordinates are those of `grid_sample`: an image reaches from -1 to 1 along x (columns) and y (rows).
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F


def sample(images: Tensor, box: Tensor, size: int) -> Tensor:
    """Cut the box out of each image and bring it to size × size by bilinear sampling (KALM eq. 8 and 9).

    Args:
        images: (n, channels, rows, columns).
        box: (n, 4) x, y of the centre in [-1, 1], w, h as shares of the image. What of a box lies outside its image
            is zero. Gradients reach all four, and the images.
    Returns:
        (n, channels, size, size), as `warp`.
    """
    x, y, w, h = box.unbind(dim=1)
    zero = torch.zeros_like(x)
    matrix = torch.stack([torch.stack([w, zero, x], dim=1), torch.stack([zero, h, y], dim=1)], dim=1)
    return warp(images, matrix, size, size, "zeros")


def warp(images: Tensor, matrix: Tensor, rows: int, columns: int, outside: Literal["zeros", "border"]) -> Tensor:
    """Sample images (n, channels, …) where matrices (n, 2, 3) from the result's coordinates to theirs point.

    Never under autocast: the grid is a matrix product, and with bfloat16's 8 bits a place in 448 px would be rounded
    to whole pixels, so that neighbours fall together.

    Returns:
        (n, channels, rows, columns) float32, or float64 where the images are.
    """
    exact = torch.promote_types(images.dtype, torch.float32)
    with torch.autocast(images.device.type, enabled=False):
        grid = F.affine_grid(matrix.to(exact), [len(images), images.shape[1], rows, columns], align_corners=False)
        return F.grid_sample(images.to(exact), grid, mode="bilinear", padding_mode=outside, align_corners=False)


def shrink(images: Tensor, size: int) -> Tensor:
    """Bring images (n, channels, rows, columns) to size × size by the mean over the area under each new pixel.

    Pixels that two areas share count by their shares, as when a cohort's canvas becomes a network's input
    (`mskray.imaging.regions.fit_to_canvas`), but for its rounding to whole grey levels.
    """
    rows, columns = images.shape[-2:]
    if rows == columns == size:
        return images
    exact = torch.promote_types(images.dtype, torch.float32)
    with torch.autocast(images.device.type, enabled=False):
        down, across = (area_weights(side, size).to(images.device, exact) for side in (rows, columns))
        return down @ images.to(exact) @ across.T


def area_weights(before: int, after: int) -> Tensor:
    """Return (after, before) float64: which share of each of `after` equal areas each of `before` pixels has."""
    # In units of 1 / (before · after) of the side, where all borders are whole numbers.
    area, pixel = torch.arange(after).unsqueeze(1) * before, torch.arange(before) * after
    overlap = torch.minimum(area + before, pixel + after) - torch.maximum(area, pixel)
    return overlap.clamp(min=0).double() / before
