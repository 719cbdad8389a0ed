"""This process drives the loop: one rank on its first GPU, else on its CPU, its shards read by threads. No Ray.

    mskray train CONFIG.yaml              where one worker is asked for and RAY_ADDRESS names no cluster
    mskray train CONFIG.yaml --local      in any case

The loop, its checkpoints and what it reports are those of a worker of a cluster: a run that was begun in one way may be
gone on with in the other. What kills the process ends the run, and the same command goes on.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from queue import Queue
from typing import Any

import torch
from torch import Tensor

from mskray.errors import UserError
from mskray.training.assignment import Assignment
from mskray.training.driver import stopped
from mskray.training.loop import Trainer
from mskray.training.news import Say, heard
from mskray.training.readers import Readers, Threads
from mskray.training.run import Resources, Run
from mskray.training.session import Session

# A checkpoint that is being written when the training is stopped is given this time to end.
_LEAVE_S = 5.0


class _Events:
    """Those of a queue, up to the mark that ends it."""

    def __init__(self, queue: "Queue[dict[str, Any] | None]") -> None:
        self._queue = queue

    def get(self, *, timeout: float) -> dict[str, Any]:
        event = self._queue.get(timeout=timeout)
        if event is None:
            raise EOFError
        return event


class Local:
    """The driver of a training in this process."""

    def __init__(self, readers: Readers | None = None) -> None:
        self.readers = readers or Threads()

    def check(self, resources: Resources) -> None:
        """Raise UserError for more than one worker, and where a GPU is asked for that is not there."""
        check(resources)

    def keep(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        return weights

    @contextmanager
    def listening(self, run: Run, unit: str) -> Iterator[Say]:
        # Heard in a thread, as a cluster's are: a slow tracker holds no step up.
        queue: Queue[dict[str, Any] | None] = Queue()
        with heard(_Events(queue), run, unit):
            try:
                yield queue.put
            finally:
                queue.put(None)

    def train(self, work: Assignment, weights: dict[str, Tensor], run: Run) -> list[dict[str, Any]]:
        session = Session(run.location.join(run.name), work.say, self.readers, device())
        try:
            return trained(work, weights, session)
        except UserError:
            raise
        except (RuntimeError, OSError) as error:  # such as a GPU's memory that is too small, or its driver that fails
            lines = str(error).strip().splitlines() or ["no reason given"]
            raise stopped(UserError, error, lines[0]) from error

    def close(self) -> None:
        self.readers.close()


def trained(work: Assignment, weights: dict[str, Tensor], session: Session) -> list[dict[str, Any]]:
    """Train in this process, which is left as it was; return the history."""
    benchmark = torch.backends.cudnn.benchmark
    try:
        trainer = Trainer(work, weights, session)
        trainer.run()
        return trainer.position.history
    finally:
        session.leave(_LEAVE_S)
        torch.backends.cudnn.benchmark = benchmark
        if work.compile != "off":
            torch.compiler.reset()


def check(resources: Resources) -> None:
    """Raise UserError where these resources are not those of a training in one process."""
    if resources.workers > 1:
        raise UserError(
            f"resources.workers = {resources.workers} with --local, which trains in one process: leave --local out, or "
            "set resources.workers=1"
        )
    if resources.gpu and not torch.cuda.is_available():
        told = "resources.gpu = true: torch finds no GPU here; leave it out, or name a cluster by RAY_ADDRESS"
        raise UserError(told)


def device() -> torch.device:
    """Where a training in this process computes."""
    return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
