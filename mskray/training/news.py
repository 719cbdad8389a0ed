"""What workers and controller tell while they train, passed on to the run's report and trackers."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.queue import Empty, Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mskray.progress import Progress, duration
from mskray.training.run import Run
from mskray.training.validation import HELD_OUT, LEARNED

_SIGN_OF_LIFE_S = 30.0


class Say:
    """Puts events on the queue without waiting for the answer."""

    def __init__(self, queue: Queue) -> None:
        self._actor: Any = queue.actor

    def __call__(self, event: dict[str, Any]) -> None:
        self._actor.put_nowait.remote(event)


@contextmanager
def listener(run: Run, unit: str) -> Iterator[Queue]:
    """Pass events from workers and controller to `run.report` and the trackers, in a thread, until the block ends."""
    # On this node: on another one it would be lost with that.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    queue = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
    done = threading.Event()
    failures: list[Exception] = []

    def listen() -> None:
        heard = told = time.monotonic()
        silent = "the training workers are starting: nothing heard of them"
        while True:
            finished = done.is_set()
            try:
                event = queue.get(timeout=0.5)
            except Empty:
                if finished:
                    return
                if (now := time.monotonic()) - told >= _SIGN_OF_LIFE_S:
                    told = now
                    run.report(Progress(f"{silent} for {duration(now - heard)}"))
                continue
            except (RayError, AttributeError):  # the cluster is gone; or the queue was shut down, and has no actor
                return
            heard = told = time.monotonic()
            silent = "no news from the training workers"
            try:
                _pass_on(event, run, unit)
            except Exception as error:  # a tracker that fails must not stop the training
                failures.append(error)

    thread = threading.Thread(target=listen, name="training-events", daemon=True)
    thread.start()
    try:
        yield queue
    finally:
        done.set()
        thread.join(timeout=10)
        queue.shutdown(force=True)
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
