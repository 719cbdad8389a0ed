"""Fine-tuned ImageNet networks on radiographs: baselines of ZHAW, KALM's global rows and the ResNet18 recipe.

mskray train jobs/configs/phantom-mobilenet.yaml
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import model_validator
from torch import Tensor, nn

from mskray.bundles import Fitted
from mskray.cohorts import Cohort
from mskray.config import Section, setting
from mskray.families.base import Family, Predictor, register
from mskray.families.torch_predictor import TorchPredictor
from mskray.models.backbones import BACKBONES, Backbone, check_input_size
from mskray.space import Space, choice, grid, loguniform, uniform
from mskray.training.config import TorchConfig
from mskray.training.fit import fit
from mskray.training.recipe import Answer, Batch
from mskray.training.run import Run
from mskray.training.samples import EachImage
from mskray.training.weights import Starting

_COMPARED = ("resnet18", "densenet121", "vgg16", "efficientnet_b0", "mobilenet_v2")
"""The ResNet18 deck's comparison of architectures, slide 03."""
_STAGES = ("stem", "layer1", "layer2", "layer3", "layer4")
"""A ResNet's, but for the head."""


class NetworkSection(Section):
    """The network and what of it learns."""

    backbone: Literal[BACKBONES] = setting("densenet169", "torchvision network", source="ZHAW, section II-A")  # type: ignore[valid-type]
    weights: str = setting("imagenet", "none, imagenet (torchvision's own), or the URI of a state dict", min_length=1)
    freeze: tuple[str, ...] = setting((), "stages that do not learn, such as stem, layer1; their BatchNorm stays as is")


class ClassifierConfig(TorchConfig):
    """Config of the `classifier` family."""

    network: NetworkSection = NetworkSection()

    @model_validator(mode="after")
    def _input_is_large_enough(self) -> "ClassifierConfig":
        check_input_size("data.image_size", self.data.image_size, self.network.backbone)
        return self


@dataclass(frozen=True)
class ClassifierRecipe(Starting):
    """The classifier's side of the shared loop."""

    config: ClassifierConfig
    classes: int
    compiles: ClassVar[bool] = True

    def build(self) -> Backbone:
        network = self.config.network
        return Backbone(network.backbone, self.classes, network.freeze)

    def loss(self, network: nn.Module, batch: Batch, class_weights: Tensor | None) -> Tensor:
        """Cross-entropy, weighted by class where `loop.class_weights` asks for it."""
        return self.cross_entropy(network(batch["image"]), batch["label"], class_weights)

    def answer(self, network: nn.Module, batch: Batch) -> Answer:
        return Answer(network(batch["image"]).float().softmax(dim=1))


@register
class Classifier(Family):
    name: ClassVar[str] = "classifier"
    summary: ClassVar[str] = "fine-tuned CNN backbone with freezing, class weights, schedules and early stopping"
    Config: ClassVar[type[ClassifierConfig]] = ClassifierConfig

    def fit(self, cohort: Cohort, config: ClassifierConfig, run: Run) -> Fitted:
        recipe = ClassifierRecipe(config, len(run.task.classes))
        trained = fit(recipe, EachImage(run.task.column), recipe.initial_state, cohort, run)
        return self.fitted(cohort, config, run.task, trained)

    def predictor(self, fitted: Fitted, device: str = "cpu") -> Predictor:
        config = ClassifierConfig.model_validate(fitted.config)
        return TorchPredictor(ClassifierRecipe(config, len(fitted.classes)), fitted, device)

    def search_space(self) -> Space:
        return {
            "network.backbone": choice(*_COMPARED, "densenet169"),
            "optimizer.learning_rate": loguniform(1e-5, 1e-2),
            "optimizer.weight_decay": loguniform(1e-6, 1e-2),
            "schedule.name": choice("plateau", "cosine", "one_cycle"),
            "augment.rotation": uniform(0.0, 30.0),
            "loop.label_smoothing": uniform(0.0, 0.2),
        }

    def spaces(self) -> Mapping[str, Space]:
        """The ResNet18 deck's: architectures (slide 03), and what its versions (slide 04) froze and scheduled.

        Frozen are all but the head (baseline), all but layer3 and layer4 (U9, slide 05), also layer2 (the published
        notebook), or nothing (U5 to U8). The schedule's factor and patience are left to the job, as is all else.
        """
        resnet18, rates = {"network.backbone": grid("resnet18")}, {"optimizer.learning_rate": grid(1e-3, 1e-4)}
        frozen = {"network.freeze": grid(_STAGES, _STAGES[:3], _STAGES[:2], ())}
        schedules = {
            "loop.class_weights": grid("none", "inverse_frequency"),
            "schedule.name": grid("none", "plateau"),
            "loop.patience": grid(0, 5),
        }
        return {
            "deck-architectures": {"network.backbone": grid(*_COMPARED)},
            "deck-unfreezing": {**resnet18, **rates, **frozen},
            "deck-schedules": {**resnet18, **rates, **schedules},
            "deck-versions": {**resnet18, **rates, **frozen, **schedules},
        }
