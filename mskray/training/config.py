"""The config sections that every torch family shares; a family adds its own `network` section.

`mskray families classifier` prints them all.
"""

from typing import Literal

from pydantic import ValidationInfo, model_validator

from mskray.config import Section, is_given, setting
from mskray.imaging.inputs import InputFormat, Intensity

Metric = Literal["auroc", "kappa", "balanced_accuracy", "accuracy", "f1", "loss"]


class DataSection(Section):
    """What the loop reads and in what portions."""

    image_size: int = setting(224, "side of the square network input", unit="px", ge=32, le=2048)
    intensity: Intensity = setting(
        "stored", "grey levels as stored, or stretched between each image's percentiles", source="ZHAW, section III-B"
    )
    batch_size: int = setting(32, "images per worker and step", unit="images", ge=1, le=4096)
    shuffle_window: int = setting(
        8192, "rows among which order is random, beside the order of shards", unit="rows", ge=64, le=1_000_000
    )
    cache: Literal["auto", "memory", "stream"] = setting(
        "auto", "keep decoded shards in each node's shared memory, stream them anew each epoch, or decide by size"
    )

    @property
    def input_format(self) -> InputFormat:
        return InputFormat(self.image_size, self.intensity)


class OptimizerSection(Section):
    """How the weights move."""

    name: Literal["adamw", "adam", "sgd"] = setting("adamw", "the optimizer")
    learning_rate: float = setting(3e-4, "peak learning rate", gt=0, le=10)
    weight_decay: float = setting(1e-4, "decay of weights (decoupled for adamw)", ge=0, le=1)
    momentum: float = setting(0.9, "momentum, sgd only", ge=0, lt=1)
    accumulate: int = setting(1, "steps whose gradients are summed before the weights move", unit="steps", ge=1, le=256)
    clip_norm: float = setting(0.0, "largest gradient norm; 0 leaves gradients as they are", ge=0, le=1e4)


class ScheduleSection(Section):
    """How the learning rate moves."""

    name: Literal["none", "plateau", "step", "cosine", "one_cycle"] = setting("cosine", "the schedule")
    factor: float = setting(
        0.5, "plateau and step: what the rate is multiplied by", gt=0, lt=1, source="ResNet18 deck, slide 05"
    )
    patience: int = setting(2, "plateau: epochs without improvement before the rate falls", unit="epochs", ge=0, le=100)
    every: int = setting(
        20, "step: epochs between two falls of the rate", unit="epochs", ge=1, le=10_000, source="KALM, section 4.1"
    )
    warmup: float = setting(0.1, "cosine and one_cycle: share of all steps in which the rate rises", ge=0, lt=1)


class AugmentSection(Section):
    """Changes that a radiograph could show by itself: pose, collimation, exposure. Nothing is erased or recoloured."""

    flip: float = setting(0.5, "probability of a left-right mirror", ge=0, le=1, source="ResNet18 deck, slide 05")
    rotation: float = setting(
        10.0, "largest rotation either way", unit="degrees", ge=0, le=180, source="ResNet18 deck, slide 05"
    )
    translation: float = setting(0.05, "largest shift, as a share of the side", ge=0, le=0.5)
    scale: float = setting(0.1, "largest change of size, as a share", ge=0, le=0.5)
    crop: float = setting(
        0.0, "largest share of the area that a random crop leaves out", ge=0, lt=1, source="ResNet18 deck, slide 05"
    )
    brightness: float = setting(0.1, "largest change of brightness, as a share of the range", ge=0, le=1)
    contrast: float = setting(
        0.2, "largest change of contrast, as a share", ge=0, le=1, source="ResNet18 deck, slide 05"
    )


class LoopSection(Section):
    """How long, how exactly, and when to stop."""

    epochs: int = setting(10, "passes over the training split", unit="epochs", ge=1, le=10_000)
    seed: int = setting(0, "seed of order, augmentation, initialisation and dropout", ge=0, le=2**31 - 1)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = setting(
        "auto", "number format of the forward pass; auto is fp32 on CPU and mixed precision on GPU"
    )
    class_weights: Literal["none", "inverse_frequency"] = setting(
        "none", "weight of each class in the loss", source="ResNet18 deck, slide 05"
    )
    label_smoothing: float = setting(0.0, "share of each label spread over the other classes", ge=0, lt=1)
    metric: Metric = setting("auroc", "validation metric that picks the best epoch, steers plateau and stopping")
    patience: int = setting(0, "epochs without improvement before training stops; 0 never stops", ge=0, le=1000)
    checkpoint_minutes: float = setting(
        5.0, "time between checkpoints inside an epoch; 0 for one at each epoch's end alone", unit="min", ge=0, le=1440
    )


class TorchConfig(Section):
    """Base of a torch family's config."""

    data: DataSection = DataSection()
    optimizer: OptimizerSection = OptimizerSection()
    schedule: ScheduleSection = ScheduleSection()
    augment: AugmentSection = AugmentSection()
    loop: LoopSection = LoopSection()

    @model_validator(mode="after")
    def _stopping_leaves_room_for_plateau(self, info: ValidationInfo) -> "TorchConfig":
        if is_given(info):
            plateau_can_fire(self.schedule, self.loop, "schedule")
        return self


def plateau_can_fire(schedule: ScheduleSection, loop: LoopSection, where: str) -> None:
    """Raise ValueError where no epoch is left to train at the rate of the plateau schedule `where`.

    The rate falls after `patience` + 1 epochs without improvement. In the ResNet18 deck training stops before.
    """
    if schedule.name == "plateau" and 0 < loop.patience <= schedule.patience + 1:
        raise ValueError(
            f"loop.patience = {loop.patience} stops training before {where}.patience = {schedule.patience} lets the "
            f"plateau schedule fire: loop.patience must be {schedule.patience + 2} at least, or 0 never to stop"
        )
