"""The loss of a network that finds bodies as centres with corners: "Objects as Points" (arXiv:1904.07850).

Where a body's centre is known, maps are wanted that have a peak there, and around it arrows to its corners. Of what is
not known nothing is learned: near a body that is in view in part, and above T12, finding one is as right as not.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mskray.models.vertebrae import KINDS, STRIDE, Maps, places
from mskray.training.spine_samples import BODY, NONE, PART

_ALPHA, _BETA = 2, 4  # equation 1
_PEAK = 1 / 6  # standard deviation of a peak, as a share of the body's height
_VOTERS = 1 / 4  # and of the weights of places whose arrows count
_LEAST_WEIGHT = 0.2
_CLEAR = 0.05  # least height of a bump that is near its body
_CORNERS, _SLICES = 1.0, 0.1  # weights of the parts of the loss; the paper's for sizes is 0.1 a pixel
_UNIT = 8.0  # px


class Targets(NamedTuple):
    """What `Maps` should be.

    Args:
        centres: (n, kinds, h, w) 1 at a centre and falling around it.
        counted: (n, 1, h, w) 0 around bodies that are in view in part, and above the highest body.
        owner: (n, h, w) number of the nearest body.
        votes: (n, h, w) weight of the place's arrows, 0 away from bodies.
    """

    centres: Tensor
    counted: Tensor
    owner: Tensor
    votes: Tensor


def centre_targets(corners: Tensor, kinds: Tensor, rows: int, columns: int) -> Targets:
    """Make the targets of bodies on maps of rows × columns places.

    Args:
        corners: (n, k, 4, 2) px of the input; kinds: (n, k).
    """
    middle = corners.mean(dim=2)
    height = heights(corners)
    at = places(rows, columns, corners.device)
    # The peak is 1 at the place in which the centre lies, as in the paper: a positive of the focal loss.
    cell = torch.stack([middle[..., 0], middle[..., 1]], dim=-1).div(STRIDE).floor().add(0.5).mul(STRIDE)
    near = _bumps(cell, height * _PEAK, at)  # (n, k, rows, columns)
    wanted = [near * (kinds == BODY + kind)[..., None, None] for kind in KINDS]
    part = near * (kinds == PART)[..., None, None]
    weight = _bumps(middle, height * _VOTERS, at) * ((kinds != NONE) & (kinds != PART))[..., None, None]
    votes, owner = weight.max(dim=1)
    centres = torch.stack([each.amax(dim=1) for each in wanted], dim=1)
    known = (part.amax(dim=1) < _CLEAR) & ~_above_all(corners, kinds, at)
    counted = (known | (centres.amax(dim=1) > 0.5))[:, None].float()
    return Targets(centres, counted, owner, votes * (votes > _LEAST_WEIGHT))


def centre_loss(maps: Maps, corners: Tensor, kinds: Tensor, slices: Tensor, sliced: Tensor) -> Tensor:
    """Focal loss of the centres, plus L1 of corners and of the slice, over a batch.

    Args:
        corners: (n, k, 4, 2) px of the input; kinds, slices: (n, k), slices from the input's middle one.
        sliced: (n,) whether the input's slices differ, so that one may know where the body's own is.
    """
    rows, columns = maps.slices.shape[-2:]
    target = centre_targets(corners, kinds, rows, columns)
    bodies = (target.centres == 1).sum().clamp(min=1)
    focal = focal_loss(maps.centres, target.centres, target.counted) / bodies
    total = target.votes.sum().clamp(min=1)
    row = torch.arange(len(corners), device=corners.device)[:, None, None]
    at = places(rows, columns, corners.device)
    arrows = corners[row, target.owner] - at[None, :, :, None]  # (n, h, w, 4, 2)
    missed = (maps.corners.permute(0, 3, 4, 1, 2) - arrows).abs().mean(dim=(3, 4))
    away = (maps.slices - slices[row, target.owner]).abs() * sliced[:, None, None]
    return focal + ((_CORNERS / _UNIT * missed + _SLICES * away) * target.votes).sum() / total


def focal_loss(logits: Tensor, wanted: Tensor, counted: Tensor) -> Tensor:
    """Sum of equation 1 over all places: positives are where `wanted` is 1; near them, errors cost less."""
    found, missed = F.logsigmoid(logits), F.logsigmoid(-logits)
    probability = torch.sigmoid(logits)
    positive = (1 - probability) ** _ALPHA * found
    negative = (1 - wanted) ** _BETA * probability**_ALPHA * missed
    return -(counted * torch.where(wanted == 1, positive, negative)).sum()


def heights(corners: Tensor) -> Tensor:
    """Return the heights of bodies (…, 4, 2): the mean of their anterior and posterior edges."""
    upper, lower = corners[..., :2, :], corners[..., [3, 2], :]
    return (lower - upper).norm(dim=-1).mean(dim=-1)


def _above_all(corners: Tensor, kinds: Tensor, at: Tensor) -> Tensor:
    """Tell which places (n, h, w) lie above the upper edge of the highest body, where no body is named."""
    middle = corners.mean(dim=2)
    highest = middle[..., 1].masked_fill(kinds == NONE, torch.inf).argmin(dim=1)
    body = corners[torch.arange(len(corners), device=corners.device), highest]
    edge, up = body[:, :2].mean(dim=1), body[:, :2].mean(dim=1) - body[:, 2:].mean(dim=1)
    above = ((at - edge[:, None, None]) * up[:, None, None]).sum(dim=-1) > 0
    return above & (kinds != NONE).any(dim=1)[:, None, None]


def _bumps(middle: Tensor, deviation: Tensor, at: Tensor) -> Tensor:
    """Gaussian bumps (n, k, h, w) of height 1 around points (n, k, 2)."""
    squared = (at[None, None] - middle[:, :, None, None]).square().sum(dim=-1)
    return torch.exp(-squared / (2 * deviation.clamp(min=STRIDE / 2)[..., None, None].square()))
