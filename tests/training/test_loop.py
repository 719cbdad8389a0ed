"""The loop on one rank without a cluster: what it reports of waiting, and what ends a run that diverges."""

import time
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mskray.imaging.inputs import InputFormat
from mskray.training import feed
from mskray.training.config import TorchConfig
from mskray.training.feed import Split
from mskray.training.loop import Assignment, Diverged, Trainer
from mskray.training.recipe import Answer, Recipe
from mskray.training.samples import EachImage

SIDE, ROWS = 32, 24


class Linear(Recipe):
    """A linear network; `broken` makes its loss or its probabilities NaN."""

    classes = 2

    def __init__(self, broken: str = "", **sections) -> None:
        self.broken = broken
        self.config = TorchConfig.model_validate(
            {
                "data": {"image_size": SIDE, "batch_size": 8, "shuffle_window": 64},
                "loop": {"epochs": 2, "checkpoint_every": 1},
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


class Session:
    """One rank that keeps what it is told; `report_s` is how long a checkpoint takes."""

    rank, world, device = 0, 1, torch.device("cpu")

    def __init__(self, report_s: float = 0.0) -> None:
        self.report_s, self.reports = report_s, []

    def restored(self, part):
        return nullcontext(None)

    def report(self, metrics, write, score) -> None:
        self.reports.append(metrics)
        time.sleep(self.report_s)

    def due(self, every_s: float) -> bool:
        return False

    def say(self, event) -> None: ...

    def gather(self, value):
        return [value]

    def share(self, tensors) -> None: ...


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch):
    """Make a Trainer whose shards are at hand at once."""
    random = np.random.default_rng(0)
    arrays = {
        "image": random.integers(0, 255, (ROWS, SIDE, SIDE), dtype=np.uint8),
        "label": np.arange(ROWS) % 2,
    }
    monkeypatch.setattr(feed, "request", lambda split, shard: arrays)
    monkeypatch.setattr(feed.ray, "get", lambda reference: reference)
    split = Split("nowhere", "train", EachImage("label_abnormality"), InputFormat(SIDE), (ROWS,), ())

    def make(recipe: Recipe, session: Session, held_back: bool = True) -> Trainer:
        work = Assignment(recipe, split, split, (), (), None, None, lambda event: None, held_back)
        return Trainer(work, recipe.build().state_dict(), session)

    return make


def test_writing_a_checkpoint_is_not_waiting_for_data(trainer) -> None:
    session = Session(report_s=0.2)
    trainer(Linear(), session).run()
    epochs = [each for each in session.reports if "wait_share" in each]
    assert len(epochs) == 2
    assert all(each["wait_share"] < 0.3 for each in epochs), epochs


@pytest.mark.parametrize("broken", ["loss", "probabilities"])
def test_a_run_that_diverges_ends_with_one_line(trainer, broken: str) -> None:
    session = Session()
    with pytest.raises(Diverged, match=r"diverged in epoch 1 .* lower optimizer\.learning_rate \(now 0\.0003\)"):
        trainer(Linear(broken), session).run()
    assert not [each for each in session.reports if "score" in each], "a diverged epoch must not become a checkpoint"


@pytest.mark.parametrize(("held_back", "epochs", "named"), [(True, 3, "val_"), (False, 6, "learned_")])
def test_where_nothing_is_held_back_nothing_stops_early(trainer, held_back: bool, epochs: int, named: str) -> None:
    """A rate of nearly 0: no epoch is better than the first, and a patience of 2 ends the run after the third."""
    recipe = Linear(loop={"epochs": 6, "patience": 2}, optimizer={"learning_rate": 1e-30})
    session = Session()
    trainer(recipe, session, held_back).run()
    finished = [each for each in session.reports if "score" in each]
    assert [each["epoch"] for each in finished] == list(range(1, epochs + 1))
    assert all(f"{named}auroc" in each for each in finished)
    assert sum(key.startswith(("val_", "learned_")) for key in finished[0]) == 6
