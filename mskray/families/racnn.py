"""Recurrent attention: proposals that learn where to look closer, three scales, fused (RA-CNN as ZHAW used it).

mskray train jobs/configs/mura-racnn.yaml

First come epochs in which the proposals learn the peaks of the networks' maps; then, in turn, epochs in which the
networks learn to classify and epochs in which the proposals learn by the rank loss.

What ZHAW does not state of RA-CNN is taken from public versions of it, named in each setting's source.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import ValidationInfo, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from mskray.bundles import Fitted
from mskray.cohorts import Cohort, Task
from mskray.config import Section, is_given, setting
from mskray.families.base import Family, Predictor, register
from mskray.families.torch_predictor import TorchPredictor
from mskray.models.backbones import BACKBONES, Backbone, check_map
from mskray.models.racnn import Phase, Racnn, corners, rank_loss
from mskray.space import Space, choice, grid, loguniform, uniform
from mskray.training.augmentation import augment
from mskray.training.config import DataSection, OptimizerSection, TorchConfig
from mskray.training.fit import fit
from mskray.training.recipe import Answer, Batch
from mskray.training.run import Run
from mskray.training.samples import EachImage
from mskray.training.weights import Starting

_CODE = "RA-CNN, by its public version jeong-tae/RACNN-pytorch"
_STEPS = "RA-CNN, by its public version ouceduxzk/Fine_Grained_Classification"


class RacnnData(DataSection):
    """As of every torch family, at ZHAW's size."""

    image_size: int = setting(
        512,
        "side of the image from which the first scale is cropped",
        unit="px",
        source="ZHAW, section IV-D",
        ge=32,
        le=2048,
    )
    batch_size: int = setting(
        8, "images per worker and step", unit="images", source="ZHAW, section IV-D", ge=1, le=4096
    )


class RacnnOptimizer(OptimizerSection):
    """As of every torch family, with ZHAW's optimizer; its parameters are not stated."""

    name: Literal["adamw", "adam", "sgd"] = setting("adam", "the optimizer", source="ZHAW, section IV-D")


class RacnnSection(Section):
    """The networks of the three scales and the proposals between them."""

    backbone: Literal[BACKBONES] = setting("vgg19", "network of each scale", source="ZHAW, section IV-D")  # type: ignore[valid-type]
    weights: str = setting(
        "imagenet", "of each scale: none, imagenet (torchvision's own), or the URI of a state dict", min_length=1
    )
    crop: int = setting(
        448,
        "side of the first scale, cropped at random in training and from the centre in prediction",
        unit="px",
        source="ZHAW, section IV-D",
        ge=32,
        le=2048,
    )
    zoom: int = setting(224, "side of the second and third scale", unit="px", source=_CODE, ge=32, le=2048)
    smallest: float = setting(
        1 / 3, "half the side that a box has at least, as a share of the image's side", source=_CODE, gt=0, lt=0.5
    )
    sharpness: float = setting(10.0, "k, steepness of the mask's border", unit="1/px", source=_CODE, gt=0, le=100)
    hidden: int = setting(1024, "hidden units of a proposal", source=_CODE, ge=1, le=8192)
    margin: float = setting(
        0.05, "by how much a finer scale's probability shall exceed the coarser's", source=_CODE, ge=0, le=1
    )
    scale_weights: tuple[float, float, float] = setting(
        (1.0, 1.0, 2.0), "weight of each scale in the loss and in the fused answer", source="ZHAW, section IV-D"
    )
    pretraining: int = setting(
        1, "first epochs, in which proposals learn the peaks of the maps", unit="epochs", source=_STEPS, ge=0, le=1000
    )
    alternate: int = setting(
        1, "epochs of classification, then of proposals, in turn", unit="epochs", source=_STEPS, ge=1, le=1000
    )


class RacnnConfig(TorchConfig):
    """Config of the `racnn` family."""

    data: RacnnData = RacnnData()
    network: RacnnSection = RacnnSection()
    optimizer: RacnnOptimizer = RacnnOptimizer()

    @model_validator(mode="after")
    def _sizes_fit(self) -> "RacnnConfig":
        network = self.network
        if network.crop > self.data.image_size:
            raise ValueError(
                f"network.crop = {network.crop} is larger than data.image_size = {self.data.image_size}: lower it"
            )
        check_map("network.crop", network.crop, network.backbone)
        check_map("network.zoom", network.zoom, network.backbone)
        if min(network.scale_weights) < 0 or not sum(network.scale_weights):
            raise ValueError("network.scale_weights: give weights of at least 0, not all of them 0")
        return self

    @model_validator(mode="after")
    def _networks_learn(self) -> "RacnnConfig":
        if self.network.pretraining >= self.loop.epochs:
            raise ValueError(
                f"network.pretraining = {self.network.pretraining} leaves no epoch to classify: raise loop.epochs "
                "above it"
            )
        return self

    @model_validator(mode="after")
    def _patience_outlasts_what_does_not_classify(self, info: ValidationInfo) -> "RacnnConfig":
        """While the networks do not learn, no epoch can be better: that is no reason to stop or to slow down."""
        if not is_given(info):
            return self
        schedule, network = self.schedule, self.network
        still = max(network.pretraining, network.alternate)
        given = {"loop.patience": self.loop.patience}
        if schedule.name == "plateau":
            given["schedule.patience"] = schedule.patience
        for key, patience in given.items():
            if patience <= still and (key, patience) != ("loop.patience", 0):
                raise ValueError(
                    f"{key} = {patience}: for up to {still} epochs on end the networks do not learn "
                    f"(network.pretraining = {network.pretraining}, network.alternate = {network.alternate}): raise it "
                    "above them"
                )
        return self


