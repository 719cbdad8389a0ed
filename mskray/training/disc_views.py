"""Ways of looking at a stack, batched on its device: SpineNet's augmentation and its 54 test views (section 4).

A view is a cut of the network's input out of the larger context that is stored, turned, shifted and scaled in plane,
from another window of slices and perhaps from the other side. One resampling for the whole batch.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mskray.config import setting
from mskray.models.sampling import warp
from mskray.training.augmentation import exposure
from mskray.training.config import AugmentSection

_PAPER = "SpineNet, section 4"
_COLUMNS = 224
"""Columns of the input that shifts in px are stated for; they are scaled with the input's."""
_TEST_SHIFT = 16

Shape = tuple[int, int, int]


class DiscAugment(AugmentSection):
    """Changes that a disc's stack could show by itself. A radiograph's one slice is neither shifted nor reversed."""

    flip: float = setting(
        0.0, "probability of a left-right mirror; in a disc's slices that is front to back", ge=0, le=1
    )
    rotation: float = setting(15.0, "largest rotation either way", unit="degrees", source=_PAPER, ge=0, le=180)
    translation: float = setting(0.0, "none: shift_x and shift_y say how far", ge=0, le=0)
    shift_x: float = setting(32.0, "largest shift along 224 columns", unit="px", source=_PAPER, ge=0, le=224)
    shift_y: float = setting(24.0, "largest shift along rows, in the same unit", unit="px", source=_PAPER, ge=0, le=224)
    shift_slices: int = setting(2, "largest shift of the window of slices", unit="slices", source=_PAPER, ge=0, le=64)
    slice_flip: float = setting(0.5, "probability of the slices' reversal", source=_PAPER, ge=0, le=1)
    scale: float = setting(0.1, "largest change of size, as a share", source=_PAPER, ge=0, le=0.5)
    crop: float = setting(0.0, "none: every view is of one size", ge=0, le=0)
    brightness: float = setting(0.1, "largest change of intensity, as a share of the range", source=_PAPER, ge=0, le=1)
    contrast: float = setting(0.0, "largest change of contrast, as a share", ge=0, le=1)


@dataclass(frozen=True)
class Views:
    """How each of n inputs is cut out of its context.

    Args:
        matrix: (n, 2, 3) from the input's coordinates to the context's, as `warp` has them.
        slices: (n, slices) indices of the context's.
    """

    matrix: Tensor
    slices: Tensor


def augment(images: Tensor, shape: Shape, config: DiscAugment) -> Tensor:
    """Return randomly moved inputs (n, *shape) of contexts (n, slices, rows, columns) in [0, 1], re-exposed."""
    return exposure(look(images, random_views(images, shape, config), shape), config)


def look(images: Tensor, views: Views, shape: Shape) -> Tensor:
    """Cut inputs (n, *shape) out of contexts (n, slices, rows, columns); what lies outside repeats the border."""
    window = images[torch.arange(len(images), device=images.device)[:, None], views.slices]
    return warp(window, views.matrix, shape[1], shape[2], "border")


def random_views(images: Tensor, shape: Shape, config: DiscAugment) -> Views:
    """Draw a view of each context."""
    count, device = len(images), images.device
    # A pixel of the input shows a larger piece of the context where the factor is above 1: it looks smaller.
    factor = 1 + _uniform(count, config.scale, device)
    angle = _uniform(count, math.radians(config.rotation), device)
    mirror = torch.where(torch.rand(count, device=device) < config.flip, -1.0, 1.0)
    unit = shape[2] / _COLUMNS
    shift = torch.stack([_uniform(count, each * unit, device) for each in (config.shift_x, config.shift_y)], dim=1)
    cosine, sine = torch.cos(angle) * factor, torch.sin(angle) * factor
    turn = torch.stack([cosine * mirror, -sine, sine * mirror, cosine], dim=1).view(-1, 2, 2)
    reach = window_reach(images.shape[1], shape[0], config.shift_slices)
    slices = torch.randint(-reach, reach + 1, (count,), device=device)
    flipped = torch.rand(count, device=device) < config.slice_flip
    return Views(matrices(turn, shift, images.shape, shape), windows(slices, flipped, images.shape[1], shape[0]))


def views_of_test(images: Tensor, shape: Shape, both_orders: bool = True) -> Iterator[Views]:
    """Yield the views that a prediction is the mean of, for a batch of contexts (n, slices, rows, columns).

    Nine places, the middle and eight 16 px from it (of 224 columns); each with the slices in both orders; each with the
    window of slices in the middle and one to either side: 54, the middle one first. Stacks without slices beside the
    input's have no other window, and a single slice has no order.

    Args:
        both_orders: whether the slices' reverse is a view, which it is not to a network that never saw one.
    """
    step = round(_TEST_SHIFT * shape[2] / _COLUMNS)
    reach = window_reach(images.shape[1], shape[0], 1)
    orders = (False, True) if both_orders and shape[0] > 1 else (False,)
    places = itertools.product((0, -step, step), repeat=2)
    offsets = (0, *(each for each in (-1, 1) if reach))
    turn = torch.eye(2, device=images.device).expand(len(images), 2, 2)
    for place, flipped, offset in itertools.product(places, orders, offsets):
        shift = torch.tensor(place, device=images.device, dtype=turn.dtype).expand(len(images), 2)
        start = torch.full((len(images),), offset, device=images.device)
        order = torch.full((len(images),), flipped, device=images.device)
        yield Views(matrices(turn, shift, images.shape, shape), windows(start, order, images.shape[1], shape[0]))


def window_reach(stored: int, wanted: int, most: int) -> int:
    """How far the window of `wanted` of `stored` slices can move both ways, `most` at most."""
    first = (stored - wanted) // 2
    return min(most, first, stored - wanted - first)


def windows(shift: Tensor, flipped: Tensor, stored: int, wanted: int) -> Tensor:
    """Indices (n, wanted) of the slices in the middle of `stored`, shifted by (n,) and in reverse where `flipped`."""
    window = torch.arange(wanted, device=shift.device).expand(len(shift), -1)
    window = torch.where(flipped[:, None], window.flip(1), window)
    return window + (stored - wanted) // 2 + shift[:, None]


def matrices(turn: Tensor, shift: Tensor, context: Sequence[int], shape: Shape) -> Tensor:
    """Turn pixels into the coordinates of `warp`, -1 to 1 over each picture.

    Args:
        turn: (n, 2, 2), shift: (n, 2), both x and y: pixel p of the input, counted from its middle, shows pixel
            turn · p + shift of the context, counted from the middle of what `StackInput.middle` takes.
        context: shape of the contexts (n, slices, rows, columns).
    """
    halves = torch.tensor([[shape[2], shape[1]], [context[3], context[2]]], device=turn.device, dtype=turn.dtype) / 2
    # An odd difference puts the middle of what `StackInput.middle` takes half a pixel before the context's.
    odd = torch.tensor([(context[3] - shape[2]) % 2, (context[2] - shape[1]) % 2], device=turn.device) / 2
    whole = torch.cat([turn * halves[0], (shift - odd).unsqueeze(2)], dim=2)
    return whole / halves[1][:, None]


def _uniform(count: int, largest: float, device: torch.device) -> Tensor:
    return (torch.rand(count, device=device) * 2 - 1) * largest
