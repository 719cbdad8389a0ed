"""ImageNet networks of torchvision and timm with a head for our classes, their stages named from the input up.

A stage is what can be frozen as one piece. Grey radiographs enter as (n, 1, rows, columns) in [0, 1], are repeated
over three channels and normalised as the network's ImageNet weights expect. Each network is cut in two: `maps` gives
its last spatial map, `score` makes logits of a map; methods that look where a network looks work between them.
"""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mskray.errors import UserError
from mskray.models.folding import fold_batch_norms
from mskray.models.inception import inception_blocks
from mskray.models.sampling import shrink
from mskray.models.vision import torchvision

BACKBONES = (
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet152",
    "densenet121",
    "densenet169",
    "vgg16",
    "vgg19",
    "efficientnet_b0",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "inception_v3",
    "inception_v4",
)
TIMM = {"inception_v4": "timm/inception_v4.tf_in1k"}
"""Those that torchvision does not have, and where timm publishes their ImageNet weights on the Hugging Face Hub."""
SMALLEST_INPUT = {"inception_v3": 75, "inception_v4": 75}
"""Side in px below which nothing is left of the image after the network's unpadded convolutions; else 32."""
HEAD = "head"
_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_INCEPTION = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)


class Backbone(nn.Module):
    """One of BACKBONES with `classes` outputs.

    Args:
        name: a member of BACKBONES.
        classes: number of output logits.
        frozen: stages whose weights stay and whose BatchNorm keeps its statistics.
        pooled: the head is one linear layer on the mean of the last map, also where the network's own is larger.
        channels: of an image; where there are several, such as views of a study, the first convolution is made for
            them, and all are normalised alike.
        input_size: side to which images are brought first, by the mean over areas, px; None takes them as they are.
    Raises:
        UserError: when a frozen stage is not one of the network's.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        name: str,
        classes: int,
        frozen: tuple[str, ...] = (),
        pooled: bool = False,
        channels: int = 1,
        input_size: int | None = None,
    ) -> None:
        super().__init__()
        self.name, self.channels, self.input_size = name, channels, input_size
        self.network = _build(name, classes, pooled)
        if channels > 1:
            _widen(self.network, channels)
        self._cut()
        known = list(stages(self.network, name))
        unknown = [stage for stage in frozen if stage not in known]
        if unknown:
            raise UserError(f"network.freeze: {name} has no stage {', '.join(unknown)}; it has {', '.join(known)}")
        self._frozen = [
            module for stage, modules in stages(self.network, name).items() if stage in frozen for module in modules
        ]
        for module in self._frozen:
            module.requires_grad_(False)
        mean, std = _INCEPTION if name.startswith("inception") else _IMAGENET
        for key, values in (("mean", torch.tensor(mean)), ("std", torch.tensor(std))):
            values = values.mean(dim=0, keepdim=True) if channels > 1 else values
            self.register_buffer(key, values.view(1, -1, 1, 1), persistent=False)

    @property
    def width(self) -> int:
        """Numbers that `features` gives for each image."""
        return next(each.in_features for each in self._top[-1].modules() if isinstance(each, nn.Linear))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (n, classes) of images (n, channels, rows, columns) in [0, 1]."""
        return self.score(self.maps(images))

    def fold(self) -> None:
        """Compute BatchNorms within the convolutions before them: for a network that only predicts from now on."""
        fold_batch_norms(self.network)
        self._cut()

    def maps(self, images: Tensor) -> Tensor:
        """Return the last spatial map (n, filters, height, width) of images (n, channels, rows, columns) in [0, 1]."""
        if self.input_size is not None:
            images = shrink(images, self.input_size)
        colours = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
        values = (colours - self.mean) / self.std
        for module in self._body:
            values = module(values)
        return values

    def watch(self, hook: Callable[[Tensor], None]) -> RemovableHandle:
        """Call `hook` with the last spatial map whenever one is made, until the handle is removed."""
        return self._body[-1].register_forward_hook(lambda module, given, maps: hook(maps))

    def score(self, maps: Tensor) -> Tensor:
        """Return logits (n, classes) of what `maps` gave."""
        return self.head(self.features(maps))

    def features(self, maps: Tensor) -> Tensor:
        """Return what the head sees (n, width) of what `maps` gave."""
        for module in self._top[:-1]:
            maps = module(maps)
        return maps

    def head(self, features: Tensor) -> Tensor:
        """Return logits (n, classes) of what `features` gave."""
        logits: Tensor = self._top[-1](features)
        return logits

    def train(self, mode: bool = True) -> "Backbone":
        """Set the mode; frozen stages stay in evaluation mode, so that their BatchNorm does not drift."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def _cut(self) -> None:
        self._body, self._top = _halves(self.network, self.name)
        # What torchvision writes as functions; registered, so that hooks reach it.
        own = set(self.network.modules())
        self._between = nn.ModuleList(module for module in (*self._body, *self._top) if module not in own)


@cache
def map_shape(backbone: str, size: int) -> tuple[int, ...]:
    """Return channels, height and width of a backbone's last map for images of `size` px; nothing is computed."""
    with torch.device("meta"):
        return tuple(Backbone(backbone, 2, pooled=True).eval().maps(torch.zeros(1, 1, size, size)).shape[1:])


