"""Lanes: any number of workers trains the same, sees the same, and goes on where any other number stopped."""

import multiprocessing
import queue
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from linear_training import Deep, Linear, Session, Stopped, shards_at_hand, trainer_of
from safetensors.torch import load as load_weights
from torch.nn.parallel import DistributedDataParallel

from mskray.training import loop as loop_module
from mskray.training.checkpoint import WEIGHTS
from mskray.training.lanes import dealt, share, step_seed
from mskray.training.plan import Plan
from mskray.training.recipe import to_batch

COUNTS = (30, 3, 50, 17)
"""Rows of the shards: 100."""


@pytest.mark.parametrize(
    ("lanes", "world", "expected"),
    [
        (1, 1, [[0]]),
        (2, 1, [[0, 1]]),
        (2, 2, [[0], [1]]),
        (3, 2, [[0], [1, 2]]),
        (4, 3, [[0], [1], [2, 3]]),
        (5, 2, [[0, 1], [2, 3, 4]]),
    ],
)
def test_lanes_are_dealt_once_each(lanes: int, world: int, expected: list[list[int]]) -> None:
    assert [list(dealt(lanes, rank, world)) for rank in range(world)] == expected


@pytest.mark.parametrize(("lanes", "rank", "world"), [(2, 0, 3), (2, 2, 2), (2, 0, 0)])
def test_a_rank_without_a_lane_is_refused(lanes: int, rank: int, world: int) -> None:
    with pytest.raises(ValueError, match="cannot have one of 2 lanes"):
        dealt(lanes, rank, world)


@pytest.mark.parametrize(("lanes", "world"), [(2, 1), (3, 2), (4, 3), (5, 5)])
def test_the_mean_over_ranks_is_the_mean_over_lanes(lanes: int, world: int) -> None:
    gradients = np.random.default_rng(0).normal(size=lanes)
    of_ranks = [
        sum(share(lanes, world) * gradients[lane] for lane in dealt(lanes, rank, world)) for rank in range(world)
    ]
    assert np.mean(of_ranks) == pytest.approx(gradients.mean())


def recipe_of(kind: str) -> Linear:
    sections: dict[str, Any] = {
        "data": {"image_size": 32, "batch_size": 4, "shuffle_window": 64},
        "optimizer": {"name": "sgd", "learning_rate": 0.05, "clip_norm": 1.0, "accumulate": 2 if kind == "sums" else 1},
    }
    return Linear(**sections) if kind == "linear" else Deep(**sections)


