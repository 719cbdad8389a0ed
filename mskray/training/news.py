"""What is told while a run trains, passed on to the run's report and trackers, in a thread of the driver."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import Empty
from typing import Any, Protocol

from mskray.progress import Progress, duration
from mskray.training.run import Run
from mskray.training.validation import HELD_OUT, LEARNED

_SIGN_OF_LIFE_S = 30.0


Say = Callable[[dict[str, Any]], None]
"""Sends an event, a small dict, to the driver; it waits for nothing."""


class Events(Protocol):
    """A queue of events."""

    def get(self, *, timeout: float) -> dict[str, Any]:
        """Return the next event. Raises queue.Empty where none comes in time, EOFError where none can come any more."""
        ...


@contextmanager
def heard(events: Events, run: Run, unit: str) -> Iterator[None]:
    """Pass events on to `run.report` and the trackers until the block ends, and then those that are left."""
    done = threading.Event()
    failures: list[Exception] = []

    def listen() -> None:
        last = told = time.monotonic()
        silent = "the training workers are starting: nothing heard of them"
        while True:
            finished = done.is_set()
            try:
                event = events.get(timeout=0.5)
            except Empty:
                if finished:
                    return
                if (now := time.monotonic()) - told >= _SIGN_OF_LIFE_S:
                    told = now
                    run.report(Progress(f"{silent} for {duration(now - last)}"))
                continue
            except EOFError:
                return
            last = told = time.monotonic()
            silent = "no news from the training workers"
            try:
                _pass_on(event, run, unit)
            except Exception as error:  # a tracker that fails must not stop the training
                failures.append(error)

    thread = threading.Thread(target=listen, name="training-events", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(timeout=10)
    if failures:
        run.report(Progress(f"tracking failed {len(failures)} time(s), first: {failures[0]}"))


def _pass_on(event: dict[str, Any], run: Run, unit: str) -> None:
    if event["kind"] == "epoch":
        for tracker in run.trackers:
            tracker.epoch({**event, "prefix": run.prefix})
    run.report(_progress(event, run.prefix, unit))


def _progress(event: dict[str, Any], prefix: str, unit: str) -> Progress:
    if event["kind"] in ("trouble", "workers"):
        return Progress(f"{prefix}{event['text']}")
    stage = f"{prefix}epoch {event['epoch']}/{event['epochs']}"
    if event["kind"] == "resumed":
        return Progress(f"{prefix}goes on from the last checkpoint, in epoch {event['epoch']} of {event['epochs']}")
    if event["kind"] == "epoch":
        held, split = (HELD_OUT, "validation") if f"{HELD_OUT}loss" in event else (LEARNED, "validation, learned")
        told = "  ".join(f"{name} {event[held + name]:.3f}" for name in ("loss", "auroc", "kappa"))
        figures = f"loss {event['train_loss']:.3f}  {split}: {told}"
        return Progress(stage + " stored", note=figures)
    note = f"loss {event['loss']:.3f}  waiting for data {event['wait_share']:.0%}"
    return Progress(stage, event["done"], event["total"], unit, event["rate"], event["left_s"], note)
