"""KALM: a global network, the key area that its feature map points at, a local network on that area, fused.

mskray train jobs/configs/mura-kalm-resnet18.yaml

Source: "KALM" (equations 1 to 10). Two trainings, each resumed by its own name: `global` trains CNN_g alone, `local`
starts from its best epoch and trains FC_w, FC_h and CNN_l while CNN_g stays as it is.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import ClassVar, Literal

import torch
from pydantic import ValidationInfo, model_validator
from torch import Tensor, nn

from mskray.bundles import Fitted
from mskray.cohorts import Cohort, Task
from mskray.config import Section, is_given, setting
from mskray.families.base import Family, Predictor, register
from mskray.families.torch_predictor import TorchPredictor
from mskray.models.backbones import BACKBONES, Backbone, check_map
from mskray.models.kalm import Kalm, global_network, to_pixels
from mskray.space import Space, choice, grid, loguniform, uniform
from mskray.training.config import (
    DataSection,
    LoopSection,
    Metric,
    OptimizerSection,
    ScheduleSection,
    TorchConfig,
    plateau_can_fire,
)
from mskray.training.fit import fit
from mskray.training.recipe import Answer, Batch, Recipe
from mskray.training.run import Run, Trained
from mskray.training.samples import EachImage
from mskray.training.weights import Starting

GLOBAL, LOCAL, KEY_AREA = "global", "local", "key_area"
_SETTINGS = "KALM, section 4.1"
_TABLE_1 = ("resnet18", "inception_v4", "vgg16")


class NetworkSection(Section):
    """CNN_g, CNN_l and the key area between them."""

    backbone: Literal[BACKBONES] = setting("vgg16", "architecture of CNN_g and CNN_l", source=_SETTINGS)  # type: ignore[valid-type]
    weights: str = setting("imagenet", "none, imagenet, or the URI of a state dict for CNN_g", min_length=1)
    size: int = setting(
        224,
        "side of the input of CNN_g and CNN_l; the key area is cut from data.image_size, a multiple of it",
        unit="px",
        ge=32,
        le=2048,
        source=_SETTINGS,
    )
    centred: bool = setting(
        False, "the key area's centre is the middle of a cell; False is its left edge, as printed", source="KALM, eq. 7"
    )


class FineData(DataSection):
    image_size: int = setting(
        448, "side of the image that the key area is cut from", unit="px", ge=32, le=4096, source=_SETTINGS
    )
    batch_size: int = setting(64, "images per worker and step", unit="images", ge=1, le=4096, source=_SETTINGS)


class Optimizer(OptimizerSection):
    name: Literal["adamw", "adam", "sgd"] = setting("adam", "the optimizer", source=_SETTINGS)
    learning_rate: float = setting(1e-5, "peak learning rate", gt=0, le=10, source=_SETTINGS)
    weight_decay: float = setting(0.0, "decay of weights (decoupled for adamw); the paper states none", ge=0, le=1)


class Schedule(ScheduleSection):
    name: Literal["none", "plateau", "step", "cosine", "one_cycle"] = setting("step", "the schedule", source=_SETTINGS)
    factor: float = setting(0.1, "plateau and step: what the rate is multiplied by", gt=0, lt=1, source=_SETTINGS)


class Loop(LoopSection):
    epochs: int = setting(30, "passes over the training split", unit="epochs", ge=1, le=10_000, source=_SETTINGS)
    metric: Metric = setting(
        "accuracy", "validation metric that picks the best epoch, steers plateau and stopping", source=_SETTINGS
    )


class LocalSection(Section):
    """The second training: FC_w, FC_h and CNN_l. What is not here is as in the first."""

    start: Literal["initial", "global"] = setting(
        "initial", "CNN_l starts from what CNN_g started from, or from what it became; the paper does not say"
    )
    side: float = setting(
        0.5,
        "the key area's sides before FC_w and FC_h learn, as shares of the image's; the paper does not say",
        gt=0,
        lt=1,
    )
    epochs: int = setting(30, "passes over the training split", unit="epochs", ge=1, le=10_000, source=_SETTINGS)
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()


class KalmConfig(TorchConfig):
    """Config of the `kalm` family; `optimizer`, `schedule` and `loop.epochs` are those of the first training."""

    network: NetworkSection = NetworkSection()
    data: FineData = FineData()
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    loop: Loop = Loop()
    local: LocalSection = LocalSection()

    @model_validator(mode="after")
    def _key_area_can_be_found(self, info: ValidationInfo) -> "KalmConfig":
        """A map of one cell points nowhere, and CNN_g must see in both trainings what it sees later."""
        network, image = self.network, self.data.image_size
        check_map("network.size", network.size, network.backbone)
        if image % network.size:
            raise ValueError(
                f"data.image_size = {image} is no multiple of network.size = {network.size}: the key area is cut from "
                f"the whole multiple of CNN_g's input (paper: 448 and 224): give {2 * network.size}, for instance"
            )
        if is_given(info):
            plateau_can_fire(self.local.schedule, self.loop, "local.schedule")
        return self

    def stage(self, name: str) -> "KalmConfig":
        """Return the config as the shared loop reads it in one of the two trainings."""
        if name == GLOBAL:
            return self.model_copy(update={"data": self.data.model_copy(update={"image_size": self.network.size})})
        loop = self.loop.model_copy(update={"epochs": self.local.epochs})
        return self.model_copy(
            update={"optimizer": self.local.optimizer, "schedule": self.local.schedule, "loop": loop}
        )


@dataclass(frozen=True)
class GlobalRecipe(Starting):
    """The first training: CNN_g alone, at its own input size, by cross-entropy."""

    config: KalmConfig
    classes: int
    compiles: ClassVar[bool] = True

    def build(self) -> Backbone:
        return global_network(self.config.network.backbone, self.classes, self.config.network.size)

    def loss(self, network: nn.Module, batch: Batch, class_weights: Tensor | None) -> Tensor:
        return self.cross_entropy(network(batch["image"]), batch["label"], class_weights)

    def answer(self, network: nn.Module, batch: Batch) -> Answer:
        return Answer(network(batch["image"]).float().softmax(dim=1))


@dataclass(frozen=True)
class LocalRecipe(Recipe):
    """The second training, and prediction: the whole network, of which CNN_g does not learn."""

    config: KalmConfig
    classes: int
    compiles: ClassVar[bool] = True

    def build(self) -> Kalm:
        network = self.config.network
        built = Kalm(network.backbone, self.classes, network.size, network.centred)
        built.cnn_g.requires_grad_(False)
        return built

    def initial_state(self, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the network's first weights: CNN_g as the first training left it, CNN_l as `local.start` says."""
        torch.manual_seed(self.config.loop.seed)
        built = self.build()
        built.cnn_g.load_state_dict(dict(trained))
        from_global = self.config.local.start == GLOBAL
        first = trained if from_global else GlobalRecipe(self.config, self.classes).initial_state()
        built.cnn_l.load_state_dict(dict(first))
        built.key_area.start_at(self.config.local.side)
        return built.state_dict()

    def set_training(self, network: nn.Module, epoch: int) -> None:
        """CNN_g stays in evaluation mode, so that neither its dropout nor its BatchNorm moves the key area."""
        network.train()
        assert isinstance(network, Kalm)
        network.cnn_g.eval()

    def loss(self, network: nn.Module, batch: Batch, class_weights: Tensor | None) -> Tensor:
        """Cross-entropy of the local answer alone: the two scores are trained apart and fused afterwards."""
        _, local, _ = network(batch["image"])
        return self.cross_entropy(local, batch["label"], class_weights)

    def answer(self, network: nn.Module, batch: Batch) -> Answer:
        """The mean of the two softmaxes (KALM eq. 3 and 10, section 4.2: "their average score")."""
        whole, local, box = network(batch["image"])
        parts = {GLOBAL: whole.float().softmax(dim=1), LOCAL: local.float().softmax(dim=1)}
        boxes = {KEY_AREA: to_pixels(box.float(), *batch["image"].shape[-2:])}
        return Answer((parts[GLOBAL] + parts[LOCAL]) / 2, parts, boxes)

    def explained(self, network: nn.Module) -> Backbone:
        assert isinstance(network, Kalm)
        return network.cnn_g


