"""Augmentation of a batch on its device: pose and exposure, as a radiograph could vary by itself.

One affine resampling and one intensity map for the whole batch; no loop over images.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from mskray.training.config import AugmentSection


def augment(images: Tensor, config: AugmentSection) -> Tensor:
    """Return randomly moved and re-exposed copies of `images`.

    Args:
        images: (n, channels, rows, columns) float in [0, 1].
    Returns:
        The same shape, clipped to [0, 1]. Outside the image its border is repeated: black corners, which no image to
        be predicted has, cost 0.07 of κ on knees.
    """
    return exposure(pose(images, config), config)


def pose(images: Tensor, config: AugmentSection) -> Tensor:
    """Mirror, rotate, scale and shift each image by its own amounts."""
    if not (config.flip or config.rotation or config.translation or config.scale or config.crop):
        return images
    return moved(images, poses(len(images), config, images.device))


def poses(count: int, config: AugmentSection, device: torch.device) -> Tensor:
    """Draw a pose for each of `count` images: matrices (count, 2, 3) from the result's coordinates to the image's.

    Coordinates (x, y) run from -1 to 1 between the outer edges.
    """
    angle = _uniform(count, math.radians(config.rotation), device)
    # grid_sample maps output to input: a larger factor shows more of the image, that is, shrinks it.
    factor = 1 + _uniform(count, config.scale, device)
    mirror = torch.where(torch.rand(count, device=device) < config.flip, -1.0, 1.0)
    if config.crop:
        # A share of the area, anywhere inside the image, shown at full size.
        side = (1 - config.crop * torch.rand(count, device=device)).sqrt()
        factor = factor * side
    cosine, sine = torch.cos(angle) * factor, torch.sin(angle) * factor
    # A share of the side is twice as much in coordinates from -1 to 1.
    shift_x = _uniform(count, 2 * config.translation, device)
    shift_y = _uniform(count, 2 * config.translation, device)
    if config.crop:
        shift_x = shift_x + (1 - side) * _uniform(count, 1.0, device)
        shift_y = shift_y + (1 - side) * _uniform(count, 1.0, device)
    return torch.stack(
        [
            torch.stack([cosine * mirror, -sine, shift_x], dim=1),
            torch.stack([sine * mirror, cosine, shift_y], dim=1),
        ],
        dim=1,
    )


def moved(images: Tensor, poses: Tensor, mode: str = "bilinear", outside: str = "border") -> Tensor:
    """Return images (n, channels, rows, columns) in their poses; `mode` and `outside` as grid_sample has them."""
    grid = F.affine_grid(poses.to(images.dtype), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode=mode, padding_mode=outside, align_corners=False)


def moved_boxes(boxes: Tensor, poses: Tensor, size: int) -> Tensor:
    """Return what bounds each box once its square image is in its pose.

    Args:
        boxes: (n, k, 4) x0, y0, x1, y1 in pixels of images of side `size`.
    Returns:
        (n, k, 4), not clipped to the image. A turned box is bounded by a larger one.
    """
    x0, y0, x1, y1 = boxes.unbind(-1)
    corners = torch.stack([torch.stack([x, y], dim=-1) for x in (x0, x1) for y in (y0, y1)], dim=2)
    there = moved_points(corners.flatten(1, 2), poses, size).view_as(corners)
    return torch.cat([there.amin(dim=2), there.amax(dim=2)], dim=-1)


def moved_points(points: Tensor, poses: Tensor, size: int) -> Tensor:
    """Return where points (n, k, 2), x and y in pixels of square images of side `size`, lie once these are posed."""
    # The pose maps the result to the image; points go the other way.
    back = torch.linalg.inv(poses[:, :, :2]).transpose(1, 2)
    there = (points * (2 / size) - 1 - poses[:, None, :, 2]) @ back
    return (there + 1) * (size / 2)


def exposure(images: Tensor, config: AugmentSection) -> Tensor:
    """Change brightness and contrast of each image by its own amounts, around its own mean."""
    if not (config.brightness or config.contrast):
        return images
    shape = (len(images), 1, 1, 1)
    contrast = 1 + _uniform(len(images), config.contrast, images.device).view(shape)
    brightness = _uniform(len(images), config.brightness, images.device).view(shape)
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return ((images - mean) * contrast + mean + brightness).clamp(0, 1)


def _uniform(count: int, largest: float, device: torch.device) -> Tensor:
    return (torch.rand(count, device=device) * 2 - 1) * largest
