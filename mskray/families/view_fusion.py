"""Studies of several views judged as a whole: stacked at the input (early fusion) or pooled as features (late).

mskray train jobs/configs/mura-early-fusion.yaml
mskray train jobs/configs/mura-late-fusion.yaml

Early fusion is ZHAW's experiment, late fusion the one that it recommends instead (section IV-E). Learns from studies:
`data.batch_size` and every figure of the run count studies.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from pydantic import model_validator
from torch import Tensor, nn

from mskray.bundles import Fitted
from mskray.cohorts import Cohort
from mskray.config import setting
from mskray.errors import UserError
from mskray.families.base import Family, Predictor, register
from mskray.families.classifier import NetworkSection
from mskray.families.torch_predictor import StudyPredictor
from mskray.models.backbones import BACKBONES, Backbone, check_input_size
from mskray.models.view_fusion import LateFusion, Pooling, real_views, repeat_views
from mskray.space import Space, choice, grid, loguniform, only
from mskray.training.augmentation import augment
from mskray.training.config import DataSection, TorchConfig
from mskray.training.fit import fit
from mskray.training.recipe import Answer, Batch
from mskray.training.run import Run
from mskray.training.samples import Studies
from mskray.training.weights import Starting


class StudyData(DataSection):
    """As of every torch family, in studies: a sample holds up to `network.views` images."""

    batch_size: int = setting(8, "studies per worker and step", unit="studies", ge=1, le=4096)
    shuffle_window: int = setting(
        2048, "studies among which order is random, beside the order of shards", unit="studies", ge=64, le=1_000_000
    )


class FusionSection(NetworkSection):
    """The network, and where it brings the views of a study together."""

    backbone: Literal[BACKBONES] = setting("vgg19", "network of the views", source="ZHAW, section IV-E")  # type: ignore[valid-type]
    fusion: Literal["early", "late"] = setting(
        "late", "stack views at the input, or pool the features of one shared network", source="ZHAW, section IV-E"
    )
    views: int = setting(
        6,
        "most views of a study: in training, and with early fusion also in prediction, later ones are left out",
        unit="views",
        source="ZHAW, section IV-E",
        ge=1,
        le=32,
    )
    pooling: Pooling = setting("mean", "late fusion: how features of a study's views become one")
    attention_units: int = setting(
        128, "late fusion by attention: hidden units", ge=1, le=4096, source="Ilse et al. 2018, section 4"
    )
    repeat_crop: float = setting(
        0.875, "early fusion: side of the crops that repeat views where a study has few", gt=0, le=1
    )


class ViewFusionConfig(TorchConfig):
    """Config of the `view_fusion` family."""

    data: StudyData = StudyData()
    network: FusionSection = FusionSection()

    @model_validator(mode="after")
    def _input_is_large_enough(self) -> "ViewFusionConfig":
        check_input_size("data.image_size", self.data.image_size, self.network.backbone)
        return self


@dataclass(frozen=True)
class ViewFusionRecipe(Starting):
    """View fusion's side of the shared loop."""

    config: ViewFusionConfig
    classes: int

    @property
    def early(self) -> bool:
        return self.config.network.fusion == "early"

    def build(self) -> nn.Module:
        network = self.config.network
        if self.early:
            return Backbone(network.backbone, self.classes, network.freeze, channels=network.views)
        return LateFusion(network.backbone, self.classes, network.pooling, network.attention_units, network.freeze)

    def augment(self, batch: Batch) -> Batch:
        """Change each view by its own amounts; the repeats of early fusion count as views."""
        batch = self._filled(batch)
        images = batch["image"].clone()
        real = real_views(batch["views"], images.shape[1])
        images[real] = augment(images[real].unsqueeze(1), self.config.augment).squeeze(1)
        return {**batch, "image": images}

    def loss(self, network: nn.Module, batch: Batch, class_weights: Tensor | None) -> Tensor:
        """Cross-entropy of the study's label, weighted by class where `loop.class_weights` asks for it."""
        return self.cross_entropy(self._logits(network, batch), batch["label"], class_weights)

    def answer(self, network: nn.Module, batch: Batch) -> Answer:
        return Answer(self._logits(network, batch).float().softmax(dim=1))

    def explained(self, network: nn.Module) -> Backbone:
        """Return late fusion's shared network: on one view it answers as the whole does on a study of that view."""
        if isinstance(network, LateFusion):
            return network.backbone
        raise UserError(
            "early fusion sees all views of a study as one image, so that a single view cannot be explained: "
            "use network.fusion=late"
        )

    def _logits(self, network: nn.Module, batch: Batch) -> Tensor:
        logits: Tensor = (
            network(self._filled(batch)["image"]) if self.early else network(batch["image"], batch["views"])
        )
        return logits

    def _filled(self, batch: Batch) -> Batch:
        """For early fusion, fill every slot by repeats; what is full, and all of late fusion, stays as it is."""
        images, views = batch["image"], batch["views"]
        slots = images.shape[1]
        if not self.early or bool((views == slots).all()):
            return batch
        images = repeat_views(images, views, self.config.network.repeat_crop)
        return {**batch, "image": images, "views": torch.full_like(views, slots)}


@register
class ViewFusion(Family):
    name: ClassVar[str] = "view_fusion"
    summary: ClassVar[str] = "all views of a study at once, stacked (early fusion) or with pooled features (late)"
    sample: ClassVar[str] = "study"
    Config: ClassVar[type[ViewFusionConfig]] = ViewFusionConfig

    def sees_whole_images(self, config: Mapping[str, Any]) -> bool:
        return ViewFusionConfig.model_validate(config).network.fusion == "late"

    def fit(self, cohort: Cohort, config: ViewFusionConfig, run: Run) -> Fitted:
        recipe = ViewFusionRecipe(config, len(run.task.classes))
        trained = fit(recipe, Studies(run.task.column, config.network.views), recipe.initial_state, cohort, run)
        return self.fitted(cohort, config, run.task, trained)

    def predictor(self, fitted: Fitted, device: str = "cpu") -> Predictor:
        config = ViewFusionConfig.model_validate(fitted.config)
        recipe = ViewFusionRecipe(config, len(fitted.classes))
        return StudyPredictor(recipe, fitted, device, slots=config.network.views if recipe.early else None)

    def search_space(self) -> Space:
        return {
            "network.backbone": choice("vgg19", "resnet18", "densenet169"),
            "network.fusion": choice("early", "late"),
            "network.pooling": only(choice("mean", "max", "attention"), network__fusion="late"),
            "network.views": choice(3, 4, 6),
            "optimizer.learning_rate": loguniform(1e-5, 1e-2),
            "optimizer.weight_decay": loguniform(1e-6, 1e-2),
            "schedule.name": choice("plateau", "cosine", "one_cycle"),
        }

    def spaces(self) -> Mapping[str, Space]:
        """ZHAW's early fusion of six views and the late fusion that it recommends (section IV-E), by any pooling."""
        return {
            "fusion": {
                "network.fusion": grid("early", "late"),
                "network.views": grid(6),
                "network.pooling": only(grid("mean", "max", "attention"), network__fusion="late"),
            }
        }
