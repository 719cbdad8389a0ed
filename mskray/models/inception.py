"""inception_v3's blocks, as torchvision has them but for their activations, which are modules."""

from functools import partial
from typing import Any

from torch import Tensor, nn

from mskray.models.vision import torchvision


class _ConvNormAct(torchvision.models.inception.BasicConv2d):
    """inception_v3's convolution with its ReLU as a module, so that hooks reach it; names and values are the same."""

    def __init__(self, in_channels: int, out_channels: int, **options: Any) -> None:
        super().__init__(in_channels, out_channels, **options)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.bn(self.conv(x)))


def inception_blocks() -> list[Any]:
    """Return what `torchvision.models.inception_v3` takes as its blocks."""
    of = torchvision.models.inception
    blocks = (of.InceptionA, of.InceptionB, of.InceptionC, of.InceptionD, of.InceptionE, of.InceptionAux)
    return [_ConvNormAct, *(partial(block, conv_block=_ConvNormAct) for block in blocks)]
