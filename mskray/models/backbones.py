"""torchvision's ImageNet networks with a head for our classes, their stages named from the input up.

A stage is what can be frozen as one piece. Grey radiographs enter as (n, 1, rows, columns) in [0, 1], are
normalised with ImageNet's mean and standard deviation and repeated over three channels.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from mskray.errors import UserError

BACKBONES = (
    "resnet18",
    "resnet34",
    "resnet50",
    "densenet121",
    "densenet169",
    "vgg16",
    "vgg19",
    "efficientnet_b0",
    "mobilenet_v2",
    "mobilenet_v3_small",
)
HEAD = "head"
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Backbone(nn.Module):
    """One of BACKBONES with `classes` outputs.

    Args:
        name: a member of BACKBONES.
        classes: number of output logits.
        frozen: stages whose weights stay and whose BatchNorm keeps its statistics.
    Raises:
        UserError: when a frozen stage is not one of the network's.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: str, classes: int, frozen: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.network = _replace_head(torchvision.models.get_model(name, weights=None), name, classes)
        known = list(stages(self.network, name))
        unknown = [stage for stage in frozen if stage not in known]
        if unknown:
            raise UserError(f"network.freeze: {name} has no stage {', '.join(unknown)}; it has {', '.join(known)}")
        self._frozen = [
            module for stage, modules in stages(self.network, name).items() if stage in frozen for module in modules
        ]
        for module in self._frozen:
            module.requires_grad_(False)
        self.register_buffer("mean", torch.tensor(_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (n, classes) of images (n, 1, rows, columns) in [0, 1]."""
        return self.network((images.expand(-1, 3, -1, -1) - self.mean) / self.std)

    def train(self, mode: bool = True) -> "Backbone":
        """Set the mode; frozen stages stay in evaluation mode, so that their BatchNorm does not drift."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self


def stages(network: Any, name: str) -> dict[str, list[nn.Module]]:
    """Name the network's stages from input to head; their modules together are the whole network."""
    if name.startswith("resnet"):
        layers = {f"layer{index}": [getattr(network, f"layer{index}")] for index in range(1, 5)}
        return {"stem": [network.conv1, network.bn1], **layers, HEAD: [network.fc]}
    features: Any = network.features
    if name.startswith("densenet"):
        blocks = {"stem": [features.conv0, features.norm0]}
        for index in range(1, 5):
            parts = [getattr(features, f"denseblock{index}"), getattr(features, f"transition{index}", features.norm5)]
            blocks[f"block{index}"] = parts
        return {**blocks, HEAD: [network.classifier]}
    if name.startswith("vgg"):
        return {**dict(_between_pools(features)), HEAD: [network.classifier]}
    numbered = {f"block{index}": [module] for index, module in enumerate(features)}
    return {**numbered, HEAD: [network.classifier]}


def load_initial(network: Backbone, state: dict[str, Tensor], where: str) -> None:
    """Load ImageNet-shaped weights into everything that fits, the head left fresh where its size differs.

    Args:
        state: torchvision's names ("features.0.0.weight", …), or ours ("network.features…").
    Raises:
        UserError: when fewer than all tensors below the head have a match.
    """
    own = network.network.state_dict()
    given = {key.removeprefix("module.").removeprefix("network."): value for key, value in state.items()}
    fitting = {key: value for key, value in given.items() if key in own and own[key].shape == value.shape}
    head = {key for key in own if key.startswith(("classifier", "fc"))}
    missing = [key for key in own if key not in fitting and key not in head and not key.endswith("num_batches_tracked")]
    if missing:
        raise UserError(
            f"weights {where} do not fit the network: {len(missing)} of {len(own)} tensors are missing or of another "
            f"shape, first {missing[0]}: give the state dict of the same backbone"
        )
    network.network.load_state_dict(fitting, strict=False)


def _replace_head(network: Any, name: str, classes: int) -> nn.Module:
    if name.startswith("resnet"):
        network.fc = nn.Linear(network.fc.in_features, classes)
    elif name.startswith("densenet"):
        network.classifier = nn.Linear(network.classifier.in_features, classes)
    else:
        network.classifier[-1] = nn.Linear(network.classifier[-1].in_features, classes)
    return network


def _between_pools(features: nn.Sequential) -> Iterator[tuple[str, list[nn.Module]]]:
    """Cut VGG's flat list of layers into its five blocks, each ending with a pool."""
    block: list[nn.Module] = []
    number = 1
    for module in features:
        block.append(module)
        if isinstance(module, nn.MaxPool2d):
            yield f"block{number}", block
            block, number = [], number + 1
