"""How shards are cut into tasks, without Ray."""

import pytest

from mskray.cohorts.plan import ShardPlan
from mskray.cohorts.scheduling import _groups, _tasks


@pytest.mark.parametrize(
    ("shards", "slots", "tasks", "most"),
    [
        (0, 2, 0, 0),
        (1, 2, 1, 1),
        (16, 2, 16, 1),
        (17, 2, 16, 2),  # cut into twos they would be 9 tasks, and a CPU of two idle while the other writes the last
        (520, 64, 512, 2),
        (400, 2, 50, 8),
    ],
)
def test_tasks_differ_by_a_shard_at_most(shards: int, slots: int, tasks: int, most: int) -> None:
    todo = [ShardPlan("train", number, f"{number:016x}", number, 1) for number in range(shards)]
    groups = list(_groups(todo, _tasks(shards, slots)))
    sizes = [len(group) for group in groups]
    assert [shard for group in groups for shard in group] == todo
    assert (len(sizes), max(sizes, default=0)) == (tasks, most)
    assert max(sizes, default=0) - min(sizes, default=0) <= 1
