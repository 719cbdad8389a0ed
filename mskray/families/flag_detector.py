"""Finds L/R markers ("flags") and implants, so that flags can be taken out of images (ZHAW, sections II-B, IV-B2).

    mskray train jobs/configs/phantom-flags.yaml
    mskray evaluate BUNDLE --cohort URI             AP50, precision and recall of both kinds
    mskray remove-flags BUNDLE COHORT --out URI     a cohort without flags
    mskray ensemble … --remove-flags BUNDLE         flags removed before every prediction

Implants are a kind of their own because a detector that does not know them takes them for flags. What is learned is
where things are; the task `flags` (does the image show one?) is what the loop's validation figures speak of.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from mskray.bundles import Fitted
from mskray.cohorts import Cohort, Task
from mskray.config import Section, setting
from mskray.errors import UserError
from mskray.families.base import Family, register
from mskray.families.flag_removal import FLAG, KINDS, FlagPredictor, RemovalSection
from mskray.models.detector import DETECTOR_BACKBONES, Detector, Method, load_detector
from mskray.space import Space, choice, grid, loguniform, uniform
from mskray.training.augmentation import exposure, moved, moved_boxes, poses
from mskray.training.box_samples import BoxSamples
from mskray.training.config import AugmentSection, LoopSection, Metric, TorchConfig
from mskray.training.fit import fit
from mskray.training.recipe import Answer, Batch, Recipe
from mskray.training.run import Run
from mskray.training.weights import initial_weights

TASK = Task(name="flags", classes=("no_flag", "flag"))
# A box is learned from while at least this share of it is inside the augmented image.
_VISIBLE = 0.4
_SAFE = 1e-3


class DetectorSection(Section):
    """The network."""

    method: Method = setting("faster_rcnn", "boxes, or boxes and pixels", source="ZHAW, sections II-B and IV-B2")
    backbone: Literal[DETECTOR_BACKBONES] = setting("resnet50", "torchvision network", source="ZHAW, section II-B")  # type: ignore[valid-type]
    weights: str = setting(
        "imagenet",
        "none, imagenet (the backbone's, with BatchNorm kept as it is), or the URI of a classifier's or detector's "
        "state dict",
        min_length=1,
    )
    channels: int = setting(256, "channels of the feature pyramid", ge=16, le=512)
    finest_stride: Literal[4, 8] = setting(4, "stride of the pyramid's finest level", unit="px")
    anchor: float = setting(32.0, "side of the finest level's anchors; it doubles a level", unit="px", ge=4, le=512)
    proposals: int = setting(1000, "regions that the first stage passes on", ge=10, le=10_000)
    regions: int = setting(512, "regions of an image that the second stage learns from", ge=8, le=4096)


class DetectorAugment(AugmentSection):
    """Changes that leave letters readable and boxes tight. A mirrored L is no letter, so nothing is mirrored."""

    flip: float = setting(0.0, "none: a mirrored L is no letter", ge=0, le=0)
    rotation: float = setting(0.0, "largest rotation either way; a turned box grows", unit="degrees", ge=0, le=5)


class DetectorLoop(LoopSection):
    """How long, how exactly, and when to stop. What is learned is where things are, so classes have no weights."""

    class_weights: Literal["none"] = setting("none", "none: boxes are learned, not classes of images")
    label_smoothing: float = setting(0.0, "none: boxes are learned, not classes of images", ge=0, le=0)
    metric: Metric = setting("loss", "validation metric, of whether an image shows a flag, that picks the best epoch")


class FlagDetectorConfig(TorchConfig):
    """Config of the `flag_detector` family."""

    network: DetectorSection = DetectorSection()
    augment: DetectorAugment = DetectorAugment()
    loop: DetectorLoop = DetectorLoop()
    removal: RemovalSection = RemovalSection()


@dataclass(frozen=True)
class FlagDetectorRecipe(Recipe):
    """The detector's side of the shared loop."""

    config: FlagDetectorConfig
    classes: int = len(TASK.classes)

    def build(self) -> Detector:
        network = self.config.network
        return Detector(
            method=network.method,
            backbone=network.backbone,
            kinds=len(KINDS),
            size=self.config.data.image_size,
            channels=network.channels,
            finest=network.finest_stride,
            anchor=network.anchor,
            proposals=network.proposals,
            regions=network.regions,
            frozen_norm=network.weights != "none",
        )

    def initial_state(self) -> dict[str, Tensor]:
        """Build the network with its first weights. Raises UserError when they cannot be had or do not fit."""
        network = self.config.network
        state = initial_weights(network.weights, network.backbone)
        torch.manual_seed(self.config.loop.seed)
        built = self.build()
        if state is not None:
            load_detector(built, state, network.weights)
        return built.state_dict()

    def augment(self, batch: Batch) -> Batch:
        """Move and re-expose images, their boxes and masks with them; boxes that leave the image go."""
        drawn, size = poses(len(batch["image"]), self.config.augment, batch["image"].device), batch["image"].shape[-1]
        image = exposure(moved(batch["image"], drawn), self.config.augment)
        whole = moved_boxes(batch["boxes"], drawn, size)
        boxes = whole.clamp(0, size)
        seen = _area(boxes) >= _VISIBLE * _area(whole)
        kinds = batch["kinds"] * (seen & (_area(boxes) > 1))
        result = {**batch, "image": image, "boxes": boxes, "kinds": kinds}
        if "masks" in batch:
            bits = moved(batch["masks"][:, None].float(), drawn, "nearest", "zeros")
            result["masks"] = bits[:, 0].to(torch.uint8)
        return result

    def loss(self, network: nn.Module, batch: Batch, class_weights: Tensor | None) -> Tensor:
        """Sum of torchvision's losses: both stages' kinds and boxes and, for mask_rcnn, pixels."""
        return torch.stack(list(network(batch["image"], targets(batch)).values())).sum()

    def answer(self, network: nn.Module, batch: Batch) -> Answer:
        """The probability of a flag is the score of the best one; `boxes` has the best of each kind, 0 for none."""
        found = network(batch["image"])
        best = {kind: torch.stack([_best(each, 1 + place) for each in found]) for place, kind in enumerate(KINDS)}
        shows = best[FLAG][:, 4].clamp(_SAFE, 1 - _SAFE)
        boxes = {kind: torch.cat([row[:, :2], row[:, 2:4] - row[:, :2]], dim=1) for kind, row in best.items()}
        return Answer(torch.stack([1 - shows, shows], dim=1), boxes=boxes)


