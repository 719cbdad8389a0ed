"""Threads that predict side by side, each a batch at a time, each by a voter of its own on the same weights.

On a CPU a batch for each core answers more than one batch on all cores: of three small networks at 224 px, two cores
do 42 images/s so, and 35 with one batch, whose threads wait for each other after every layer.
"""

import asyncio
import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import TypeVar

import torch
from torch import nn

from mskray.ensemble import Voter

Found = TypeVar("Found")

_BATCH = 32
_CORE_BATCH = 4
"""A core is fastest with few images, whose activations its cache holds."""


class Lanes:
    """As many lanes as cores.

    Args:
        voter: what predicts.
        cores: CPUs that the lanes share; a lane whose neighbours are idle uses theirs too. 0 where the work is done
            elsewhere, on a GPU or in deployments of their own: one lane then, of larger batches.

    `count` lanes take up to `batch` images each; `spare` is a voter for work that is done piece by piece and leaves
    hooks in the networks meanwhile: not that of a lane, unless there is one lane only.
    """

    def __init__(self, voter: Voter, cores: int) -> None:
        self.count, self._cores, self._busy = max(1, cores), cores, 0
        self.batch = _CORE_BATCH if cores else _BATCH
        self._pool = ThreadPoolExecutor(self.count, thread_name_prefix="lane")
        self._voters: SimpleQueue[Voter] = SimpleQueue()
        for place in range(self.count):
            self._voters.put(twin(voter) if place else voter)
        self.spare = twin(voter) if self.count > 1 else voter

    async def run(self, work: Callable[[Voter], Found]) -> Found:
        """Do some work in the next lane that is free, first come, first served; nobody else uses its voter meanwhile.

        Raises what `work` does.
        """
        self._busy += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, self._done, work)
        finally:
            self._busy -= 1

    def _done(self, work: Callable[[Voter], Found]) -> Found:
        threads = max(1, self._cores // self._busy)
        if self._cores and torch.get_num_threads() != threads:  # each thread has its own number
            torch.set_num_threads(threads)
        voter = self._voters.get_nowait()
        try:
            return work(voter)
        finally:
            self._voters.put(voter)


def twin(voter: Voter) -> Voter:
    """Return a voter on the same weights that shares nothing else: predictors are not thread-safe."""
    loaded = [*voter.predictors, *([voter.remover] if voter.remover else [])]
    networks = [each for predictor in loaded for each in vars(predictor).values() if isinstance(each, nn.Module)]
    weights = {id(each): each for network in networks for each in (*network.parameters(), *network.buffers())}
    return copy.deepcopy(voter, weights)
