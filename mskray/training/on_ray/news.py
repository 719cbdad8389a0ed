"""Events of workers and controller on a queue of the cluster, heard by the driver."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.queue import Empty, Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mskray.training.news import heard
from mskray.training.run import Run


class Told:
    """Puts events on the queue without waiting for the answer."""

    def __init__(self, queue: Queue) -> None:
        self._actor: Any = queue.actor

    def __call__(self, event: dict[str, Any]) -> None:
        self._actor.put_nowait.remote(event)


class _Events:
    def __init__(self, queue: Queue) -> None:
        self._queue = queue

    def get(self, *, timeout: float) -> dict[str, Any]:
        try:
            event: dict[str, Any] = self._queue.get(timeout=timeout)
        except Empty:  # comes from the actor, and so is a RayError, too
            raise
        except (RayError, AttributeError) as error:  # the cluster is gone; or the queue was shut down, and has no actor
            raise EOFError from error
        return event


@contextmanager
def listener(run: Run, unit: str) -> Iterator[Queue]:
    """Pass events from workers and controller to `run.report` and the trackers, in a thread, until the block ends."""
    # On this node: on another one it would be lost with that.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    queue = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
    try:
        with heard(_Events(queue), run, unit):
            yield queue
    finally:
        queue.shutdown(force=True)
