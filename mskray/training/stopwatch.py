"""Where the time of training goes: waiting for data, computing, communicating, reporting.

The loop marks the end of each phase. Communication is what a backward pass takes longer than its computation: from
when the last bucket of gradients is on its way to when all have come back. What overlaps with the computation costs
nothing and is not counted; waiting for slower ranks is. On a GPU two events in its stream measure it and are read
when they have passed, so that nothing waits for them.
"""

import time
from collections import deque
from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

Phase = Literal["wait", "compute", "communicate", "report"]
PHASES: tuple[Phase, ...] = ("wait", "compute", "communicate", "report")
_NS = 1e-9


class Stopwatch:
    """Seconds by phase since `restart`.

    Args:
        told: hears of every interval, such as the cluster's meters.
    """

    def __init__(self, told: Callable[[Phase, float], None] = lambda phase, seconds: None) -> None:
        self._told = told
        self._seconds: dict[Phase, float] = {}
        self._last = self._began = time.monotonic_ns()
        self.restart()

    def restart(self) -> None:
        """Begin a new span; the present phase goes on."""
        self._seconds = dict.fromkeys(PHASES, 0.0)
        self._began = self._last = time.monotonic_ns()

    def mark(self, phase: Phase, communicated: float = 0.0) -> float:
        """Count the time since the last mark as `phase`, but for what of it was communication; return it in seconds."""
        now = time.monotonic_ns()
        passed = (now - self._last) * _NS
        self._last = now
        communicated = min(communicated, passed)
        self._count(phase, passed - communicated)
        if communicated:
            self._count("communicate", communicated)
        return passed

    @property
    def seconds(self) -> float:
        """Seconds since `restart`."""
        return (time.monotonic_ns() - self._began) * _NS

    def share(self, phase: Phase) -> float:
        """The share of a phase in the time since `restart`, up to the last mark."""
        passed = (self._last - self._began) * _NS
        return self._seconds[phase] / passed if passed > 0 else 0.0

    def _count(self, phase: Phase, seconds: float) -> None:
        self._seconds[phase] += seconds
        self._told(phase, seconds)


class Exchange:
    """Times how long a model's gradients travel after the last of them was computed.

    The hook that it registers reduces as DistributedDataParallel does without one, bit for bit: each gradient times
    1 / world, then summed.
    """

    def __init__(self, model: DistributedDataParallel) -> None:
        self._factor = 1.0 / dist.get_world_size()
        self._cuda = next(model.parameters()).device.type == "cuda"
        self._sent: Any = None
        self._pending: deque[tuple[Any, Any]] = deque()
        model.register_comm_hook(None, self._hook)

    def _hook(self, state: object, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        work = dist.all_reduce(bucket.buffer().mul_(self._factor), async_op=True)
        assert work is not None
        if bucket.is_last():
            self._sent = self._now()
        future: torch.futures.Future[Tensor] = work.get_future().then(lambda done: done.value()[0])
        return future

    def seconds(self) -> float:
        """Seconds of the backward pass that has just returned; on a GPU of earlier ones that have ended since."""
        if self._sent is None:
            return 0.0
        sent, self._sent = self._sent, None
        if not self._cuda:
            return float((time.monotonic_ns() - sent) * _NS)
        self._pending.append((sent, self._now()))
        total = 0.0
        while self._pending and self._pending[0][1].query():
            before, after = self._pending.popleft()
            total += before.elapsed_time(after) / 1000
        return total

    def _now(self) -> Any:
        if not self._cuda:
            return time.monotonic_ns()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
