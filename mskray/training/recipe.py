"""What a torch family tells the shared loop: its network, its loss and its answers."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mskray.cohorts import Task
from mskray.errors import UserError
from mskray.models.backbones import Backbone
from mskray.training.augmentation import augment
from mskray.training.config import TorchConfig
from mskray.training.validation import validation_metrics

Batch = Mapping[str, Tensor]
"""What a family's samples hold, on the device (`to_batch`): `image` in [0, 1], `label` (n,) or (n, tasks), its own."""


@dataclass(frozen=True)
class Answer:
    """What a network says of a batch.

    Args:
        probabilities: (n, classes), rows sum to 1.
        parts: the same question answered by parts of the network, such as its local branch; (n, classes) each.
        boxes: named boxes (n, 4), x, y, w, h in pixels of the network's input.
    """

    probabilities: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)
    boxes: Mapping[str, Tensor] = field(default_factory=dict)


class Recipe(ABC):
    """A family's side of the loop. It travels to the workers, so it holds settings only, no tensors."""

    config: TorchConfig
    tasks: tuple[Task, ...] = ()
    """Tasks learned at once, in the order of the labels (n, tasks); none: the run's task alone, with labels (n,)."""
    compiles: ClassVar[bool] = False
    """Whether torch's compiler may have the network (`resources.compile`): no hooks come and go in it."""
    alternates: bool = False
    """Whether `set_training` changes which parameters learn from epoch to epoch."""

    @abstractmethod
    def build(self) -> nn.Module:
        """Return a freshly initialised network; the loop has seeded torch before."""

    @abstractmethod
    def loss(self, network: nn.Module, batch: Batch, class_weights: Tensor | None) -> Tensor:
        """Return the scalar loss of an augmented batch.

        Args:
            class_weights: (classes,), of several tasks one after the other; None without weights.
        """

    @abstractmethod
    def answer(self, network: nn.Module, batch: Batch) -> Answer:
        """Return what the network says of a batch without labels."""

    def judged(self, answer: Answer) -> Tensor:
        """Return what of an answer `judge` needs, (n, …)."""
        return answer.probabilities

    def judge(self, judged: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Return `val_<metric>` for every metric that `loop.metric` may name, of a whole validation split."""
        return validation_metrics(judged, labels)

    def set_training(self, network: nn.Module, epoch: int) -> None:
        """Put the network in training mode for an epoch (from 0), its frozen parts excepted."""
        network.train()

    def augment(self, batch: Batch) -> Batch:
        """Return a randomly changed copy of a training batch."""
        return {**batch, "image": augment(batch["image"], self.config.augment)}

    def cross_entropy(self, logits: Tensor, labels: Tensor, class_weights: Tensor | None) -> Tensor:
        """Mean over samples, weighted by class and smoothed as `loop` asks; logits (n, classes), labels (n,)."""
        return F.cross_entropy(logits, labels, class_weights, label_smoothing=self.config.loop.label_smoothing)

    def explained(self, network: nn.Module) -> Backbone:
        """Return the part of the network that explanations look into; it takes whole images (n, 1, rows, columns).

        Raises:
            UserError: no part of the network does.
        """
        if isinstance(network, Backbone):
            return network
        raise UserError(
            f"a {type(network).__name__} cannot be explained by maps: it has no part that takes one whole image"
        )


def to_batch(arrays: Mapping[str, np.ndarray], device: torch.device) -> dict[str, Tensor]:
    """Move a batch to the device, `image` as `scaled` has it."""
    return scaled({name: as_tensor(values).to(device, non_blocking=True) for name, values in arrays.items()})


def as_tensor(values: np.ndarray) -> Tensor:
    """Return an array as a tensor of the same dtype, on the CPU."""
    return torch.from_numpy(np.ascontiguousarray(values))


def scaled(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a batch with `image` in [0, 1].

    It is (n, rows, columns) or (n, views, rows, columns), uint8 or uint16, and becomes float, with a channel added
    where it has none.
    """
    return {name: unit_range(values) if name == "image" else values for name, values in tensors.items()}


def unit_range(images: Tensor) -> Tensor:
    """Scale uint8 or uint16 images to float (n, 1 or views, rows, columns) in [0, 1], where they are."""
    top = float(torch.iinfo(images.dtype).max)
    return (images.unsqueeze(1) if images.ndim == 3 else images).float().div_(top)


def to_unit_range(images: np.ndarray, device: torch.device) -> Tensor:
    """Move uint8 or uint16 images to the device and scale them (`unit_range`)."""
    return unit_range(as_tensor(images).to(device, non_blocking=True))


def inverse_frequency(labels: np.ndarray, classes: int) -> list[float]:
    """Weight of each class: rows / (classes × rows of the class), as on the ResNet18 deck's slide 05.

    The mean weight over rows is 1. A class without a row gets weight 0.
    """
    counts = np.bincount(labels, minlength=classes).astype(float)
    return [float(len(labels) / (classes * count)) if count else 0.0 for count in counts]
