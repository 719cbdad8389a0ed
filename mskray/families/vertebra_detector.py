"""Finds vertebral bodies and their four corners in sagittal MR volumes, and names them T12 to S1 from below.

    mskray train jobs/configs/phantom-vertebrae.yaml
    mskray evaluate BUNDLE --cohort URI                  bodies found, levels right, corners' error in mm
    mskray find-vertebrae BUNDLE PATH --out corners.json --overlay FOLDER

SpineNet (section 3) begins with these corners: discs are cut between them. A slice is seen between its two neighbours;
the network is one of points ("Objects as Points", arXiv:1904.07850): it gives each body's centre, arrows to its
corners, and how far its own middle slice is away. S1 has a map of its own, since levels are counted from there. What
is learned is where bodies are, and the loop's validation loss is of that; its other figures speak of the task `bodies`
(how many are in view?).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mskray.bundles import Fitted
from mskray.cohorts import Cohort, Task
from mskray.config import Section, setting
from mskray.errors import UserError
from mskray.families.base import Family, register
from mskray.families.vertebra_finding import FAMILY, FindingSection, VertebraPredictor, peak_scores
from mskray.models.detector import DETECTOR_BACKBONES
from mskray.models.vertebrae import INPUT_SLICES, VertebraNetwork, load_encoder
from mskray.space import Space, choice, grid, loguniform, uniform
from mskray.training.augmentation import exposure, moved, moved_points, poses
from mskray.training.centre_loss import centre_loss
from mskray.training.config import AugmentSection, DataSection, LoopSection, Metric, TorchConfig
from mskray.training.fit import fit
from mskray.training.mr_augmentation import MrSection, fields_of_view, points_inside, scanned, seen_inside
from mskray.training.recipe import Answer, Batch, Recipe
from mskray.training.run import Run
from mskray.training.spine_samples import MOST, NONE, PART, SLICES, SpineSamples
from mskray.training.weights import initial_weights

TASK = Task(name="bodies", classes=tuple(str(count) for count in range(MOST + 1)), ordinal=True)
_STRIDE = 32  # the encoder's coarsest: sides of the input are multiples
_SAFE = 1e-4


class VertebraSection(Section):
    """The network."""

    backbone: Literal[DETECTOR_BACKBONES] = setting("mobilenet_v2", "torchvision network, the encoder")  # type: ignore[valid-type]
    weights: str = setting(
        "imagenet", "none, imagenet, or the URI of a classifier's or vertebra detector's state dict", min_length=1
    )
    channels: int = setting(48, "channels of the merged levels", ge=8, le=512)


class SpineData(DataSection):
    """What the loop reads and in what portions."""

    image_size: int = setting(256, "side of the square network input", unit="px", ge=64, le=1024, multiple_of=_STRIDE)


class VertebraAugment(AugmentSection):
    """Where the spine lies. A spine that is mirrored faces the other way, which no sagittal volume does."""

    flip: float = setting(0.0, "none: anterior stays left", ge=0, le=0)
    rotation: float = setting(15.0, "largest rotation either way", unit="degrees", ge=0, le=45)
    translation: float = setting(0.12, "largest shift, as a share of the side", ge=0, le=0.5)
    scale: float = setting(0.35, "largest change of size, as a share", ge=0, le=0.5)
    single: float = setting(
        0.2, "share of the spines that are shown by one slice, which stands for its neighbours", ge=0, le=1
    )


class VertebraLoop(LoopSection):
    """How long, how exactly, and when to stop. What is learned is where bodies are, so classes have no weights."""

    class_weights: Literal["none"] = setting("none", "none: points are learned, not classes of images")
    label_smoothing: float = setting(0.0, "none: points are learned, not classes of images", ge=0, le=0)
    metric: Metric = setting("loss", "picks the best epoch: the loss, or a figure of the number of bodies")


class VertebraDetectorConfig(TorchConfig):
    """Config of the `vertebra_detector` family."""

    data: SpineData = SpineData()
    network: VertebraSection = VertebraSection()
    augment: VertebraAugment = VertebraAugment()
    scanner: MrSection = MrSection()
    loop: VertebraLoop = VertebraLoop()
    finding: FindingSection = FindingSection()


@dataclass(frozen=True)
class VertebraDetectorRecipe(Recipe):
    """The detector's side of the shared loop."""

    config: VertebraDetectorConfig
    classes: int = len(TASK.classes)

    def build(self) -> VertebraNetwork:
        return VertebraNetwork(self.config.network.backbone, self.config.network.channels)

    def initial_state(self) -> dict[str, Tensor]:
        """Build the network with its first weights. Raises UserError when they cannot be had or do not fit."""
        network = self.config.network
        state = initial_weights(network.weights, network.backbone)
        torch.manual_seed(self.config.loop.seed)
        built = self.build()
        if state is not None:
            load_encoder(built, state, network.weights)
        return built.state_dict()

    def augment(self, batch: Batch) -> Batch:
        """Choose a slice and its neighbours, move them with their bodies' corners, and scan them anew.

        A body of which corners leave the field of view is no longer to be found, and to find it is no mistake.
        """
        images, config = batch["image"], self.config
        count, size, device = len(images), images.shape[-1], images.device
        away = torch.randint(-1, 2, (count,), device=device)
        single = torch.rand(count, device=device) < config.augment.single
        drawn = poses(count, config.augment, device)
        views = fields_of_view(count, config.scanner, size, device)
        image = moved(_around(images, away, single), drawn, outside="zeros")
        image = seen_inside(exposure(scanned(image, config.scanner), config.augment), views)
        corners = moved_points(batch["corners"].flatten(1, 2), drawn, size).view_as(batch["corners"])
        inside = points_inside(corners, views)
        part = torch.where(inside.any(dim=2), PART, NONE)
        kinds = torch.where(inside.all(dim=2) | (batch["kinds"] == NONE), batch["kinds"], part)
        slices = batch["slices"] - away[:, None]
        return {**batch, "image": image, "corners": corners, "kinds": kinds, "slices": slices, "sliced": ~single}

    def loss(self, network: nn.Module, batch: Batch, class_weights: Tensor | None) -> Tensor:
        """Focal loss of centres with L1 of corners and of the middle slice."""
        maps = network(batch["image"])
        return centre_loss(maps, batch["corners"], batch["kinds"], batch["slices"], batch["sliced"].float())

    def answer(self, network: nn.Module, batch: Batch) -> Answer:
        """Probabilities of 0 to MOST bodies, the peaks of the middle slice's map taken for independent.

        The part `loss` (n, 1) is the batch's, of its middle slices.
        """
        images = batch["image"]
        nowhere = torch.zeros(len(images), device=images.device)
        maps = network(_around(images, nowhere.long(), nowhere.bool()))
        missed = centre_loss(maps, batch["corners"], batch["kinds"], batch["slices"], torch.ones_like(nowhere))
        return Answer(count_probabilities(peak_scores(maps.centres)[0]), {"loss": missed.expand(len(images), 1)})

    def judged(self, answer: Answer) -> Tensor:
        return torch.cat([answer.probabilities, answer.parts["loss"]], dim=1)

    def judge(self, judged: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Figures of the number of bodies, but for `val_loss`: where they are said to be is what it is of."""
        return {**super().judge(judged[:, :-1], labels), "val_loss": float(judged[:, -1].mean())}


def count_probabilities(scores: Tensor) -> Tensor:
    """Return the probabilities (n, MOST + 1) of how many of k independent things are there, of scores (n, k).

    The last also holds those of more. This is the Poisson binomial distribution, by its recursion over the things.
    """
    counts = torch.zeros(len(scores), MOST + 1, device=scores.device, dtype=scores.dtype)
    counts[:, 0] = 1
    for score in scores.T[..., None]:
        fewer = counts * (1 - score)
        fewer[:, -1] = counts[:, -1]
        counts = fewer + F.pad(counts[:, :-1] * score, (1, 0))
    counts = counts.clamp(min=_SAFE)
    return counts / counts.sum(dim=1, keepdim=True)


def _around(images: Tensor, away: Tensor, single: Tensor) -> Tensor:
    """Return each image's slice `away` (n,) from its middle one between its neighbours, or thrice where `single`."""
    middle = images.shape[1] // 2 + away
    beside = torch.arange(INPUT_SLICES, device=images.device) - INPUT_SLICES // 2
    chosen = middle[:, None] + torch.where(single[:, None], 0, beside)
    return images[torch.arange(len(images), device=images.device)[:, None], chosen]


@register
class VertebraDetector(Family):
    name: ClassVar[str] = FAMILY
    summary: ClassVar[str] = "finds vertebral bodies and their corners in sagittal MR volumes, named T12 to S1"
    kinds: ClassVar[tuple[str, ...]] = ("spine",)
    sample: ClassVar[str] = "spine"
    Config: ClassVar[type[VertebraDetectorConfig]] = VertebraDetectorConfig
    judged_by: ClassVar[str] = "image.loss"
    tells_classes: ClassVar[bool] = False
    learns: ClassVar[str] = "corners"

    def task(self, cohort: Cohort, name: str) -> Task:
        """Return the task `bodies`, whatever tasks the cohort has: corners are what is learned from."""
        if name not in ("", TASK.name):
            raise UserError(
                f"family {self.name} learns from corners, not from the task {name!r}: leave the key task out"
            )
        return TASK

    def sees_whole_images(self, config: Mapping[str, Any]) -> bool:
        return False

    def check(self, cohort: Cohort, config: VertebraDetectorConfig, task: Task) -> None:
        self.check_kind(cohort)
        if not cohort.manifest.vertebrae:
            raise UserError(
                f"cohort {cohort.location} has no corners of vertebral bodies: ingest one with them "
                "(source phantom-spine)"
            )
        if cohort.image.slices < SLICES:
            raise UserError(f"cohort {cohort.location} holds {cohort.image.slices} slices a spine, fewer than {SLICES}")

    def fit(self, cohort: Cohort, config: VertebraDetectorConfig, run: Run) -> Fitted:
        recipe = VertebraDetectorRecipe(config)
        trained = fit(recipe, SpineSamples(cohort.image.size), recipe.initial_state, cohort, run)
        return self.fitted(cohort, config, run.task, trained)

    def predictor(self, fitted: Fitted, device: str = "cpu") -> VertebraPredictor:
        config = VertebraDetectorConfig.model_validate(fitted.config)
        return VertebraPredictor(VertebraDetectorRecipe(config), fitted, config.finding, device)

    def search_space(self) -> Space:
        return {
            "network.backbone": choice(*DETECTOR_BACKBONES),
            "network.channels": choice(32, 48, 64, 96),
            "optimizer.learning_rate": loguniform(1e-4, 1e-2),
            "augment.scale": uniform(0.0, 0.5),
            "scanner.gamma": uniform(0.0, 1.2),
        }

    def spaces(self) -> Mapping[str, Space]:
        """Ours: SpineNet finds bodies otherwise (section 3)."""
        return {
            "encoders": {
                "network.backbone": grid(*DETECTOR_BACKBONES),
                "network.channels": grid(32, 48, 96),
            }
        }
