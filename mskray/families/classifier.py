"""Fine-tuned ImageNet networks on radiographs: baselines of ZHAW, KALM's global rows and the ResNet18 recipe.

mskray train jobs/configs/phantom-mobilenet.yaml
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import model_validator
from torch import Tensor, nn

from mskray.bundles import Fitted
from mskray.cohorts import Cohort
from mskray.config import Section, setting
from mskray.families.base import Family, Predictor, register
from mskray.families.torch_predictor import TorchPredictor
from mskray.models.backbones import BACKBONES, Backbone, check_input_size
from mskray.training.config import TorchConfig
from mskray.training.fit import fit
from mskray.training.recipe import Answer, Batch
from mskray.training.run import Run
from mskray.training.samples import EachImage
from mskray.training.weights import Starting


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

    def search_space(self) -> dict[str, Any]:
        return {
            "network.backbone": list(BACKBONES),
            "optimizer.learning_rate": (1e-5, 1e-2),
            "optimizer.weight_decay": (1e-6, 1e-2),
            "schedule.name": ["plateau", "cosine", "one_cycle"],
            "augment.rotation": (0.0, 30.0),
            "loop.label_smoothing": (0.0, 0.2),
        }
