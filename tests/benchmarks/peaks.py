"""Peak memory of a process and all below it, sampled ten times a second (Linux).

    with Peak() as peak:
        work()
    print(peak.above_mb, peak.mb)

Proportional set size counts what several processes share once.
"""

import threading
from types import TracebackType

import psutil


def tree_mb(root: psutil.Process) -> float:
    """Megabytes that a process and all below it hold now."""
    total = 0
    for process in [root, *root.children(recursive=True)]:
        try:
            total += process.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total / 1e6


class Peak:
    """`mb` is the most of the whole tree, `above_mb` what that is above the beginning."""

    def __init__(self, every_s: float = 0.1) -> None:
        self._root, self._every = psutil.Process(), every_s
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> "Peak":
        self.before_mb = self.mb = tree_mb(self._root)
        self._thread.start()
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._done.set()
        self._thread.join()

    @property
    def above_mb(self) -> float:
        return self.mb - self.before_mb

    def _sample(self) -> None:
        while not self._done.wait(self._every):
            self.mb = max(self.mb, tree_mb(self._root))
