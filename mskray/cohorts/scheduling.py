"""Shards to Ray tasks: a window of tasks is in flight, so that the driver holds the rows of these alone.

A task writes several shards: what it costs to start one is then small beside it. Tasks that die with their worker or
node are started again by Ray. Ray Data is not used here, because it takes all items before the first task starts: the
rows of a hundred million images would be in the driver and its object store at once.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, TypeVar

import pyarrow as pa
import ray

from mskray.cluster import total
from mskray.cohorts.plan import ShardPlan

# A task of several shards: not so many that CPUs wait long for the last task.
_SHARDS_A_TASK = 8
_TASKS_A_CPU = 8
# Beyond one task a CPU, so that none waits for the driver and an autoscaler sees that there is more to do.
_SPARE_TASKS = 8
_LOOK_SECONDS, _TOLD_SECONDS = 10.0, 30.0

T = TypeVar("T")
Write = Callable[[ShardPlan, list[dict[str, Any]]], T]
"""Writes a shard from its rows; runs in a task, and again where that died."""


def run_shards(
    todo: Sequence[ShardPlan],
    rows: Callable[[ShardPlan], pa.Table],
    write: Write[T],
    slots: int | None = None,
    waits: Callable[[float], None] = lambda _: None,
) -> Iterator[tuple[ShardPlan, T]]:
    """Write shards on the cluster; yields each with what `write` returned, in the order in which they end.

    Args:
        rows: those of a shard; called here, when its task is about to start.
        slots: tasks that the cluster is taken to run at once; one a CPU of those it has without it.
        waits: told, every half minute, for how many seconds no task has ended.
    Raises:
        What `write` raises, after which no further task starts.
    """
    task: Any = ray.remote(_write_some).options(num_cpus=1, max_retries=-1, scheduling_strategy="SPREAD")
    shared = ray.put(write)
    groups = _groups(todo, _tasks(len(todo), slots or _slots()))
    running: dict[Any, Sequence[ShardPlan]] = {}
    window, looked = 0, -_LOOK_SECONDS
    since = told = time.monotonic()
    more = True
    try:
        while more or running:
            if time.monotonic() - looked >= _LOOK_SECONDS:  # the cluster grows and shrinks
                window, looked = _window(slots or _slots()), time.monotonic()
            while more and len(running) < window:
                group = next(groups, None)
                if group is None:
                    more = False
                    break
                packed = [(shard, _pack(rows(shard))) for shard in group]
                running[task.remote(shared, packed)] = group
            # One look at thousands of tasks takes a while: as many as a sixteenth of them are then awaited together.
            enough = max(1, len(running) // 16)
            ended, _ = ray.wait(list(running), num_returns=enough, timeout=1.0)
            now = time.monotonic()
            if ended:
                since = told = now
            elif now - told >= _TOLD_SECONDS:
                told = now
                waits(now - since)
            for reference in ended:
                yield from zip(running.pop(reference), ray.get(reference), strict=True)
    finally:
        for reference in running:
            ray.cancel(reference)


def window_bytes(shards: int, slots: int, rows: pa.Table) -> int:
    """What the driver has in flight where shards have such rows: of its tasks that run or are about to."""
    tasks = _tasks(shards, slots)
    return min(tasks, _window(slots)) * -(-shards // tasks) * len(_pack(rows))


def _slots() -> int:
    return max(1, int(total("CPU")))


def _window(slots: int) -> int:
    return slots + max(_SPARE_TASKS, slots // 4)


def _tasks(shards: int, slots: int) -> int:
    """In how many tasks to write so many shards."""
    return max(-(-shards // _SHARDS_A_TASK), min(shards, _TASKS_A_CPU * slots), 1)


def _groups(todo: Sequence[ShardPlan], tasks: int) -> Iterator[Sequence[ShardPlan]]:
    """The shards of each task: neighbours, at most one more or fewer than another task has."""
    borders = [task * len(todo) // tasks for task in range(tasks + 1)]
    return (todo[start:end] for start, end in pairwise(borders) if end > start)


def _write_some(write: Write[T], packed: list[tuple[ShardPlan, bytes]]) -> list[T]:
    return [write(shard, _unpack(data)) for shard, data in packed]


def _pack(table: pa.Table) -> bytes:
    """Rows of a plan as one Arrow message: small, and free of Python objects on its way."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def _unpack(data: bytes) -> list[dict[str, Any]]:
    return pa.ipc.open_stream(data).read_all().to_pylist()
