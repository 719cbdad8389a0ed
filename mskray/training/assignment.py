"""What one worker of a training is told to do."""

from dataclasses import dataclass
from typing import Any

from mskray.training.feed import Split
from mskray.training.news import Say
from mskray.training.recipe import Recipe
from mskray.training.run import Part


@dataclass(frozen=True)
class Assignment:
    """All that a worker needs but for the first weights, small enough to travel.

    Args:
        train_shards, validation_shards: handles of the readers for every shard; empty where shards are streamed.
        cpus: that are reserved for it; None where the training has its nodes for itself.
        compile: as `resources.compile`.
        lanes: `resources.workers`, whatever the number of workers is at a time.
    """

    recipe: Recipe
    train: Split
    validation: Split
    train_shards: tuple[Any, ...]
    validation_shards: tuple[Any, ...]
    class_weights: tuple[float, ...] | None
    say: Say
    held_back: bool = True
    part: Part | None = None
    cpus: float | None = None
    compile: str = "off"
    lanes: int = 1
