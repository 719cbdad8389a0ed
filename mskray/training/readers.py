"""Who reads shards while the loop trains: tasks of a cluster (`on_ray.readers`), or threads of this process.

Threads suffice here because reading is Arrow, numpy and OpenCV, which leave the interpreter to others meanwhile.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, Protocol

from mskray.progress import Progress, Report, duration

TOLD_EVERY_S = 30.0
# At once, whatever the number of shards asked for: each holds one while it reads.
_MOST_THREADS = 8
# What held shards may fill of this machine's memory; a cluster's share of its nodes' comes to about half of that.
_MEMORY_SHARE = 0.25
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


class Readers(Protocol):
    """Starts work on shards and hands over what came out. A handle names one piece of work."""

    def start(self, work: Callable[[], Any]) -> Any:
        """Begin some work, behind what was begun before, and return its handle."""
        ...

    def take(self, handle: Any) -> Any:
        """Wait for what a piece of work returns, or raise what it raised. It may be taken again."""
        ...

    def as_finished(self, handles: Sequence[Any], stage: str, unit: str, report: Report) -> Iterator[Any]:
        """Yield each handle when its work has ended, well or not; report how long none has."""
        ...

    def room(self) -> int:
        """Bytes that held shards may take up."""
        ...

    def close(self) -> None:
        """Begin nothing more; what runs ends by itself."""
        ...


class Threads:
    """Readers in this process.

    Args:
        count: work done at once; by default half as many as there are cores, and two at least.
    """

    def __init__(self, count: int = 0) -> None:
        count = count or max(2, min(_MOST_THREADS, len(os.sched_getaffinity(0)) // 2))
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="reader")

    def start(self, work: Callable[[], Any]) -> Future[Any]:
        return self._pool.submit(work)

    def take(self, handle: Future[Any]) -> Any:
        return handle.result()

    def as_finished(
        self, handles: Sequence[Future[Any]], stage: str, unit: str, report: Report
    ) -> Iterator[Future[Any]]:
        waiting, total, since = set(handles), len(handles), time.monotonic()
        while waiting:
            ended, waiting = wait(waiting, timeout=TOLD_EVERY_S, return_when=FIRST_COMPLETED)
            if ended:
                since = time.monotonic()
                yield from ended
            else:
                note = f"none finished for {duration(time.monotonic() - since)}, {len(waiting)} run or wait"
                report(Progress(stage, total - len(waiting), total, unit, note=note))

    def room(self) -> int:
        return int(_MEMORY_SHARE * _memory())

    def close(self) -> None:
        """Begin nothing more; what runs ends by itself."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _memory() -> int:
    """Bytes of this machine's memory, or of the container's where that is less."""
    told = [path.read_text().strip() for path in map(Path, _LIMITS) if path.is_file()]
    limits = [int(text) for text in told if text.isdecimal()]
    return min([os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *limits])
