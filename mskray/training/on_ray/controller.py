"""What Ray Train's controller does for this project: how many workers run, and what is told of it.

No torch here: the controller would load it.

Ray's elastic policy resizes whenever the cluster's resources change, and kills the workers for it, with all that was
trained since the last checkpoint. This one grows only in the moment after a checkpoint was written, and counts workers
as `mskray.cluster` does, so that a CPU stays free to read data.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

import ray
from ray.exceptions import RayError
from ray.train import UserCallback
from ray.train.v2._internal.execution.scaling_policy import (
    ElasticScalingPolicy,
    NoopDecision,
    ScalingDecision,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mskray import cluster
from mskray.progress import duration

GROWS_AFTER_S = 60.0
_TOLD_EVERY_S, _POLL_S = 30.0, 0.5
# After a loss: a worker hears of another's end before Ray knows that the node is gone, and would count that in.
_SETTLES_S = 5.0
Say = Callable[[dict[str, Any]], None]


class _Count:
    """How many checkpoints were stored."""

    def __init__(self) -> None:
        self._stored = 0

    def add(self) -> None:
        self._stored += 1

    def value(self) -> int:
        return self._stored


class Stored:
    """Counts checkpoints: workers call it, the controller reads it. It lives on the driver's node, to end with it."""

    def __init__(self) -> None:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._actor: Any = ray.remote(_Count).options(num_cpus=0, scheduling_strategy=here).remote()

    def __call__(self) -> None:
        self._actor.add.remote()

    @property
    def count(self) -> int | None:
        """None where it does not answer."""
        try:
            return int(ray.get(self._actor.value.remote(), timeout=5))
        except RayError:
            return None

    def close(self) -> None:
        """End the counter."""
        ray.kill(self._actor)


class Workers(ElasticScalingPolicy):
    """As many workers as there is room for, between `least` and `need.workers`.

    Args:
        scaling: Ray Train's `ScalingConfig`.
        need: of all workers.
        reading_cpus: that must stay free beside them.
        stored: tells of checkpoints; None where the number is fixed.
    """

    def __init__(
        self,
        scaling: Any,
        need: cluster.Need,
        least: int,
        reading_cpus: float,
        stored: Stored | None,
        say: Say,
    ) -> None:
        super().__init__(scaling)
        self._need, self._least, self._reading = need, least, reading_cpus
        self._stored, self._say = stored, say
        self._known: int | None = None
        self._waiting_since = self._told = 0.0
        self._tries = 0
        self._ran = False
        self._grows_after = GROWS_AFTER_S

    def make_decision_for_non_running_worker_group(self) -> ScalingDecision:
        """Start, or start again after a loss. Ray asks again where there was no place within a minute."""
        self._maybe_send_resource_request()
        if self._ran and not self._tries:
            time.sleep(_SETTLES_S)
        room = self._room()
        # What others occupy is not seen in the room: asked again and again, make do with less.
        room = max(room - max(0, self._tries - 1), min(room, self._least))
        if room < self._least:
            self._wait(room)
            return NoopDecision()
        self._waiting_since, self._known = 0.0, None
        self._tries += 1
        return self._get_resize_decision(room)

    def make_decision_for_running_worker_group(
        self, worker_group_state: Any, worker_group_status: Any
    ) -> ScalingDecision:
        """Grow, just after a checkpoint, where there is room for more."""
        self._maybe_send_resource_request()
        self._ran, self._tries = True, 0
        running = worker_group_state.num_workers
        if self._stored is None or running >= self._need.workers:
            return NoopDecision()
        before, self._known = self._known, self._stored.count
        if before is None or self._known is None or self._known == before:
            return NoopDecision()
        if time.monotonic() - worker_group_state.start_time < self._grows_after:
            return NoopDecision()
        more = min(self._room() - running, cluster.free(self._need))
        if more <= 0:
            return NoopDecision()
        room = running + more
        self._tries, self._known = 1, None
        self._say({"kind": "workers", "text": f"there is room for {room} training workers again: starting {more} more"})
        return self._get_resize_decision(room)

    def _room(self) -> int:
        return min(cluster.room(self._need, self._reading, sure=True), self._need.workers)

    def _wait(self, room: int) -> None:
        now = time.monotonic()
        self._waiting_since = self._waiting_since or now
        if now - self._told >= _TOLD_EVERY_S:
            self._told = now
            passed = duration(now - self._waiting_since)
            text = (
                f"training waits for room for {self._least} workers, the cluster has room for {room} ({passed} so far)"
            )
            self._say({"kind": "workers", "text": text})
        time.sleep(_POLL_S)  # Ray asks again at once


class TellsOfLosses(UserCallback):
    """Says which workers failed, and why, before Ray starts them again.

    Args:
        workers: of the run.
        allowed: failures before the run ends.
    """

    def __init__(self, say: Say, allowed: int) -> None:
        self._say, self._allowed = say, allowed
        self._failures = 0

    def after_exception(self, run_context: Any, worker_exceptions: Mapping[int, Exception]) -> None:
        """Called by Ray Train with what each failed rank raised."""
        self._failures += 1
        then = "training starts again" if self._failures <= self._allowed else "that was once too often"
        text = f"a training worker was lost ({_reason(worker_exceptions)}): {then}"
        self._say({"kind": "workers", "text": f"{text} (failure {self._failures}, {self._allowed} allowed)"})


def _reason(failures: Mapping[int, Exception]) -> str:
    """Why, in a line: where a worker dies, the others fail too, as their connections to it break."""
    first: Any = next((each for each in failures.values() if isinstance(each, RayError)), None)
    first = first or failures[min(failures)]
    first = getattr(first, "cause", first) or first
    line = (str(first).strip().splitlines() or [""])[0]
    broken = isinstance(first, RuntimeError) and any(word in str(first).lower() for word in ("gloo", "nccl", "peer"))
    return "another one's connection to it broke" if broken else f"{type(first).__name__}: {line}"[:200]
