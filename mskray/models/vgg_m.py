"""VGG-M-1024 for several tasks at once: what they share up to a branch point, and a rest of its own for each.

SpineNet (Jamaludin et al. 2016, section 4) after Chatfield et al. 2014: slices are the input's channels, and there is
no local response normalisation. For 112 × 224 the maps are 53 × 109, 26 × 54, 12 × 26, 6 × 13 and 3 × 6, so that fc6
sees 9,216 values; for other inputs they follow by the same steps.
"""

from collections import OrderedDict
from collections.abc import Collection, Mapping
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

Branch = Literal["none", "conv3", "conv4", "conv5", "fc6", "fc7"]
BRANCHES: tuple[Branch, ...] = ("none", "conv3", "conv4", "conv5", "fc6", "fc7")
SMALLEST_SIDE = 41
"""Rows and columns, px, below which the last pooling has nothing left."""

_CHANNELS = {"conv1": 96, "conv2": 256, "conv3": 512, "conv4": 512, "conv5": 512, "fc6": 4096, "fc7": 1024}
_LAYERS = (*_CHANNELS, "fc8")
_PADDED_3_3 = (3, 1, 1)
# Kernel, stride, padding; and whether 2 × 2 pooling follows.
_CONVOLUTIONS = {
    "conv1": ((7, 2, 0), True),
    "conv2": ((5, 2, 1), True),
    "conv3": (_PADDED_3_3, False),
    "conv4": (_PADDED_3_3, False),
    "conv5": (_PADDED_3_3, True),
}


class SpineNet(nn.Module):
    """`shared` layers up to the branch point, and all after it in `branches`, once for each task.

    Args:
        tasks: classes of each task, by name.
        slices, rows, columns: the input's; rows and columns `SMALLEST_SIDE` px at least.
        branch: the last layer that tasks share; with "none" they are separate networks.
        width: share of VGG-M's channels and units that every layer but the last has.
        dropout: share of fc6's and fc7's units that training leaves out (Chatfield et al. 2014; SpineNet states none).

    Weights are drawn as Glorot and Bengio 2010 have it (SpineNet, section 4), biases are zero. The buffer `mean`
    (slices, 1, 1) is subtracted from the input: the training set's, channel by channel; it is zero at first.
    """

    mean: Tensor

    def __init__(
        self,
        tasks: Mapping[str, int],
        slices: int,
        rows: int,
        columns: int,
        branch: Branch = "conv5",
        width: float = 1.0,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        inputs = {"conv1": slices, "fc6": _units(width, "conv5") * _cells(rows) * _cells(columns)}
        for before, after in pairwise(_LAYERS):
            inputs.setdefault(after, _units(width, before))

        def layers(names: tuple[str, ...], classes: int = 0) -> nn.Sequential:
            outputs = {name: _units(width, name) if name in _CHANNELS else classes for name in names}
            made = ((name, _layer(name, inputs[name], outputs[name], dropout)) for name in names)
            return nn.Sequential(OrderedDict(made))

        cut = 0 if branch == "none" else 1 + _LAYERS.index(branch)
        self.register_buffer("mean", torch.zeros(slices, 1, 1))
        self.shared = layers(_LAYERS[:cut])
        # A prefix, because a module of modules has names of its own, such as "type".
        self.branches = nn.ModuleDict(
            {_PREFIX + task: layers(_LAYERS[cut:], classes) for task, classes in tasks.items()}
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor, tasks: Collection[str] | None = None) -> dict[str, Tensor]:
        """Return each task's logits (n, classes) for images (n, slices, rows, columns) in [0, 1].

        Args:
            tasks: that are asked for; all when None. The branches of the others, most of a small batch's time, stay
                unused.
        """
        common = self.shared(images - self.mean)
        known = {name.removeprefix(_PREFIX): branch for name, branch in self.branches.items()}
        return {name: branch(common) for name, branch in known.items() if tasks is None or name in tasks}


_PREFIX = "task_"


def map_sides(side: int) -> tuple[int, ...]:
    """Return how long a side of `side` px is after conv1, pool1, conv2, pool2 and the pooling after conv5.

    Raises:
        ValueError: too short for the network.
    """
    if side < SMALLEST_SIDE:
        raise ValueError(f"{side} px: the network needs {SMALLEST_SIDE} px at least")
    found = []
    for (kernel, stride, padding), pooled in _CONVOLUTIONS.values():
        after = (side + 2 * padding - kernel) // stride + 1
        if after != side:
            found.append(after)
        side = after // 2 if pooled else after
        if pooled:
            found.append(side)
    return tuple(found)


def _cells(side: int) -> int:
    return map_sides(side)[-1]


def _units(width: float, layer: str) -> int:
    return max(1, round(_CHANNELS[layer] * width))


def _layer(name: str, inputs: int, outputs: int, dropout: float) -> nn.Module:
    if name in _CONVOLUTIONS:
        (kernel, stride, padding), pooled = _CONVOLUTIONS[name]
        steps = [nn.Conv2d(inputs, outputs, kernel, stride, padding), nn.ReLU()]
        return nn.Sequential(*steps, *([nn.MaxPool2d(2)] if pooled else []))
    if name == "fc8":
        return nn.Linear(inputs, outputs)
    flat = [nn.Flatten()] if name == "fc6" else []
    return nn.Sequential(*flat, nn.Linear(inputs, outputs), nn.ReLU(), nn.Dropout(dropout))