def check_input_size(key: str, size: int, backbone: str) -> None:
    """Raise ValueError when images of `size` px, the setting `key`, are too small for a backbone."""
    least = SMALLEST_INPUT.get(backbone, 32)
    if size < least:
        raise ValueError(f"{key} = {size}: {backbone} needs at least {least} px")


def check_map(key: str, size: int, backbone: str) -> None:
    """Raise ValueError also when the last map has a side of one cell, where its peak points nowhere."""
    check_input_size(key, size, backbone)
    if min(map_shape(backbone, size)[1:]) < 2:
        raise ValueError(
            f"{key} = {size}: the last map of {backbone} has one cell a side there, whose peak points nowhere: "
            f"{2 * size} will do"
        )


def stages(network: Any, name: str) -> dict[str, list[nn.Module]]:
    """Name the network's stages from input to head; their modules together are the whole network."""
    if name.startswith("resnet"):
        layers = {f"layer{index}": [getattr(network, f"layer{index}")] for index in range(1, 5)}
        return {"stem": [network.conv1, network.bn1], **layers, HEAD: [network.fc]}
    if name == "inception_v3":
        starts = {"stem": "Conv2d", "mixed5": "Mixed_5", "mixed6": "Mixed_6", "mixed7": "Mixed_7"}
        children = list(network.named_children())
        named = {stage: [m for child, m in children if child.startswith(start)] for stage, start in starts.items()}
        return {**named, HEAD: [network.fc]}
    features: Any = network.features
    if name.startswith("densenet"):
        blocks = {"stem": [features.conv0, features.norm0]}
        for index in range(1, 5):
            parts = [getattr(features, f"denseblock{index}"), getattr(features, f"transition{index}", features.norm5)]
            blocks[f"block{index}"] = parts
        return {**blocks, HEAD: [network.classifier]}
    if name == "inception_v4":
        cuts = {"stem": (0, 6), "block_a": (6, 10), "block_b": (10, 18), "block_c": (18, 22)}
        named = {stage: list(features[first:end]) for stage, (first, end) in cuts.items()}
        return {**named, HEAD: [network.last_linear]}
    if name.startswith("vgg"):
        return {**dict(_between_pools(features)), HEAD: [network.classifier]}
    numbered = {f"block{index}": [module] for index, module in enumerate(features)}
    return {**numbered, HEAD: [network.classifier]}


