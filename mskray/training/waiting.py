"""Waiting for Ray tasks with a sign of life: a task that takes minutes looks like one that hangs."""

import time
from collections.abc import Iterator, Sequence
from typing import Any

import ray
from ray.exceptions import RayError

from mskray.errors import user_error_in
from mskray.progress import Progress, Report, duration

TOLD_EVERY_S = 30.0


def as_finished(
    tasks: Sequence[ray.ObjectRef],
    stage: str,
    unit: str,
    report: Report,
    done: int = 0,
    every_s: float = TOLD_EVERY_S,
) -> Iterator[ray.ObjectRef]:
    """Yield each task when it has ended, well or not; report how long it has been while none does.

    Args:
        stage, unit: for progress, of which `done` were there before.
    """
    waiting, total, since = list(tasks), done + len(tasks), time.monotonic()
    while waiting:
        ended, waiting = ray.wait(waiting, num_returns=1, timeout=every_s)
        if ended:
            since = time.monotonic()
            yield ended[0]
        else:
            note = f"none finished for {duration(time.monotonic() - since)}, {len(waiting)} run or wait for a CPU"
            report(Progress(stage, total - len(waiting), total, unit, note=note))


def gather(tasks: Sequence[ray.ObjectRef], stage: str, report: Report) -> list[Any]:
    """Return the results of tasks in their order.

    Raises:
        UserError: as one of the tasks does, as soon as it has.
    """
    try:
        found = {each: ray.get(each) for each in as_finished(tasks, stage, "tasks", report)}
    except RayError as error:
        raise user_error_in(error) or error from error
    return [found[each] for each in tasks]
