"""The ensemble in one replica: all members fused, studies of waiting requests joined in one batch.

Members in deployments of their own cost a third of the throughput on small models: every image would travel once a
member. A batch is made of what waits while the one before is computed. `serve.batch` cannot do that: it closes a
batch when its time-out ends even though the model is still busy, so that without a time-out each request is a batch of
its own, and with one a lone client always waits for it.
"""

import asyncio
import os
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from mskray.ensemble import Voter
from mskray.errors import UserError
from mskray.families import Images, Prediction, Predictor
from mskray.serving.answers import Answering
from mskray.serving.drift import Drift, score
from mskray.serving.meters import MemberMeters
from mskray.serving.schemas.models import Described
from mskray.serving.schemas.studies import DecodedView, StudyVote

_BATCH = 32
"""Images that are predicted together; a larger study is a batch of its own."""


@dataclass(frozen=True)
class _Waiting:
    views: list[DecodedView]
    answer: "asyncio.Future[StudyVote]"


class VoteQueue:
    """A voter with a queue before it. Predicts in a thread, so that the event loop stays free.

    Args:
        voter: the loaded ensemble; it is tried on a blank image before this returns.
        together: whether the members share this process; else each is asked at the same time as the others.
        held_out: (n,) scores of studies that it was judged on, see `drift.held_out_scores`.
    Raises:
        UserError: it reads no single radiographs.
    """

    def __init__(self, voter: Voter, held_out: np.ndarray | None = None, *, together: bool = True) -> None:
        kind = voter.bundles[0].kind
        if kind != "radiograph":
            raise UserError(f"{voter.ensemble.name} reads {kind}s: a bundle or ensemble for radiographs can be served")
        self._voter, self._answering = voter, Answering(voter)
        self._meters, self._drift = MemberMeters(), Drift(np.zeros(0) if held_out is None else held_out)
        self._waiting: deque[_Waiting] = deque()
        self._working: asyncio.Task[None] | None = None
        self._pool = None if together else ThreadPoolExecutor(len(voter.names))
        self._predict(Images([np.zeros((64, 64), np.uint8)]))

    @property
    def described(self) -> Described:
        return self._answering.described

    async def vote(self, views: list[DecodedView], explain: Sequence[str] = ()) -> StudyVote:
        """Vote on a study, together with whatever else waits."""
        waiting = _Waiting(views, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if self._working is None or self._working.done():
            self._working = asyncio.create_task(self._work())
        return await waiting.answer

    async def _work(self) -> None:
        while batch := self._take():
            try:
                answers = await asyncio.to_thread(self._vote, [each.views for each in batch])
            except Exception as error:
                await self._apart(batch, error)
                continue
            for each, answer in zip(batch, answers, strict=True):
                self._settle(each, answer)

    async def _apart(self, batch: list[_Waiting], error: Exception) -> None:
        """Find whose study failed: one that breaks a member must not break the answers of others."""
        if len(batch) == 1:
            self._settle(batch[0], error)
            return
        for each in batch:
            try:
                self._settle(each, (await asyncio.to_thread(self._vote, [each.views]))[0])
            except Exception as own:
                self._settle(each, own)

    def _settle(self, waiting: _Waiting, outcome: StudyVote | Exception) -> None:
        if isinstance(outcome, Exception):
            self._meters.failed()
        else:
            shares = outcome.study.probabilities
            (value,) = score(np.array([list(shares.values())]))
            self._meters.scored(shares.items(), self._drift.add(float(value)))
        if waiting.answer.done():
            return
        if isinstance(outcome, Exception):
            waiting.answer.set_exception(outcome)
        else:
            waiting.answer.set_result(outcome)

    def _take(self) -> list[_Waiting]:
        """Take studies off the queue, in order, up to `_BATCH` images; whoever has gone is left out."""
        taken: list[_Waiting] = []
        images = 0
        while self._waiting:
            following = self._waiting[0]
            if not following.answer.done():
                if taken and images + len(following.views) > _BATCH:
                    break
                taken.append(following)
                images += len(following.views)
            self._waiting.popleft()
        return taken

    def _vote(self, studies: Sequence[list[DecodedView]]) -> list[StudyVote]:
        views = [view for study in studies for view in study]
        names = [str(number) for number, study in enumerate(studies) for _ in study]
        predictions = self._predict(Images([each.pixels for each in views], [each.body_part for each in views], names))
        vote = self._voter.combine(predictions)
        answers, start = [], 0
        for study in studies:
            rows = slice(start, start + len(study))
            answers.append(self._answering.study(study, vote, predictions, rows))
            start = rows.stop
        return answers

    def _predict(self, images: Images) -> list[Prediction]:
        """Each member's, in order."""
        seen = self._voter.seen(images)

        def timed(predictor: Predictor) -> tuple[Prediction, float]:
            began = time.monotonic()
            return predictor(seen), time.monotonic() - began

        asked = (self._pool.map if self._pool else map)(timed, self._voter.predictors)
        predictions, seconds = zip(*asked, strict=True)
        self._meters.predicted(len(images), len(self._waiting), zip(self._voter.names, seconds, strict=True))
        return list(predictions)


def use_threads(cpus: float) -> None:
    """Give torch one thread for each CPU that was reserved, and no more than there are."""
    torch.set_num_threads(max(1, min(int(cpus), len(os.sched_getaffinity(0)))))
