"""The ensemble in one replica: all members fused, studies of waiting requests joined in batches, one a lane.

Members in deployments of their own cost a third of the throughput on small models: every image would travel once a
member. A batch is made of what waits while those before are computed. `serve.batch` cannot do that: it closes a
batch when its time-out ends even though the model is still busy, so that without a time-out each request is a batch of
its own, and with one a lone client always waits for it.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from mskray.ensemble import Seen, Voter
from mskray.errors import UserError
from mskray.explain.methods import METHODS, check_methods
from mskray.explaining import Explaining
from mskray.families import Images, Prediction, Predictor
from mskray.serving.answers import Answering, Judged
from mskray.serving.drift import Drift, score
from mskray.serving.evidence import Explained
from mskray.serving.lanes import Lanes
from mskray.serving.meters import MemberMeters
from mskray.serving.problems import Problem
from mskray.serving.schemas.models import Described
from mskray.serving.schemas.studies import DecodedView, StudyVote

_log = logging.getLogger("ray.serve")


@dataclass(frozen=True)
class _Waiting:
    views: list[DecodedView]
    explain: tuple[str, ...]
    answer: "asyncio.Future[StudyVote]"


class VoteQueue:
    """A voter with a queue before it. Predicts in threads, so that the event loop stays free.

    Args:
        voter: the loaded ensemble; it is tried on a blank image before this returns.
        held_out: (n,) scores of studies that it was judged on, see `drift.held_out_scores`.
        together: whether the members share this process; else each is asked at the same time as the others.
        cores: CPUs that predict here, see `Lanes`.
    Raises:
        UserError: it reads no single radiographs, or what it names to know strange images by is not as it was.
    """

    def __init__(
        self, voter: Voter, held_out: np.ndarray | None = None, *, together: bool = True, cores: int = 0
    ) -> None:
        kind = voter.bundles[0].kind
        if kind != "radiograph":
            raise UserError(f"{voter.ensemble.name} reads {kind}s: a bundle or ensemble for radiographs can be served")
        self._voter, self._answering = voter, Answering(voter)
        self._meters, self._drift = MemberMeters(), Drift(np.zeros(0) if held_out is None else held_out)
        self._waiting: deque[_Waiting] = deque()
        self._unexplained: deque[_Waiting] = deque()
        self._explaining: Explaining | None = None
        self._lanes = Lanes(voter, cores)
        self._working: list[asyncio.Task[None]] = []
        self._reasoning: asyncio.Task[None] | None = None
        self._pool = None if together else ThreadPoolExecutor(len(voter.names))
        self._judge(voter, [[DecodedView(0, None, "", np.zeros((64, 64), np.uint8), "")]])

    @property
    def described(self) -> Described:
        return self._answering.described

    async def vote(self, views: list[DecodedView], explain: Sequence[str] = ()) -> StudyVote:
        """Vote on a study, together with whatever else waits.

        Args:
            explain: names of METHODS, whose maps are the answer's `evidence`. Such a study is judged apart, so that
                others wait for one piece of the work at most, and their answers are those that they would be without,
                but for what rounding makes of batches of other sizes.
        Raises:
            Problem: an unknown method.
        """
        try:
            check_methods(explain)
        except UserError as error:
            raise Problem("invalid-value", f"explain: {error}") from None
        waiting = _Waiting(views, tuple(dict.fromkeys(explain)), asyncio.get_running_loop().create_future())
        if waiting.explain:
            self._unexplained.append(waiting)
            if self._reasoning is None or self._reasoning.done():
                self._reasoning = asyncio.create_task(self._explain())
        else:
            self._waiting.append(waiting)
            self._working = [each for each in self._working if not each.done()]
            if len(self._working) < self._lanes.count:
                self._working.append(asyncio.create_task(self._work()))
        return await waiting.answer

    async def _work(self) -> None:
        """Answer who waits, batch by batch, in a lane each."""
        while batch := self._take():
            try:
                answers = await self._lanes.run(partial(self._vote, studies=[each.views for each in batch]))
            except Exception as error:
                await self._apart(batch, error)
                continue
            for each, answer in zip(batch, answers, strict=True):
                self._settle(each, answer)

    async def _explain(self) -> None:
        """Answer who wants reasons, one after the other; others can have the lane after each piece of the work."""
        while self._unexplained:
            waiting = self._unexplained.popleft()
            piece = partial(_next, self._explained(waiting))
            try:
                while not waiting.answer.done() and (answer := await self._lanes.run(piece)) is None:
                    pass
            except Exception as error:
                self._settle(waiting, error)
                continue
            if not waiting.answer.done():
                assert answer is not None
                self._settle(waiting, answer)

    def _explained(self, waiting: _Waiting) -> Iterator[StudyVote | None]:
        """Work on a study piece by piece; the answer comes last."""
        if self._explaining is None:  # the first that asks waits for every method's trial
            self._explaining = Explaining(self._lanes.spare, list(METHODS))
            yield None
        judged, rows = self._judge(self._explaining.voter, [waiting.views]), slice(0, len(waiting.views))
        yield None
        _, target = self._answering.called(judged, rows)
        explained = Explained(self._explaining, waiting.views, judged, waiting.explain, target)
        for _ in explained.pieces():
            yield None
        answer = self._answering.study(waiting.views, judged, rows)
        yield replace(answer, evidence=explained.evidence, warnings=[*answer.warnings, *explained.doubts()])

    async def _apart(self, batch: list[_Waiting], error: Exception) -> None:
        """Find whose study failed: one that breaks a member must not break the answers of others."""
        if len(batch) == 1:
            self._settle(batch[0], error)
            return
        for each in batch:
            try:
                self._settle(each, (await self._lanes.run(partial(self._vote, studies=[each.views])))[0])
            except Exception as own:
                self._settle(each, own)

    def _settle(self, waiting: _Waiting, outcome: StudyVote | Exception) -> None:
        if not waiting.answer.done():
            if isinstance(outcome, Exception):
                waiting.answer.set_exception(outcome)
            else:
                waiting.answer.set_result(outcome)
        try:
            self._measure(outcome)
        except Exception:  # figures that fail must not end the work that others wait for
            _log.exception("a study was not measured")

    def _measure(self, outcome: StudyVote | Exception) -> None:
        if isinstance(outcome, Exception):
            self._meters.failed()
            return
        shares = outcome.study.probabilities
        (value,) = score(np.array([list(shares.values())]))
        self._meters.scored(shares.items(), self._drift.add(float(value)))

    def _take(self) -> list[_Waiting]:
        """Take studies off the queue, in order, as many images as a lane takes; whoever has gone is left out.

        A larger study is a batch of its own.
        """
        taken: list[_Waiting] = []
        images = 0
        while self._waiting:
            following = self._waiting[0]
            if not following.answer.done():
                if taken and images + len(following.views) > self._lanes.batch:
                    break
                taken.append(following)
                images += len(following.views)
            self._waiting.popleft()
        return taken

    def _vote(self, voter: Voter, studies: Sequence[list[DecodedView]]) -> list[StudyVote]:
        judged = self._judge(voter, studies)
        answers, start = [], 0
        for study in studies:
            rows = slice(start, start + len(study))
            answers.append(self._answering.study(study, judged, rows))
            start = rows.stop
        return answers

    def _judge(self, voter: Voter, studies: Sequence[list[DecodedView]]) -> Judged:
        """Have the views of some studies judged as one batch."""
        views = [view for study in studies for view in study]
        names = [str(number) for number, study in enumerate(studies) for _ in study]
        images = Images([each.pixels for each in views], [each.body_part for each in views], names)
        seen = voter.seen(images)
        return self._answering.judged(seen, self._predict(voter, seen))

    def _predict(self, voter: Voter, seen: Seen) -> list[Prediction]:
        """Each member's, in order."""

        def timed(predictor: Predictor) -> tuple[Prediction, float]:
            began = time.monotonic()
            return predictor(seen), time.monotonic() - began

        asked = (self._pool.map if self._pool else map)(timed, voter.predictors)
        predictions, seconds = zip(*asked, strict=True)
        self._meters.predicted(len(seen), len(self._waiting), zip(self._voter.names, seconds, strict=True))
        return list(predictions)


def _next(work: Iterator[StudyVote | None], voter: Voter) -> StudyVote | None:
    """Do the next piece of some work that has a voter of its own."""
    return next(work)
