"""Optimizers and learning-rate schedules, from config to torch objects."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch.nn import Parameter
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR, ReduceLROnPlateau, StepLR

from mskray.training.config import OptimizerSection, ScheduleSection


def make_optimizer(parameters: Iterable[Parameter], config: OptimizerSection) -> Optimizer:
    """Build the optimizer over the parameters that learn."""
    learning = [parameter for parameter in parameters if parameter.requires_grad]
    # Fused: on a CPU an update of 60 million weights takes a ninth of the time.
    common: dict[str, Any] = {"lr": config.learning_rate, "weight_decay": config.weight_decay, "fused": True}
    if config.name == "sgd":
        return torch.optim.SGD(learning, momentum=config.momentum, **common)
    kind = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
    return kind(learning, **common)


class Schedule:
    """One interface over schedules that move each update and those that move each epoch.

    Args:
        updates: weight updates in the whole run.
        higher_is_better: direction of the validation metric, for plateau.
    """

    def __init__(
        self, optimizer: Optimizer, config: ScheduleSection, peak: float, updates: int, higher_is_better: bool
    ) -> None:
        self._each_update: LambdaLR | OneCycleLR | None = None
        self._each_epoch: StepLR | None = None
        self._plateau: ReduceLROnPlateau | None = None
        if config.name == "plateau":
            self._plateau = ReduceLROnPlateau(
                optimizer, "max" if higher_is_better else "min", factor=config.factor, patience=config.patience
            )
        elif config.name == "step":
            self._each_epoch = StepLR(optimizer, config.every, gamma=config.factor)
        elif config.name == "cosine":
            self._each_update = LambdaLR(optimizer, _Cosine(updates, config.warmup))
        elif config.name == "one_cycle":
            # One update more than will be made: torch raises when stepped past the total. And it divides by the length
            # of a rise less one: by zero where the rise is one update, which is none.
            total = updates + 1
            rise = config.warmup if config.warmup * total > 1 else 0.5 / total
            self._each_update = OneCycleLR(optimizer, max_lr=peak, total_steps=total, pct_start=rise)

    def after_update(self) -> None:
        if self._each_update:
            self._each_update.step()

    def after_epoch(self, metric: float) -> None:
        if self._plateau:
            self._plateau.step(metric)
        if self._each_epoch:
            self._each_epoch.step()

    def state_dict(self) -> dict[str, Any]:
        inner = self._inner
        return inner.state_dict() if inner else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self._inner:
            self._inner.load_state_dict(state)

    @property
    def leaves_momentum(self) -> bool:
        """Whether momentum is the optimizer's own; one_cycle moves it."""
        return not isinstance(self._inner, OneCycleLR)

    def rescale(self, optimizer: Optimizer, ratio: float) -> None:
        """Multiply the rate, wherever the schedule stands: all rates that it moves between, and the present one."""
        for group in optimizer.param_groups:
            for name in ("lr", "initial_lr", "max_lr", "min_lr"):
                if name in group:
                    group[name] *= ratio
        for scheduler in (self._each_update, self._each_epoch):
            if scheduler is not None:
                scheduler.base_lrs = [rate * ratio for rate in scheduler.base_lrs]

    @property
    def _inner(self) -> LambdaLR | OneCycleLR | StepLR | ReduceLROnPlateau | None:
        return self._each_update or self._each_epoch or self._plateau


class _Cosine:
    """Linear rise over the first `warmup` share of the updates, then half a cosine down to zero."""

    def __init__(self, updates: int, warmup: float) -> None:
        self.updates, self.rise = max(updates, 1), max(round(updates * warmup), 0)

    def __call__(self, update: int) -> float:
        if update < self.rise:
            return (update + 1) / (self.rise + 1)
        share = (update - self.rise) / max(self.updates - self.rise, 1)
        return 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))
