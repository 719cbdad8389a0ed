"""A fully convolutional network that finds vertebral bodies as points with four corners ("Objects as Points").

X. Zhou, D. Wang, P. Krähenbühl, 2019, arXiv:1904.07850: an object is a peak in a map of centres; what else is asked of
it is read off at the peak. Here that is where its corners are and how far its own middle slice is away.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models._utils import IntermediateLayerGetter

from mskray.errors import UserError
from mskray.models.detector import stages

STRIDE = 4
"""Pixels of the input to one of the maps."""
INPUT_SLICES = 3
BODY, SACRUM = KINDS = (0, 1)
"""Maps of centres: lumbar and thoracic bodies, and the first sacral one, from which levels are counted."""
_REACH = 16.0  # px: corners lie about this far from a centre, so that outputs are about 1
_RARE = 0.1  # the probability of a centre that an untrained network gives, as in the paper


class Maps(NamedTuple):
    """What the network says of images (n, 3, rows, columns) at each of h × w = rows/4 × columns/4 places.

    Args:
        centres: (n, 2, h, w) logits of a body's centre, by kind.
        corners: (n, 4, 2, h, w) from the middle of the place to each corner, x and y, px of the input.
        slices: (n, h, w) slices from the input's middle one to the body's own.
    """

    centres: Tensor
    corners: Tensor
    slices: Tensor


class VertebraNetwork(nn.Module):
    """An encoder, its levels merged from coarse to fine, and one head.

    Args:
        backbone: a member of `DETECTOR_BACKBONES`.
        channels: of the merged levels.
    """

    def __init__(self, backbone: str, channels: int) -> None:
        super().__init__()
        body, taken = stages(backbone, STRIDE)
        self.body = IntermediateLayerGetter(body, {module: str(level) for level, (module, _) in enumerate(taken)})
        self.lateral = nn.ModuleList(nn.Conv2d(width, channels, 1) for _, width in taken)
        self.merge = nn.ModuleList(_convolution(channels) for _ in taken)
        last = nn.Conv2d(channels, len(KINDS) + 8 + 1, 1)
        self.head = nn.Sequential(_convolution(channels), last)
        assert last.bias is not None
        nn.init.zeros_(last.bias)
        nn.init.constant_(last.bias[: len(KINDS)], math.log(_RARE / (1 - _RARE)))

    def forward(self, images: Tensor) -> Maps:
        """Take images (n, 3, rows, columns) in [0, 1]: a slice between its neighbours; sides are multiples of 32 px."""
        levels = list(self.body((images - 0.25) / 0.25).values())
        merged: Tensor | None = None
        for features, lateral, merge in zip(levels[::-1], self.lateral[::-1], self.merge[::-1], strict=True):
            own = lateral(features)
            if merged is not None:
                own = own + F.interpolate(merged, size=own.shape[-2:], mode="bilinear", align_corners=False)
            merged = merge(own)
        found = self.head(merged).float()
        corners = found[:, len(KINDS) : -1].unflatten(1, (4, 2)) * _REACH
        return Maps(found[:, : len(KINDS)], corners, found[:, -1])


def places(rows: int, columns: int, device: torch.device) -> Tensor:
    """Return the middles (rows, columns, 2), x and y in px of the input, of the places of a map."""
    y, x = torch.meshgrid(torch.arange(rows, device=device), torch.arange(columns, device=device), indexing="ij")
    return (torch.stack([x, y], dim=-1) + 0.5) * STRIDE


def load_encoder(network: VertebraNetwork, state: dict[str, Tensor], where: str) -> None:
    """Load a classifier's weights into the encoder, or a whole network's.

    Args:
        state: torchvision's names of a classifier ("features.0.0.weight", "conv1.weight"), or ours.
    Raises:
        UserError: when a tensor of the encoder has no match.
    """
    own = network.state_dict()
    given = {key.removeprefix("module.").removeprefix("network."): value for key, value in state.items()}
    if not any(key.startswith("body.") for key in given):
        given = {f"body.{key.removeprefix('features.')}": value for key, value in given.items()}
    fitting = {key: value for key, value in given.items() if key in own and own[key].shape == value.shape}
    encoder = [key for key in own if key.startswith("body.") and not key.endswith("num_batches_tracked")]
    missing = [key for key in encoder if key not in fitting]
    if missing:
        raise UserError(
            f"weights {where} do not fit the network's encoder: {len(missing)} of {len(encoder)} tensors are missing "
            f"or of another shape, first {missing[0]}: give the state dict of the same backbone"
        )
    network.load_state_dict(fitting, strict=False)


def _convolution(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(inplace=True)
    )
