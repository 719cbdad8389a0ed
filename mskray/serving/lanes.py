"""Threads that predict side by side, each a batch at a time, each by a voter of its own on the same weights.

On a CPU a batch for each core answers more than one batch on all cores, whose threads wait for each other after every
layer: of three small networks at 224 px, two cores do 50 images/s and 38.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from queue import SimpleQueue
from typing import TypeVar

import torch

from mskray.ensemble import Voter

Found = TypeVar("Found")

_BATCH = 32
_CORE_BATCH = 4
"""A core is fastest with few images, whose activations its cache holds."""


class Lanes:
    """As many lanes as cores, and one for work that finds nobody else at work: it has all cores.

    `count` lanes take up to `batch` images each. `spare` is a voter for work in pieces, of which each may be done in
    another lane: no lane's own, unless there is one lane only.

    Args:
        voter: what predicts.
        cores: CPUs that the lanes share; 0 where the work is done elsewhere, on a GPU or in deployments of their own:
            one lane then, of larger batches.
    """

    def __init__(self, voter: Voter, cores: int) -> None:
        self.count, self._busy = max(1, cores), 0
        self.batch = _CORE_BATCH if cores else _BATCH
        self._alone = wide_thread(cores) if cores > 1 else None
        self._pool = ThreadPoolExecutor(self.count, "lane", partial(_take, 1) if cores else None)
        twins = [] if self._alone is None else [voter.twin() for _ in range(self.count + 1)]
        self.spare = twins.pop() if twins else voter
        self._voters: SimpleQueue[Voter] = SimpleQueue()
        for each in (voter, *twins):
            self._voters.put(each)

    async def run(self, work: Callable[[Voter], Found]) -> Found:
        """Do some work in the next lane that is free, first come, first served; nobody else uses its voter meanwhile.

        Raises what `work` does.
        """
        pool = self._alone if self._alone is not None and not self._busy else self._pool
        self._busy += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, self._done, work)
        finally:
            self._busy -= 1

    def _done(self, work: Callable[[Voter], Found]) -> Found:
        voter = self._voters.get_nowait()
        try:
            return work(voter)
        finally:
            self._voters.put(voter)


def wide_thread(cores: int) -> ThreadPoolExecutor:
    """Return a thread that computes on so many cores; threads to come compute alone.

    OpenMP's threads wait for each other in a loop as long as the process has no more of them than there are CPUs. With
    more they sleep, and one image through three small networks takes two of them 54 ms, not 28 (one of them: 43).
    """
    made = ThreadPoolExecutor(1, thread_name_prefix="wide")
    made.submit(_take, cores).result()
    torch.set_num_threads(1)
    return made


def _take(cores: int) -> None:
    """Give this thread so many."""
    torch.set_num_threads(cores)
    torch.get_num_threads()  # now torch knows the thread: when it meets one, it gives it what any thread was given last
    torch.set_num_threads(cores)
