"""How MR images differ from scanner to scanner: grey levels, coil, sharpness, noise, field of view. Batched.

Each change is drawn for every image of a batch and made on the batch's device; no loop over images.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from mskray.config import Section, setting

_COIL = 4
"""Sides of the coarse grid that a coil's brightness is interpolated from."""


class MrSection(Section):
    """What varies between scanners. Dark never becomes bright: what is grey keeps its order within an image."""

    gamma: float = setting(0.7, "largest change of the grey levels' curve, as a power of e", ge=0, le=2)
    coil: float = setting(0.5, "largest change of brightness across the image, as a power of e", ge=0, le=2)
    blur: float = setting(0.7, "largest share of each pixel's neighbourhood in it", ge=0, le=1)
    noise: float = setting(0.08, "largest standard deviation of noise, as a share of the range", ge=0, le=1)
    cut: float = setting(
        0.25, "largest share of each side that lies outside the field of view, for half of the images", ge=0, le=0.45
    )


def scanned(images: Tensor, config: MrSection) -> Tensor:
    """Return images (n, slices, rows, columns) in [0, 1] as another scanner would give them, all slices alike."""
    count, device = len(images), images.device
    one = (count, 1, 1, 1)
    images = images.clamp(0, 1) ** torch.exp(_spread(one, config.gamma, device))
    coil = F.interpolate(_spread((count, 1, _COIL, _COIL), config.coil, device), images.shape[-2:], mode="bicubic")
    images = images * torch.exp(coil)
    soft = F.avg_pool2d(images, 3, stride=1, padding=1, count_include_pad=False)
    images = images + (soft - images) * config.blur * torch.rand(one, device=device)
    deviation = config.noise * torch.rand(one, device=device) ** 2  # mostly little
    # Rician: the magnitude of a signal with noise in both of its channels.
    real = images + deviation * torch.randn_like(images)
    return torch.hypot(real, deviation * torch.randn_like(images)).clamp(0, 1)


def fields_of_view(count: int, config: MrSection, size: int, device: torch.device) -> Tensor:
    """Draw (count, 4): x0, y0, x1, y1 in px of what is seen of each image of side `size`."""
    share = config.cut * torch.rand(count, 4, device=device) * (torch.rand(count, 1, device=device) < 0.5)
    ends = torch.tensor([0.0, 0.0, 1.0, 1.0], device=device)
    return (ends + share * torch.tensor([1.0, 1.0, -1.0, -1.0], device=device)) * size


def seen_inside(images: Tensor, views: Tensor) -> Tensor:
    """Return images (n, …, rows, columns) that are black outside their fields of view (n, 4)."""
    rows, columns = (torch.arange(side, device=images.device) + 0.5 for side in images.shape[-2:])
    x0, y0, x1, y1 = (end[:, None] for end in views.unbind(1))
    across, down = (columns >= x0) & (columns <= x1), (rows >= y0) & (rows <= y1)
    return images * (down[:, :, None] & across[:, None, :])[:, None]


def points_inside(points: Tensor, views: Tensor) -> Tensor:
    """Tell which points (n, …, 2), x and y in px, lie inside the fields of view (n, 4)."""
    around = views.view(len(views), *([1] * (points.ndim - 2)), 4)
    return ((points >= around[..., :2]) & (points <= around[..., 2:])).all(dim=-1)


def _spread(shape: tuple[int, ...], largest: float, device: torch.device) -> Tensor:
    return (torch.rand(shape, device=device) * 2 - 1) * largest
