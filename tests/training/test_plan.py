"""The order of rows: complete, equal on every rank, different each epoch, the same from any step."""

from collections import Counter

import numpy as np
import pytest

from mskray.errors import UserError
from mskray.training.plan import Plan, segment

SHARDS = (50, 3, 70, 0, 41, 36)


def rows(plan: Plan, epoch: int, first: int = 0) -> list[tuple[int, int]]:
    return [pair for batch in plan.batches(epoch, first) for pair in zip(batch.shard, batch.row, strict=True)]


@pytest.mark.parametrize(("world", "batch", "window"), [(1, 1, 64), (1, 7, 64), (2, 8, 64), (3, 5, 1000), (4, 50, 64)])
def test_ranks_make_equal_steps_over_distinct_rows(world: int, batch: int, window: int) -> None:
    plans = [Plan(SHARDS, batch, window, seed=3, rank=rank, world=world) for rank in range(world)]
    seen = [rows(plan, 0) for plan in plans]
    assert {len(part) for part in seen} == {200 // (batch * world) * batch}
    together = Counter(pair for part in seen for pair in part)
    assert max(together.values()) == 1
    assert all(row < SHARDS[shard] for shard, row in together)
    assert sum(together.values()) > 200 - batch * world


def test_every_row_is_seen_when_batches_divide_the_split() -> None:
    assert len(set(rows(Plan(SHARDS, 10, 64, seed=0), 0))) == 200


def test_epochs_and_seeds_differ_and_repeat() -> None:
    plan = Plan(SHARDS, 8, 64, seed=1)
    assert rows(plan, 0) == rows(plan, 0)
    assert rows(plan, 0) != rows(plan, 1)
    assert rows(plan, 0) != rows(Plan(SHARDS, 8, 64, seed=2), 0)


@pytest.mark.parametrize("first", [0, 1, 9, 24])
def test_an_epoch_goes_on_from_any_step(first: int) -> None:
    plan = Plan(SHARDS, 8, 64, seed=1)
    assert rows(plan, 2, first) == rows(plan, 2)[first * 8 :]


def test_a_window_bounds_the_shards_in_use() -> None:
    plan = Plan((100,) * 50, 10, 200, seed=0)
    for window in plan.windows(0):
        assert len(np.unique(window.shard)) <= 3


def test_a_shuffled_window_mixes_its_rows() -> None:
    (window,) = Plan((1000,), 10, 1000, seed=0).windows(0)
    assert abs(np.corrcoef(window.row, np.arange(1000))[0, 1]) < 0.1


def test_too_few_rows_for_one_step_are_refused() -> None:
    with pytest.raises(UserError, match=r"200 labelled samples.*2 worker\(s\) × 128.*batch_size"):
        Plan(SHARDS, 128, 64, seed=0, world=2)


@pytest.mark.parametrize("world", [1, 2, 3, 7, 300])
def test_segments_cover_the_line_once(world: int) -> None:
    line = list(enumerate(SHARDS))
    parts = [segment(line, rank, world) for rank in range(world)]
    pairs = [pair for part in parts for pair in zip(part.shard.tolist(), part.row.tolist(), strict=True)]
    assert pairs == [(shard, row) for shard, count in line for row in range(count)]
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