@dataclass(frozen=True)
class RacnnRecipe(Starting):
    """RA-CNN's side of the shared loop."""

    config: RacnnConfig
    classes: int
    alternates = True

    def build(self) -> Racnn:
        network = self.config.network
        return Racnn(
            network.backbone,
            self.classes,
            size=network.crop,
            zoom=network.zoom,
            hidden=network.hidden,
            smallest=network.smallest,
            k=network.sharpness,
        )

    def phase(self, epoch: int) -> Phase:
        """What learns in an epoch (from 0)."""
        network = self.config.network
        if epoch < network.pretraining:
            return "pretraining"
        turn = (epoch - network.pretraining) // network.alternate
        return "classification" if turn % 2 == 0 else "proposals"

    def set_training(self, network: nn.Module, epoch: int) -> None:
        assert isinstance(network, Racnn)
        network.learn(self.phase(epoch))

    def augment(self, batch: Batch) -> Batch:
        images = augment(batch["image"], self.config.augment)
        return {**batch, "image": random_crop(images, self.config.network.crop)}

    def loss(self, network: nn.Module, batch: Batch, class_weights: Tensor | None) -> Tensor:
        """Return the loss of the phase (RA-CNN eq. 8): cross-entropy of the scales, rank loss, or distance to peaks."""
        logits, boxes, peaks = network(batch["image"])
        phase = getattr(network, "module", network).phase  # on several workers the network is wrapped
        if phase == "pretraining":
            return F.mse_loss(boxes, peaks)
        if phase == "proposals":
            return rank_loss(logits.float().softmax(dim=2), batch["label"], self.config.network.margin)
        losses = [self.cross_entropy(each, batch["label"], class_weights) for each in logits]
        return sum((w * each for w, each in zip(self.config.network.scale_weights, losses, strict=True)), 0 * losses[0])

    def answer(self, network: nn.Module, batch: Batch) -> Answer:
        """Return the weighted mean of the scales, each scale as a part, and where the second and third looked."""
        crop, side = self.config.network.crop, batch["image"].shape[-1]
        margin = (side - crop) // 2
        logits, boxes, _ = network(batch["image"][:, :, margin : margin + crop, margin : margin + crop])
        scales = logits.float().softmax(dim=2)
        weights = scales.new_tensor(self.config.network.scale_weights)
        fused = torch.tensordot(weights / weights.sum(), scales, dims=1)
        placed = corners(boxes) * crop
        placed[..., :2] += margin
        return Answer(
            fused,
            {f"scale {number}": each for number, each in enumerate(scales, start=1)},
            {f"scale {number}": each for number, each in enumerate(placed, start=2)},
        )

    def explained(self, network: nn.Module) -> Backbone:
        """Return the first scale, which sees the whole image."""
        assert isinstance(network, Racnn)
        first = network.scales[0]
        assert isinstance(first, Backbone)
        return first


def random_crop(images: Tensor, size: int) -> Tensor:
    """Cut a square of `size` px out of each of images (n, 1, rows, rows), anywhere, each at its own place."""
    count, room = len(images), images.shape[-1] - size + 1
    top, left = torch.randint(room, (2, count), device=images.device)
    span = torch.arange(size, device=images.device)
    rows, columns = (top[:, None] + span)[:, :, None], (left[:, None] + span)[:, None, :]
    return images[torch.arange(count, device=images.device)[:, None, None], 0, rows, columns].unsqueeze(1)


@register
class RacnnFamily(Family):
    name: ClassVar[str] = "racnn"
    summary: ClassVar[str] = "recurrent attention: learns where to look closer, over three scales"
    Config: ClassVar[type[RacnnConfig]] = RacnnConfig

    def check(self, cohort: Cohort, config: RacnnConfig, task: Task) -> None:
        super().check(cohort, config, task)
        self.check_resolution(cohort, config.data.image_size)

    def fit(self, cohort: Cohort, config: RacnnConfig, run: Run) -> Fitted:
        recipe = RacnnRecipe(config, len(run.task.classes))
        trained = fit(recipe, EachImage(run.task.column), recipe.initial_state, cohort, run)
        return self.fitted(cohort, config, run.task, trained)

    def predictor(self, fitted: Fitted, device: str = "cpu") -> Predictor:
        config = RacnnConfig.model_validate(fitted.config)
        return TorchPredictor(RacnnRecipe(config, len(fitted.classes)), fitted, device)

    def search_space(self) -> Space:
        return {
            "network.backbone": choice("vgg19", "vgg16", "resnet18", "densenet121"),
            "network.smallest": uniform(0.15, 0.4),
            "network.margin": uniform(0.0, 0.2),
            "network.alternate": choice(1, 2, 4),
            "optimizer.learning_rate": loguniform(1e-6, 1e-3),
        }

    def spaces(self) -> Mapping[str, Space]:
        """What ZHAW had to guess (section IV-D, "parameters that are unknown"): 1, 1, 2 and Adam; others are ours."""
        return {
            "unknown": {
                "network.scale_weights": grid((1.0, 1.0, 2.0), (1.0, 1.0, 1.0), (2.0, 1.0, 1.0)),
                "optimizer.name": grid("adam", "sgd"),
                "optimizer.learning_rate": grid(1e-6, 1e-5, 1e-4),
            }
        }
