"""What runs in Serve's replicas: the members of an ensemble together or each for itself, pairs, spines.

torch is imported where it is used: the ingress imports this module too, and torch costs it 700 MB and six seconds.
"""

import asyncio
import logging
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import ray
from ray.serve.handle import DeploymentHandle

from mskray.errors import UserError
from mskray.imaging.volumes import Volume
from mskray.serving.catalogue import catalogue
from mskray.serving.rollouts import Pointer
from mskray.serving.schemas.models import MemberInfo, Models, Rollout, SpineModelInfo
from mskray.serving.schemas.pairs import PairVote
from mskray.serving.schemas.spines import Reached, SpineReading
from mskray.serving.schemas.studies import DecodedView, StudyVote
from mskray.storage import locate

if TYPE_CHECKING:
    from mskray.serving.members import VoteQueue

_LOOK_S = 2.0
_log = logging.getLogger("ray.serve")


class Members:
    """The ensemble of studies, ready once it has predicted a blank image.

    Another ensemble that the pointer in the store names is loaded beside it, tried, and then answers.

    Args:
        ensemble: URI of the ensemble or bundle to begin with.
        apart: handles of `Member`, one a member, which then predict; none where they predict here.
        store: URI of the store; None where no other ensemble will come.
    """

    def __init__(self, ensemble: str, apart: Sequence[DeploymentHandle], store: str | None) -> None:
        _use_what_is_reserved()
        self._apart, self._rollout = tuple(apart), Rollout(ensemble=ensemble, state="served", reason=None)
        self._pointer = Pointer(locate(store)) if store else None
        wanted = self._pointer.read() if self._pointer else None
        if wanted is None or not self._take(wanted):
            self._queue = self._loaded(ensemble)
        if self._pointer is not None:
            threading.Thread(target=self._watch, args=(self._pointer,), name="rollout", daemon=True).start()

    async def vote(self, views: list[DecodedView], explain: Sequence[str]) -> StudyVote:
        return await self._queue.vote(views, explain)

    async def models(self) -> Models:
        return catalogue(self._queue.described, rollout=self._rollout)

    async def roll_out(self, ensemble: str) -> None:
        """Tell every replica to answer by another ensemble. Raises UserError where it cannot."""
        if self._pointer is None:
            raise UserError("the server was started without --store, which would tell its replicas")
        await asyncio.to_thread(self._check, ensemble)
        await asyncio.to_thread(self._pointer.write, ensemble)

    def _check(self, ensemble: str) -> None:
        from mskray.ensemble import describe

        now, wanted = self._queue.described.ensemble, describe(ensemble)
        if (wanted.task, list(wanted.classes)) != (now.task, now.classes):
            raise UserError(
                f"{ensemble} answers {wanted.task} ({', '.join(wanted.classes)}), this server {now.task} "
                f"({', '.join(now.classes)}): clients rely on it; start another server"
            )

    def _watch(self, pointer: Pointer) -> None:
        stop = threading.Event()
        while not stop.wait(_LOOK_S):
            try:
                wanted = pointer.read()
            except UserError as error:  # the store is away for a moment
                _log.error("cannot look for another ensemble: %s", error)
                continue
            if wanted is not None and wanted != self._rollout.ensemble:
                self._take(wanted)

    def _take(self, ensemble: str) -> bool:
        """Load another ensemble and answer by it; what cannot be loaded is told and left."""
        self._rollout = Rollout(ensemble=ensemble, state="loading", reason=None)
        try:
            self._queue = self._loaded(ensemble)
        except Exception as error:
            reason = str(error) if isinstance(error, UserError) else f"a defect: {type(error).__qualname__}"
            _log.error("ensemble %s is refused: %s", ensemble, reason)
            self._rollout = Rollout(ensemble=ensemble, state="refused", reason=reason)
            return False
        self._rollout = Rollout(ensemble=ensemble, state="served", reason=None)
        return True

    def _loaded(self, ensemble: str) -> "VoteQueue":
        from mskray.ensemble import load
        from mskray.serving.apart import load_apart
        from mskray.serving.drift import held_out_scores
        from mskray.serving.members import VoteQueue

        voter = load_apart(ensemble, self._apart) if self._apart else load(ensemble, _device())
        return VoteQueue(voter, held_out_scores(locate(ensemble), voter.classes), together=not self._apart)


class Member:
    """Some members of the ensemble, each loaded when it is first asked for; a replica keeps the last two."""

    def __init__(self) -> None:
        from mskray.serving.apart import Loaded

        _use_what_is_reserved()
        self._loaded, self._turn = Loaded(_device()), asyncio.Lock()

    async def call(self, uri: str, expected: str, method: str, arguments: tuple[Any, ...]) -> Any:
        """Call a predictor's method, one at a time: predictors are not thread-safe."""
        async with self._turn:
            return await asyncio.to_thread(self._loaded.call, uri, expected, method, arguments)


class Pairs:
    """An ensemble or bundle that judges pairs."""

    def __init__(self, ensemble: str) -> None:
        from mskray.ensemble import load
        from mskray.serving.pairs import PairReader

        _use_what_is_reserved()
        self._reader, self._turn = PairReader(load(ensemble, _device())), asyncio.Lock()

    async def vote(self, before: DecodedView, after: DecodedView) -> PairVote:
        async with self._turn:
            return await asyncio.to_thread(self._reader.vote, before, after)

    async def models(self) -> Models:
        return catalogue(pairs=self._reader.described)


class Spines:
    """A grader of discs and a detector of vertebrae."""

    def __init__(self, grader: str, detector: str) -> None:
        from mskray.serving.spines import SpineReader

        _use_what_is_reserved()
        self._reader = SpineReader(grader, detector, _device())

    def read(self, volume: Volume, copies: int | None) -> Iterator[Reached | SpineReading]:
        yield from self._reader.read(volume, copies)

    async def models(self) -> Models:
        described: tuple[SpineModelInfo, list[MemberInfo]] = self._reader.described
        return catalogue(spines=described)


def _device() -> str:
    return "cuda" if ray.get_runtime_context().get_assigned_resources().get("GPU") else "cpu"


def _use_what_is_reserved() -> None:
    from mskray.serving.members import use_threads

    use_threads(ray.get_runtime_context().get_assigned_resources().get("CPU", 1.0))