@register
class KalmFamily(Family):
    name: ClassVar[str] = "kalm"
    summary: ClassVar[str] = "global CNN, key area from its feature map, local CNN on that area; the mean of both"
    Config: ClassVar[type[KalmConfig]] = KalmConfig
    epoch_keys: ClassVar[Mapping[str, str]] = MappingProxyType({GLOBAL: "loop.epochs", "": "local.epochs"})

    def check(self, cohort: Cohort, config: KalmConfig, task: Task) -> None:
        super().check(cohort, config, task)
        self.check_resolution(cohort, config.data.image_size)

    def fit(self, cohort: Cohort, config: KalmConfig, run: Run) -> Fitted:
        classes, samples = len(run.task.classes), EachImage(run.task.column)
        whole = GlobalRecipe(config.stage(GLOBAL), classes)
        first = fit(whole, samples, whole.initial_state, cohort, run.stage(GLOBAL))
        local = LocalRecipe(config.stage(LOCAL), classes)
        second = fit(local, samples, partial(local.initial_state, first.state), cohort, run.stage(LOCAL))
        return self.fitted(cohort, config, run.task, _together(first, second))

    def predictor(self, fitted: Fitted, device: str = "cpu") -> Predictor:
        config = KalmConfig.model_validate(fitted.config)
        return TorchPredictor(LocalRecipe(config.stage(LOCAL), len(fitted.classes)), fitted, device)

    def search_space(self) -> Space:
        return {
            "network.backbone": choice(*_TABLE_1),
            "network.centred": choice(False, True),
            "optimizer.learning_rate": loguniform(1e-6, 1e-3),
            "local.optimizer.learning_rate": loguniform(1e-6, 1e-3),
            "local.start": choice("initial", "global"),
            "local.side": uniform(0.2, 0.7),
        }

    def spaces(self) -> Mapping[str, Space]:
        """Table 1's networks, and rates of both trainings: the paper's 1e-5 (section 4.1) and two of ours beside it."""
        backbones = {"network.backbone": grid(*_TABLE_1)}
        rates = {key: grid(1e-6, 1e-5, 1e-4) for key in ("optimizer.learning_rate", "local.optimizer.learning_rate")}
        return {"table-1": backbones, "learning-rates": rates, "table-1-learning-rates": {**backbones, **rates}}


def _together(first: Trained, second: Trained) -> Trained:
    """The second training's result; of the first, history and best epoch stand beside, marked "global/"."""
    marked = [{f"{GLOBAL}/{key}": value for key, value in entry.items()} for entry in (*first.history, first.best)]
    return Trained(second.state, [*marked[:-1], *second.history], {**second.best, **marked[-1]}, second.labels)