def load_initial(network: Backbone, state: dict[str, Tensor], where: str) -> None:
    """Load ImageNet-shaped weights into everything that fits, the head left fresh where its size differs.

    Where the network has a first convolution for several views, each view gets the sum of the three colours' weights
    divided by the number of views: a study of equal views is then seen as its grey image alone would be.

    Args:
        state: torchvision's names ("features.0.0.weight", …), or ours ("network.features…").
    Raises:
        UserError: when fewer than all tensors below the head have a match.
    """
    own = network.network.state_dict()
    given = {key.removeprefix("module.").removeprefix("network."): value for key, value in state.items()}
    first, views = f"{_first_convolution(network.network)}.weight", network.channels
    if views > 1 and first in given and given[first].shape[1] == 3:
        given[first] = given[first].sum(dim=1, keepdim=True).expand(-1, views, -1, -1) / views
    fitting = {key: value for key, value in given.items() if key in own and own[key].shape == value.shape}
    head = {key for key in own if key.startswith(("classifier", "fc", "last_linear"))}
    missing = [key for key in own if key not in fitting and key not in head and not key.endswith("num_batches_tracked")]
    if missing:
        raise UserError(
            f"weights {where} do not fit {network.name}: {len(missing)} of {len(own)} tensors are missing or of "
            f"another shape, first {missing[0]}: give the state dict of this backbone, or set network.backbone"
        )
    network.network.load_state_dict(fitting, strict=False)


def _build(name: str, classes: int, pooled: bool) -> nn.Module:
    if name in TIMM:
        import timm  # takes a second, and only inception_v4 is of it

        return timm.create_model(name, num_classes=classes)
    # The auxiliary head of inception_v3 would be a second loss; its initialisation is for training from scratch only.
    options: dict[str, Any] = {}
    if name == "inception_v3":
        options = {"aux_logits": False, "init_weights": False, "inception_blocks": inception_blocks()}
    network: Any = torchvision.models.get_model(name, weights=None, **options)
    if name.startswith(("resnet", "inception")):
        network.fc = nn.Linear(network.fc.in_features, classes)
    elif name.startswith("densenet"):
        network.classifier = nn.Linear(network.classifier.in_features, classes)
    elif pooled:
        channels = [each for each in network.features.modules() if isinstance(each, nn.Conv2d)][-1].out_channels
        network.avgpool = nn.AdaptiveAvgPool2d(1)
        network.classifier = nn.Linear(channels, classes)
    else:
        network.classifier[-1] = nn.Linear(network.classifier[-1].in_features, classes)
    return network


def _first_convolution(network: nn.Module) -> str:
    return next(name for name, module in network.named_modules() if isinstance(module, nn.Conv2d))


def _widen(network: nn.Module, channels: int) -> None:
    """Replace the first convolution by one of the same shape that takes `channels` channels."""
    name = _first_convolution(network)
    old: Any = network.get_submodule(name)
    parent, _, own = name.rpartition(".")
    new = nn.Conv2d(channels, old.out_channels, old.kernel_size, old.stride, old.padding, bias=old.bias is not None)
    setattr(network.get_submodule(parent), own, new)


def _halves(network: Any, name: str) -> tuple[list[nn.Module], list[nn.Module]]:
    """Return the modules that make the last spatial map, and those that make logits of it, in order."""
    if name == "inception_v4":
        return [network.features], [network.global_pool, network.head_drop, network.last_linear]
    if name.startswith("densenet"):
        return [network.features, nn.ReLU()], [nn.AdaptiveAvgPool2d(1), nn.Flatten(), network.classifier]
    if not name.startswith(("resnet", "inception")):
        pool = getattr(network, "avgpool", nn.AdaptiveAvgPool2d(1))  # mobilenet_v2 pools by a function
        return [network.features], [pool, nn.Flatten(), network.classifier]
    children = dict(network.named_children())
    top = [children.pop(each) for each in ("avgpool", "dropout", "fc") if each in children]
    return list(children.values()), [*top[:-1], nn.Flatten(), top[-1]]


def _between_pools(features: nn.Sequential) -> Iterator[tuple[str, list[nn.Module]]]:
    """Cut VGG's flat list of layers into its five blocks, each ending with a pool."""
    block: list[nn.Module] = []
    number = 1
    for module in features:
        block.append(module)
        if isinstance(module, nn.MaxPool2d):
            yield f"block{number}", block
            block, number = [], number + 1
