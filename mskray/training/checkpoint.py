"""A training's checkpoint: weights, the optimizer's state and where the training stands, three files of a folder.

It is written after each epoch, and in an epoch every `loop.checkpoint_minutes`, to the run's storage
(`mskray.training.shelf`); a run that was cut off goes on from it with the same result, on as many workers as there are.
A training of another config may go on from it as well: it keeps its own rates then (`Part` of a run).
"""

import io
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.optim import Optimizer

from mskray.training.config import OptimizerSection
from mskray.training.schedules import Schedule
from mskray.training.seen import Seen

WEIGHTS, OPTIMIZER, POSITION = FILES = ("weights.safetensors", "optimizer.pt", "position.json")


@dataclass
class Position:
    """Where the run stands; the JSON half of a checkpoint, the same for any number of workers.

    Args:
        step: steps done of the open epoch, a batch of every lane each.
        losses: sums over these steps, one a lane.
        seen: rows of the open epoch.
    """

    epoch: int = 0
    step: int = 0
    losses: list[float] = field(default_factory=list)
    seen: Seen = field(default_factory=Seen)
    best: float | None = None
    best_epoch: int = -1
    history: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Learner:
    """What a checkpoint is of.

    Args:
        steps: of an epoch.
        lanes: of a step.
    """

    network: nn.Module
    optimizer: Optimizer
    schedule: Schedule
    scaler: torch.amp.GradScaler
    section: OptimizerSection
    steps: int
    lanes: int = 1

    def snapshot(self, position: Position) -> Callable[[], dict[str, bytes]]:
        """Copy all that a checkpoint holds; what is returned makes its files of the copy, in any thread."""
        weights = _copied(self.network.state_dict())
        rest = _copied(
            {
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(),
                "scaler": self.scaler.state_dict(),
                "peak": self.section.learning_rate,
            }
        )
        stands = json.dumps({"steps": self.steps, "lanes": self.lanes, **asdict(position)}).encode()

        def files() -> dict[str, bytes]:
            buffer = io.BytesIO()
            torch.save(rest, buffer)
            contiguous = {name: value.contiguous() for name, value in weights.items()}
            return {WEIGHTS: save(contiguous), OPTIMIZER: buffer.getvalue(), POSITION: stands}

        return files

    def restore(self, folder: Path, device: torch.device) -> Position:
        """Load what a checkpoint holds, but for the config's own rates, and return where it stands."""
        found = json.loads((folder / POSITION).read_text(encoding="utf-8"))
        cut = found.pop("steps"), found.pop("lanes")
        position = Position(**{**found, "seen": Seen(**found["seen"])})
        if cut != (self.steps, self.lanes):
            # Another number of lanes cuts epochs into other steps: begin the open epoch anew.
            position.step, position.losses, position.seen = 0, [], Seen()
        self.network.load_state_dict(load_file(folder / WEIGHTS, device=str(device)))
        saved = torch.load(folder / OPTIMIZER, map_location=device, weights_only=True)
        self.optimizer.load_state_dict(saved["optimizer"])
        self.schedule.load_state_dict(saved["schedule"])
        self.scaler.load_state_dict(saved["scaler"])
        self._keep_own_rates(saved.get("peak", self.section.learning_rate))
        return position

    def _keep_own_rates(self, peak: float) -> None:
        section = self.section
        for group in self.optimizer.param_groups:
            group["weight_decay"] = section.weight_decay
            if section.name == "sgd" and self.schedule.leaves_momentum:
                group["momentum"] = section.momentum
        if peak != section.learning_rate:
            self.schedule.rescale(self.optimizer, section.learning_rate / peak)


def read_history(folder: Path) -> list[dict[str, Any]]:
    """The entries of the epochs up to a checkpoint, its own last."""
    found: list[dict[str, Any]] = json.loads((folder / POSITION).read_text(encoding="utf-8"))["history"]
    return found


def _copied(value: Any) -> Any:
    """A copy in memory of what states are made of."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _copied(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copied(each) for each in value)
    return value
