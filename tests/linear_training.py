"""A tiny training without a cluster: a recipe, shards that are at hand at once, and a session that keeps in memory."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from mskray.imaging.inputs import InputFormat
from mskray.training.assignment import Assignment
from mskray.training.config import TorchConfig
from mskray.training.feed import Split
from mskray.training.group import Group
from mskray.training.loop import Trainer
from mskray.training.recipe import Answer, Recipe
from mskray.training.samples import Arrays, EachImage

SIDE, ROWS = 32, 24


class Linear(Recipe):
    """A linear network; `broken` makes its loss or its probabilities NaN."""

    classes = 2

    def __init__(self, broken: str = "", **sections: Any) -> None:
        self.broken = broken
        self.config = TorchConfig.model_validate(
            {
                "data": {"image_size": SIDE, "batch_size": 8, "shuffle_window": 64},
                "loop": {"epochs": 2},
                **sections,
            }
        )

    def build(self) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 2))

    def loss(self, network, batch, class_weights):
        loss = F.cross_entropy(network(batch["image"]), batch["label"])
        return loss * float("nan") if self.broken == "loss" else loss

    def answer(self, network, batch):
        found = network(batch["image"]).softmax(dim=1)
        return Answer(found * float("nan") if self.broken == "probabilities" else found)


class Deep(Linear):
    """With what has states of its own: running statistics, and random numbers in the forward pass."""

    def build(self) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, stride=4), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2), nn.Linear(256, 2)
        )


class Meters:
    """Counts images."""

    def __init__(self) -> None:
        self.seen = 0

    def phase(self, phase: str, seconds: float) -> None: ...

    def images(self, count: int) -> None:
        self.seen += count


class Session(Group):
    """One rank that keeps what it is told.

    Args:
        keep_s: how long a checkpoint takes.
        start: files of a checkpoint to go on from.
        at: (epoch, step) at which all ranks make a checkpoint and stop.
    """

    def __init__(
        self,
        rank: int = 0,
        world: int = 1,
        keep_s: float = 0.0,
        start: Mapping[str, bytes] | None = None,
        at: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(rank, world, torch.device("cpu"))
        self.keep_s, self.start, self.at = keep_s, start, at
        self.meters, self.readers = Meters(), AtOnce()
        self.events: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}

    @contextmanager
    def restored(self, part: object = None) -> Iterator[Path | None]:
        with TemporaryDirectory() as folder:
            for name, data in (self.start or {}).items():
                (Path(folder) / name).write_bytes(data)
            yield Path(folder) if self.start else None

    def keep(self, epoch: int, step: int, score: float | None, snapshot: Callable, event: Any = None) -> None:
        self.files = snapshot()()
        if event:
            self.events.append(event)
        time.sleep(self.keep_s)
        if (epoch, step) == self.at:
            raise Stopped

    def checkpoint_now(self, minutes: float) -> bool:
        return (
            self.trainer.position.step == self.at[1] and self.trainer.position.epoch == self.at[0] if self.at else False
        )

    def due(self, every_s: float) -> bool:
        return False

    def say(self, event: dict[str, Any]) -> None: ...

    def check(self) -> None: ...

    def finish(self) -> None: ...


class Stopped(Exception):
    """As a worker that was killed just after a checkpoint."""


@dataclass(frozen=True)
class AtHand(Split):
    """A split whose shards are in memory."""

    arrays: tuple[Arrays, ...] = ()

    def load(self, shard: int) -> Arrays:
        return self.arrays[shard]

    def only(self, shard: int) -> "AtHand":
        return replace(self, counts=(self.counts[shard],), arrays=(self.arrays[shard],))


class AtOnce:
    """Readers that have done their work when they have begun it."""

    def start(self, work: Callable[[], Any]) -> Any:
        return work()

    def take(self, handle: Any) -> Any:
        return handle


def shards_at_hand(counts: tuple[int, ...] = (ROWS,), seed: int = 0) -> AtHand:
    """Return a split of random images."""
    random = np.random.default_rng(seed)
    shards = tuple(
        {"image": random.integers(0, 255, (rows, SIDE, SIDE), dtype=np.uint8), "label": np.arange(rows) % 2}
        for rows in counts
    )
    return AtHand("nowhere", "train", EachImage("label_abnormality"), InputFormat(SIDE), counts, (), shards)


def trainer_of(recipe: Recipe, session: Session, split: Split, lanes: int = 1, held_back: bool = True) -> Trainer:
    """Return a Trainer that learns and validates on a split."""
    torch.manual_seed(0)
    weights = recipe.build().state_dict()
    work = Assignment(recipe, split, split, (), (), None, lambda event: None, held_back, lanes=lanes)
    session.trainer = trainer = Trainer(work, weights, session)  # type: ignore[attr-defined,arg-type]
    return trainer
