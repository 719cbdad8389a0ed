"""A training's checkpoint: weights, the optimizer's state and where the training stands, three files of a folder.

It is written after each epoch and goes to the run's storage; a run that was cut off goes on from it with the same
result. A training of another config may go on from it as well: it keeps its own rates then (`Part` of a run).
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from mskray.training.config import OptimizerSection
from mskray.training.schedules import Schedule

WEIGHTS, OPTIMIZER, POSITION = FILES = ("weights.safetensors", "optimizer.pt", "position.json")


@dataclass
class Position:
    """Where the run stands; the JSON half of a checkpoint."""

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    best: float | None = None
    best_epoch: int = -1
    history: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Learner:
    """What a checkpoint is of.

    Args:
        steps: of an epoch.
    """

    network: nn.Module
    optimizer: Optimizer
    schedule: Schedule
    scaler: torch.amp.GradScaler
    section: OptimizerSection
    steps: int

    def save(self, folder: Path, position: Position) -> None:
        save_file({name: value.contiguous() for name, value in _state(self.network).items()}, folder / WEIGHTS)
        torch.save(
            {
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(),
                "scaler": self.scaler.state_dict(),
                "peak": self.section.learning_rate,
            },
            folder / OPTIMIZER,
        )
        content = {"steps": self.steps, **vars(position)}
        (folder / POSITION).write_text(json.dumps(content), encoding="utf-8")

    def restore(self, folder: Path, device: torch.device) -> Position:
        """Load what a checkpoint holds, but for the config's own rates, and return where it stands."""
        found = json.loads((folder / POSITION).read_text(encoding="utf-8"))
        steps = found.pop("steps")
        if steps != self.steps and found["step"]:
            # Another number of workers cuts epochs into other steps: begin the open epoch anew.
            found["step"], found["loss_sum"] = 0, 0.0
        self.network.load_state_dict(load_file(folder / WEIGHTS, device=str(device)))
        saved = torch.load(folder / OPTIMIZER, map_location=device, weights_only=True)
        self.optimizer.load_state_dict(saved["optimizer"])
        self.schedule.load_state_dict(saved["schedule"])
        self.scaler.load_state_dict(saved["scaler"])
        self._keep_own_rates(saved.get("peak", self.section.learning_rate))
        return Position(**found)

    def _keep_own_rates(self, peak: float) -> None:
        section = self.section
        for group in self.optimizer.param_groups:
            group["weight_decay"] = section.weight_decay
            if section.name == "sgd" and self.schedule.leaves_momentum:
                group["momentum"] = section.momentum
        if peak != section.learning_rate:
            self.schedule.rescale(self.optimizer, section.learning_rate / peak)


def check_whole(folder: Path) -> None:
    """Read a checkpoint's files. Raises what the library that reads them does where one was cut off."""
    load_file(folder / WEIGHTS)
    torch.load(folder / OPTIMIZER, map_location="cpu", weights_only=True)
    json.loads((folder / POSITION).read_text(encoding="utf-8"))


def read_history(folder: Path) -> list[dict[str, Any]]:
    """The entries of the epochs up to a checkpoint, its own last."""
    found: list[dict[str, Any]] = json.loads((folder / POSITION).read_text(encoding="utf-8"))["history"]
    return found


def _state(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().cpu() for name, value in network.state_dict().items()}
