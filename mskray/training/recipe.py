"""What a torch family tells the shared loop: its network, its loss and its probabilities."""

from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from mskray.training.config import TorchConfig


class Recipe(Protocol):
    """A family's side of the loop. It travels to the workers, so it holds settings only, no tensors."""

    @property
    def config(self) -> TorchConfig: ...

    @property
    def classes(self) -> int: ...

    def build(self) -> nn.Module:
        """Return a freshly initialised network; the loop has seeded torch before."""
        ...

    def set_training(self, network: nn.Module) -> None:
        """Put the network in training mode, its frozen parts excepted."""
        ...

    def loss(self, network: nn.Module, images: Tensor, labels: Tensor, class_weights: Tensor | None) -> Tensor:
        """Return the scalar loss of augmented images (n, 1, rows, columns) in [0, 1] with labels (n,)."""
        ...

    def probabilities(self, network: nn.Module, images: Tensor) -> Tensor:
        """Return (n, classes) probabilities of images (n, 1, rows, columns) in [0, 1]."""
        ...


def to_unit_range(images: np.ndarray, device: torch.device) -> Tensor:
    """Move (n, rows, columns) uint8 or uint16 to the device and scale to float (n, 1, rows, columns) in [0, 1]."""
    top = float(np.iinfo(images.dtype).max)
    if images.dtype == np.uint16:
        images = images.astype(np.int32)  # torch moves int32 everywhere, uint16 not
    tensor = torch.from_numpy(np.ascontiguousarray(images))
    return tensor.to(device, non_blocking=True).unsqueeze(1).float().div_(top)


def inverse_frequency(labels: np.ndarray, classes: int) -> list[float]:
    """Weight of each class: rows / (classes × rows of the class), as on the ResNet18 deck's slide 05.

    The mean weight over rows is 1. A class without a row gets weight 0.
    """
    counts = np.bincount(labels, minlength=classes).astype(float)
    return [float(len(labels) / (classes * count)) if count else 0.0 for count in counts]
