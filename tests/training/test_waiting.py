"""What waits for tasks says so, hands them over as they end, and stops at the first that fails."""

import time
from pathlib import Path
from typing import Any

import pytest

from mskray.errors import UserError
from mskray.progress import Progress, silent
from mskray.training.waiting import as_finished, gather

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_cluster", "by_value")]


def tasks_until(files: list[Path]) -> list[Any]:
    """Tasks that end when their file is there, with its content."""
    import ray

    @ray.remote(num_cpus=0.1, max_retries=0)
    def until(path: Path) -> str:
        while not path.exists():
            time.sleep(0.02)
        if path.name == "bad":
            raise UserError("a bad file")
        return path.name

    return [until.remote(path) for path in files]


def test_a_task_that_takes_long_is_told_of(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    second.touch()
    seen: list[Progress] = []

    def report(progress: Progress) -> None:
        seen.append(progress)
        if progress.done == 4:  # three were there before, one has ended: it is the first that is waited for
            first.touch()

    tasks = tasks_until([first, second])
    assert list(as_finished(tasks, "judging", "cells", report, done=3, every_s=0.2)) == tasks[::-1]
    assert (seen[-1].stage, seen[-1].done, seen[-1].total, seen[-1].unit) == ("judging", 4, 5, "cells")
    assert "1 run or wait for a CPU" in seen[-1].note


def test_results_are_in_order_and_a_failure_is_not_waited_for(tmp_path: Path) -> None:
    for name in ("a", "b", "bad"):
        (tmp_path / name).touch()
    assert gather(tasks_until([tmp_path / "b", tmp_path / "a"]), "reading", silent) == ["b", "a"]
    never, bad = tmp_path / "never", tmp_path / "bad"
    with pytest.raises(UserError, match="a bad file"):
        gather(tasks_until([never, bad]), "reading", silent)
    never.touch()
