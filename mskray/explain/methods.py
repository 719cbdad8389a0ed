"""The methods by name, and their maps in one form, so that they can be drawn, boxed and compared alike.

    maps = evidence("grad_cam", network, images, target)
    boxes = to_boxes(maps)

A map's value is a share of its own largest: it tells where in an image, and nothing of one image against another.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from mskray.errors import UserError, did_you_mean
from mskray.explain.grad_cam import grad_cam
from mskray.explain.guided import guided_backprop
from mskray.explain.saliency import saliency
from mskray.models.backbones import Backbone

Method = Callable[[Backbone, Tensor, Tensor | None], Tensor]
"""(network, images (n, 1, rows, columns), target (n,) or None) → (n, rows, columns)."""

METHODS: dict[str, Method] = {"grad_cam": grad_cam, "guided_backprop": guided_backprop, "saliency": saliency}

SMOOTHING = 0.02
"""Standard deviation of the smoothing as a share of the side: gradients of neighbouring pixels differ by chance."""
BOX_SHARE = 0.5
"""A box holds what reaches this share of the map's peak."""


def check_methods(names: Sequence[str], known: Iterable[str] = METHODS) -> None:
    """Raise UserError for a name that is not a method's."""
    known = list(known)
    for name in names:
        if name not in known:
            raise UserError(f"unknown method {name!r}: {did_you_mean(name, known)}known are {', '.join(known)}")


def evidence(
    name: str, network: Backbone, images: Tensor, target: Tensor | None = None, size: int | None = None
) -> np.ndarray:
    """Return where a method sees reasons for the class, (n, size, size) float32 in [0, 1].

    The method's map without sign, brought to `size`, smoothed, divided by its largest value.

    Args:
        images: (n, 1, rows, columns) in [0, 1].
        size: side of the result in pixels; the images' own rows and columns when None.
    Raises:
        UserError: no such method, or one that this network does not allow.
    """
    check_methods([name])
    maps = METHODS[name](network, images, target).detach().abs()
    if size is not None and maps.shape[1:] != (size, size):
        maps = F.interpolate(maps.unsqueeze(1), size=(size, size), mode="bilinear", antialias=True).squeeze(1)
    return normalised(smoothed(maps.float().cpu().numpy()))


def smoothed(maps: np.ndarray) -> np.ndarray:
    """Smooth maps (n, rows, columns) by a Gaussian of `SMOOTHING` × the longer side."""
    sigma = SMOOTHING * max(maps.shape[1:])
    return ndimage.gaussian_filter(maps, (0, sigma, sigma), mode="nearest")


def normalised(maps: np.ndarray) -> np.ndarray:
    """Divide each map (n, rows, columns), 0 or more, by its largest value; a map without any stays 0."""
    largest = maps.max(axis=(1, 2), keepdims=True)
    return np.divide(maps, largest, out=np.zeros_like(maps), where=largest > 0)


def to_boxes(maps: np.ndarray, share: float = BOX_SHARE) -> np.ndarray:
    """Box the area around each map's peak: (n, 4) float32 x, y, w, h in the map's pixels.

    The area is what reaches `share` of the peak and is connected to it, by sides or corners; the box is its bounds. A
    map that is 0 everywhere has the box 0, 0, 0, 0.

    Args:
        maps: (n, rows, columns), 0 or more.
    """
    count, rows, columns = maps.shape
    peak = maps.max(axis=(1, 2), keepdims=True)
    # One call for all maps: neighbours along the first axis are other images and never connected.
    connected = np.zeros((3, 3, 3), bool)
    connected[1] = True
    areas, _ = ndimage.label((maps >= share * peak) & (peak > 0), connected)
    at_peak = areas.reshape(count, -1)[np.arange(count), maps.reshape(count, -1).argmax(axis=1)]
    chosen = (areas == at_peak[:, None, None]) & (at_peak > 0)[:, None, None]
    across, down = chosen.any(axis=1), chosen.any(axis=2)
    left, top = across.argmax(axis=1), down.argmax(axis=1)
    right, bottom = columns - across[:, ::-1].argmax(axis=1), rows - down[:, ::-1].argmax(axis=1)
    boxes = np.stack([left, top, right - left, bottom - top], axis=1)
    return np.where(across.any(axis=1)[:, None], boxes, 0).astype(np.float32)