def targets(batch: Batch) -> list[dict[str, Tensor]]:
    """Turn padded boxes, kinds and masks into torchvision's list of one mapping an image, without the padding."""
    present = batch["kinds"] > 0
    found = [
        {"boxes": boxes[here], "labels": kinds[here]}
        for boxes, kinds, here in zip(batch["boxes"], batch["kinds"], present, strict=True)
    ]
    if "masks" in batch:
        numbers = torch.arange(present.shape[1], device=present.device, dtype=torch.uint8)
        planes = (batch["masks"][:, None] >> numbers[:, None, None]) & 1
        for target, plane, here in zip(found, planes, present, strict=True):
            target["masks"] = plane[here]
    return found


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def _best(found: Mapping[str, Tensor], kind: int) -> Tensor:
    """(5,) box and score of the surest detection of a kind; zeros where there is none."""
    hits = torch.nonzero(found["labels"] == kind)[:1, 0]
    rows = torch.cat([found["boxes"], found["scores"][:, None]], dim=1)[hits].float()
    return rows[0] if len(rows) else rows.new_zeros(5)


@register
class FlagDetector(Family):
    name: ClassVar[str] = "flag_detector"
    summary: ClassVar[str] = "finds L/R markers and implants with Faster R-CNN or Mask R-CNN; removes markers"
    Config: ClassVar[type[FlagDetectorConfig]] = FlagDetectorConfig
    judged_by: ClassVar[str] = "image.auroc"
    tells_classes: ClassVar[bool] = False
    learns: ClassVar[str] = "boxes"

    def task(self, cohort: Cohort, name: str) -> Task:
        """Return the task `flags`, whatever tasks the cohort has: boxes are what is learned from."""
        if name not in ("", TASK.name):
            raise UserError(f"family {self.name} learns from boxes, not from the task {name!r}: leave the key task out")
        return TASK

    def sees_whole_images(self, config: Mapping[str, Any]) -> bool:
        return False

    def check(self, cohort: Cohort, config: FlagDetectorConfig, task: Task) -> None:
        self.check_kind(cohort)
        for split in ("train", "validation"):
            shown = BoxSamples(KINDS).labels(cohort.columns(split, ["findings"]))
            if not shown.any():
                raise UserError(
                    f"cohort {cohort.location}, split {split}, has no box of a flag: ingest it with annotations "
                    "(sources grazpedwri and phantom, or manifest with annotations=COCO.json)"
                )
            if shown.all():
                raise UserError(
                    f"cohort {cohort.location}, split {split}: every image has a flag; whether one is found where none "
                    "is needs some without"
                )

    def fit(self, cohort: Cohort, config: FlagDetectorConfig, run: Run) -> Fitted:
        recipe = FlagDetectorRecipe(config)
        samples = BoxSamples(KINDS, config.network.method == "mask_rcnn", cohort.manifest.masks)
        trained = fit(recipe, samples, recipe.initial_state, cohort, run)
        return self.fitted(cohort, config, run.task, trained)

    def predictor(self, fitted: Fitted, device: str = "cpu") -> FlagPredictor:
        config = FlagDetectorConfig.model_validate(fitted.config)
        return FlagPredictor(FlagDetectorRecipe(config), fitted, config.removal, device)

    def search_space(self) -> Space:
        return {
            "network.method": choice("faster_rcnn", "mask_rcnn"),
            "network.anchor": loguniform(8.0, 64.0),
            "network.channels": choice(64, 128, 256),
            "optimizer.learning_rate": loguniform(1e-5, 1e-2),
            "augment.scale": uniform(0.0, 0.4),
        }

    def spaces(self) -> Mapping[str, Space]:
        """ZHAW's two detectors (section IV-B2), each at rates of ours: it states none."""
        return {
            "methods": {
                "network.method": grid("faster_rcnn", "mask_rcnn"),
                "optimizer.learning_rate": grid(1e-4, 3e-4, 1e-3),
            }
        }
