"""What runs in Serve's replicas: the members of an ensemble together or each for itself, pairs, spines.

torch is imported where it is used: the ingress imports this module too, and torch costs it 700 MB and six seconds.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any

import ray
from ray import serve
from ray.serve.handle import DeploymentHandle

from mskray.imaging.volumes import Volume
from mskray.serving.catalogue import catalogue
from mskray.serving.rollouts import Rollouts
from mskray.serving.schemas.models import MemberInfo, Models, Rollout, SpineModelInfo
from mskray.serving.schemas.pairs import PairVote
from mskray.serving.schemas.spines import Reached, SpineReading
from mskray.serving.schemas.studies import DecodedView, StudyVote
from mskray.storage import locate

if TYPE_CHECKING:
    from mskray.serving.members import VoteQueue


class Members:
    """The ensemble of studies, ready once it has predicted a blank image.

    Another ensemble that the store names is loaded beside it, tried, and then answers (`rolling`).

    Args:
        ensemble: URI of the ensemble or bundle to begin with.
        apart: handles of `Member`, one a member, which then predict; none where they predict here.
        store: URI of the store; None where no other ensemble will come.
        threads: that torch may use, as for all deployments here; members on a GPU or apart need one.
    """

    def __init__(self, ensemble: str, apart: Sequence[DeploymentHandle], store: str | None, threads: int) -> None:
        import torch

        from mskray.serving.rolling import Rolling

        torch.set_num_threads(1)  # `Lanes` have their own
        self._apart, self._cores = tuple(apart), _cores(threads)
        rollouts = Rollouts(locate(store), ensemble) if store else None
        self._answering = Rolling(ensemble, self._loaded, rollouts, serve.get_replica_context().replica_id.unique_id)
        if rollouts is not None:
            self._answering.watch()

    async def vote(self, views: list[DecodedView], explain: Sequence[str]) -> StudyVote:
        return await self._answering.queue.vote(views, explain)

    async def models(self) -> Models:
        return catalogue(self._answering.queue.described, rollout=self._answering.rollout)

    async def roll_out(self, ensemble: str) -> Rollout:
        """Tell every replica to answer by another ensemble. Raises UserError where it cannot."""
        return await asyncio.to_thread(self._answering.roll_out, ensemble)

    def _loaded(self, ensemble: str) -> "VoteQueue":
        from mskray.ensemble import load
        from mskray.serving.apart import load_apart
        from mskray.serving.drift import held_out_scores
        from mskray.serving.members import VoteQueue

        voter = load_apart(ensemble, self._apart) if self._apart else load(ensemble, _device())
        together = not self._apart
        cores = self._cores if together and _device() == "cpu" else 0
        return VoteQueue(voter, held_out_scores(locate(ensemble), voter.classes), together=together, cores=cores)


class Member:
    """Some members of the ensemble, each loaded when it is first asked for."""

    def __init__(self, threads: int) -> None:
        from mskray.serving.apart import Loaded
        from mskray.serving.lanes import wide_thread

        # One thread: predictors are not thread-safe.
        self._loaded, self._thread = Loaded(_device()), wide_thread(_cores(threads))

    async def call(self, uri: str, expected: str, here: int, method: str, arguments: tuple[Any, ...]) -> Any:
        """Call a predictor's method, one at a time."""
        asked = uri, expected, here, method, arguments
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._loaded.call, *asked)


class Pairs:
    """An ensemble or bundle that judges pairs."""

    def __init__(self, ensemble: str, threads: int) -> None:
        from mskray.ensemble import load
        from mskray.serving.lanes import wide_thread
        from mskray.serving.pairs import PairReader

        self._thread = wide_thread(_cores(threads))
        self._reader = PairReader(load(ensemble, _device()))

    async def vote(self, before: DecodedView, after: DecodedView) -> PairVote:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._reader.vote, before, after)

    async def models(self) -> Models:
        return catalogue(pairs=self._reader.described)


class Spines:
    """A grader of discs and a detector of vertebrae, for one volume at a time.

    Args:
        waiting: volumes that may wait.
    """

    def __init__(self, grader: str, detector: str, waiting: int, threads: int) -> None:
        from mskray.serving.lanes import wide_thread
        from mskray.serving.spines import SpineReader
        from mskray.serving.turns import SpineQueue

        thread = wide_thread(_cores(threads))
        self._reader = SpineReader(grader, detector, _device())
        self._queue = SpineQueue(self._reader, waiting, thread)

    async def read(self, volume: Volume, copies: int | None) -> AsyncIterator[Reached | SpineReading]:
        async for each in self._queue.read(volume, copies):
            yield each

    async def models(self) -> Models:
        described: tuple[SpineModelInfo, list[MemberInfo]] = self._reader.described
        return catalogue(spines=described)


def _device() -> str:
    return "cuda" if ray.get_runtime_context().get_assigned_resources().get("GPU") else "cpu"


def _cores(threads: int) -> int:
    """Return how many cores a replica computes on: so many if they are there, more where it has reserved more CPUs."""
    reserved = int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1.0))
    return min(max(threads, reserved), len(os.sched_getaffinity(0)))
