"""Faster R-CNN and Mask R-CNN of torchvision on grey images of one size, over backbones of any of these sizes.

ZHAW (section II-B) trained both with ResNet-50 and a feature pyramid; on boxes Faster R-CNN did better.
"""

from collections.abc import Sequence
from typing import Literal

import torchvision
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign

from mskray.errors import UserError

Method = Literal["faster_rcnn", "mask_rcnn"]
DETECTOR_BACKBONES = ("resnet50", "resnet18", "mobilenet_v3_large", "mobilenet_v3_small", "mobilenet_v2")
_RATIOS = (0.5, 1.0, 2.0)
# Modules of the mobilenets' `features` that end at a stride, with their channels.
_STRIDES = {
    "mobilenet_v3_large": {4: ("3", 24), 8: ("6", 40), 16: ("12", 112), 32: ("15", 160)},
    "mobilenet_v3_small": {4: ("1", 16), 8: ("3", 24), 16: ("8", 48), 32: ("11", 96)},
    "mobilenet_v2": {4: ("3", 24), 8: ("6", 32), 16: ("13", 96), 32: ("17", 320)},
}


class Detector(nn.Module):
    """A two-stage detector; kind 0 is background, 1 to `kinds` are what it finds.

    Args:
        method: faster_rcnn (boxes) or mask_rcnn (boxes and pixels).
        backbone: a member of DETECTOR_BACKBONES.
        kinds: number of kinds to find.
        size: side of the square images, px.
        channels: channels of the feature pyramid.
        finest: stride of the pyramid's finest level, px: 4 or 8.
        anchor: side of the anchors on that level, px; it doubles with each level.
        proposals: regions that the first stage passes on.
        regions: regions of an image that the second stage learns from.
        frozen_norm: keep BatchNorm's statistics, as with ImageNet weights.
    """

    def __init__(
        self,
        method: Method,
        backbone: str,
        kinds: int,
        size: int,
        channels: int,
        finest: int,
        anchor: float,
        proposals: int,
        regions: int,
        frozen_norm: bool,
    ) -> None:
        super().__init__()
        pyramid = _pyramid(backbone, channels, finest, FrozenBatchNorm2d if frozen_norm else nn.BatchNorm2d)
        levels = [str(level) for level in range(len(pyramid.fpn.inner_blocks))]
        sizes = tuple((anchor * 2**level,) for level in range(len(levels) + 1))  # one more: the pooled level
        options = {
            "min_size": size,
            "max_size": size,
            "rpn_anchor_generator": AnchorGenerator(sizes, (_RATIOS,) * len(sizes)),
            "rpn_post_nms_top_n_train": proposals,
            "rpn_post_nms_top_n_test": proposals,
            "box_roi_pool": MultiScaleRoIAlign(levels, output_size=7, sampling_ratio=2),
            "box_batch_size_per_image": regions,
        }
        if method == "mask_rcnn":
            pool = MultiScaleRoIAlign(levels, output_size=14, sampling_ratio=2)
            self.network: FasterRCNN = MaskRCNN(pyramid, kinds + 1, mask_roi_pool=pool, **options)
        else:
            self.network = FasterRCNN(pyramid, kinds + 1, **options)

    def forward(
        self, images: Tensor, targets: Sequence[dict[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Find things on grey images.

        Args:
            images: (n, 1, size, size) in [0, 1].
            targets: in training, for each image `boxes` (k, 4) x0, y0, x1, y1, `labels` (k,) from 1 and, for
                mask_rcnn, `masks` (k, size, size) uint8.
        Returns:
            In training the losses by name; else for each image `boxes`, `labels`, `scores` (best first) and, for
            mask_rcnn, `masks` (k, 1, size, size) in [0, 1].
        """
        return self.network(list(images.expand(-1, 3, -1, -1)), None if targets is None else list(targets))


def _pyramid(name: str, channels: int, finest: int, norm: type[nn.Module]) -> BackboneWithFPN:
    body, taken = stages(name, finest, norm)
    return BackboneWithFPN(
        body, {module: str(level) for level, (module, _) in enumerate(taken)}, [width for _, width in taken], channels
    )


def stages(name: str, finest: int, norm: type[nn.Module] = nn.BatchNorm2d) -> tuple[nn.Module, list[tuple[str, int]]]:
    """Return a backbone without its classifier, and which of its modules end at each stride from `finest` to 32 px.

    Args:
        name: a member of DETECTOR_BACKBONES.
        norm: BatchNorm2d, or FrozenBatchNorm2d to keep its statistics.
    Returns:
        The body, and (module, channels) of each stride, the finest first.
    """
    # torchvision's get_model hands BatchNorm's type on to a ResNet alone.
    if name.startswith("resnet"):
        body: nn.Module = torchvision.models.get_model(name, weights=None, norm_layer=norm)
        width = 512 if name == "resnet18" else 2048
        ends = {2 ** (level + 1): (f"layer{level}", width >> (4 - level)) for level in (1, 2, 3, 4)}
    else:
        whole = torchvision.models.get_model(name, weights=None)
        body, ends = whole.features, _STRIDES[name]
        body = _frozen(body) if norm is FrozenBatchNorm2d else _followed(body)
    return body, [end for stride, end in ends.items() if stride >= finest]


def _frozen(module: nn.Module) -> nn.Module:
    """Replace every BatchNorm by one whose statistics stay."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, FrozenBatchNorm2d(child.num_features, child.eps))
        else:
            _frozen(child)
    return module


def _followed(module: nn.Module) -> nn.Module:
    """Let BatchNorm's statistics follow as fast as a ResNet's: their own momentum of 0.01 takes an epoch more."""
    for child in module.modules():
        if isinstance(child, nn.BatchNorm2d):
            child.momentum = 0.1
    return module


def load_detector(network: Detector, state: dict[str, Tensor], where: str) -> None:
    """Load a classifier's weights into the backbone, or a detector's into everything that fits.

    Args:
        state: torchvision's names of a classifier ("features.0.0.weight", "conv1.weight"), of a detector
            ("backbone.body.…"), or ours ("network.backbone.body.…").
    Raises:
        UserError: when a tensor of the backbone has no match.
    """
    own = network.network.state_dict()
    given = {key.removeprefix("module.").removeprefix("network."): value for key, value in state.items()}
    if not any(key.startswith("backbone.") for key in given):
        given = {f"backbone.body.{key.removeprefix('features.')}": value for key, value in given.items()}
    fitting = {key: value for key, value in given.items() if key in own and own[key].shape == value.shape}
    body = [key for key in own if key.startswith("backbone.body.") and not key.endswith("num_batches_tracked")]
    missing = [key for key in body if key not in fitting]
    if missing:
        raise UserError(
            f"weights {where} do not fit the detector's backbone: {len(missing)} of {len(body)} tensors are missing or "
            f"of another shape, first {missing[0]}: give the state dict of the same backbone"
        )
    network.network.load_state_dict(fitting, strict=False)