def _rank(rank: int, world: int, lanes: int, kind: str, store: str, at: Any, start: Any, answers: Any) -> None:
    """One process of a training; puts (rank, events, checkpoint files)."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{store}", rank=rank, world_size=world)
    session = Session(rank, world, start=start, at=at)
    with suppress(Stopped):
        trainer_of(recipe_of(kind), session, shards_at_hand(COUNTS), lanes).run()
    answers.put((rank, session.events, session.files, session.meters.seen))
    dist.barrier()
    dist.destroy_process_group()


class Ran:
    """What a training of several processes left."""

    def __init__(self, answers: list[tuple]) -> None:
        answers.sort(key=lambda each: each[0])
        self.events, self.files = answers[0][1:3]
        self.weights = load_weights(self.files[WEIGHTS])
        self.by_rank = [each[3] for each in answers]


def train(tmp_path: Path, world: int, lanes: int, kind: str = "deep", at: Any = None, start: Any = None) -> Ran:
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    store = tmp_path / f"store-{world}-{lanes}-{kind}-{at}-{start is not None}"
    given = (world, lanes, kind, str(store), at, start, answers)
    ranks = [context.Process(target=_rank, args=(rank, *given)) for rank in range(world)]
    for each in ranks:
        each.start()
    try:
        found = [answers.get(timeout=120) for _ in ranks]
    except queue.Empty:
        raise AssertionError("a rank did not answer") from None
    finally:
        for each in ranks:
            each.join(timeout=30)
            each.kill()
    return Ran(found)


def same(one: Ran, other: Ran) -> None:
    for mine, its in zip(one.events, other.events, strict=True):
        assert (mine["samples"], mine["rows_digest"]) == (its["samples"], its["rows_digest"])
        for key in ("train_loss", "val_loss", "val_auroc", "learning_rate"):
            assert mine[key] == pytest.approx(its[key], rel=1e-5), key
    for name, value in one.weights.items():
        torch.testing.assert_close(value, other.weights[name], rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize(("lanes", "worlds", "kind"), [(2, (1,), "sums"), (3, (1, 2), "deep"), (4, (3,), "deep")])
def test_any_number_of_workers_trains_the_same(tmp_path: Path, lanes: int, worlds: tuple[int, ...], kind: str) -> None:
    """Running statistics of BatchNorm included, which are part of the weights."""
    whole = train(tmp_path, lanes, lanes, kind)
    assert len(whole.events) == 2
    assert whole.events[0]["samples"] == 100 // (4 * lanes) * 4 * lanes
    for world in worlds:
        fewer = train(tmp_path, world, lanes, kind)
        same(fewer, whole)
        assert sum(fewer.by_rank) == sum(whole.by_rank) == 2 * whole.events[0]["samples"]


def test_another_number_goes_on_at_the_exact_batch(tmp_path: Path) -> None:
    """Two workers to the middle of the second epoch, then one, then two again."""
    whole = train(tmp_path, 2, 2)
    first = train(tmp_path, 2, 2, at=(0, 5))
    second = train(tmp_path, 1, 2, at=(1, 3), start=first.files)
    third = train(tmp_path, 2, 2, start=second.files)
    assert [event["epoch"] for event in [*second.events, *third.events]] == [1, 2]
    assert sum(first.by_rank) == 5 * 8
    together = Ran([(0, [*second.events, *third.events], third.files, 0)])
    same(together, whole)


def _plain(rank: int, world: int, store: str, answers: Any) -> None:
    """Data parallel training as it was before lanes, written down again: a lane a rank and nothing else."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{store}", rank=rank, world_size=world)
    recipe = recipe_of("deep")
    torch.manual_seed(0)
    weights = recipe.build().state_dict()
    network = recipe.build().to(memory_format=torch.channels_last)
    network.load_state_dict(weights)
    model = DistributedDataParallel(network)
    optimizer = torch.optim.SGD(network.parameters(), 0.05, momentum=0.9, weight_decay=1e-4, fused=True)
    split = shards_at_hand(COUNTS)
    plan = Plan(split.counts, 4, 64, 0, rank, world)
    schedule = loop_module.Schedule(optimizer, recipe.config.schedule, 0.05, 2 * plan.steps, True)
    for epoch in range(2):
        network.train()
        for step, rows in enumerate(plan.batches(epoch)):
            arrays = {name: [] for name in ("image", "label")}
            for shard, row in zip(rows.shard, rows.row, strict=True):
                for name in arrays:
                    arrays[name].append(split.arrays[shard][name][row])
            torch.manual_seed(step_seed(0, epoch, step, rank))
            batch = recipe.augment(to_batch({k: np.array(v) for k, v in arrays.items()}, torch.device("cpu")))
            recipe.loss(model, batch, None).backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            schedule.after_update()
    if rank == 0:
        answers.put({name: value.numpy() for name, value in network.state_dict().items()})
    dist.barrier()
    dist.destroy_process_group()


def test_a_worker_a_lane_is_plain_data_parallel_training_bit_for_bit(tmp_path: Path) -> None:
    """Three: a third is no float32, so that what gradients are multiplied by shows."""
    world = 3
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    ranks = [
        context.Process(target=_plain, args=(rank, world, str(tmp_path / "plain"), answers)) for rank in range(world)
    ]
    for each in ranks:
        each.start()
    expected = answers.get(timeout=120)
    for each in ranks:
        each.join(timeout=30)
    found = train(tmp_path, world, world).weights
    assert set(found) == set(expected)
    for name, value in found.items():
        assert np.array_equal(value.numpy(), expected[name]), name
