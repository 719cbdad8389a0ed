"""The ensemble in one replica: all members fused, studies of waiting requests joined in one batch.

Members in deployments of their own cost a third of the throughput on small models: every image would travel once a
member. A batch is made of what waits while the one before is computed. `serve.batch` cannot do that: it closes a
batch when its time-out ends even though the model is still busy, so that without a time-out each request is a batch of
its own, and with one a lone client always waits for it.
"""

import asyncio
import hashlib
import json
import os
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mskray.ensemble import Ensemble, Vote, Voter, doubt
from mskray.errors import UserError
from mskray.evaluation.calibration import decision
from mskray.families import Images
from mskray.serving.schemas import (
    CalibrationInfo,
    DecodedView,
    Doubt,
    EnsembleInfo,
    MemberInfo,
    MemberName,
    ModelName,
    Models,
    Probabilities,
    StudyResult,
    StudyVote,
)

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
    Raises:
        UserError: it reads no single radiographs.
    """

    def __init__(self, voter: Voter) -> None:
        kind = voter.bundles[0].kind
        if kind != "radiograph":
            raise UserError(f"{voter.ensemble.name} reads {kind}s: a bundle or ensemble for radiographs can be served")
        self._voter = voter
        self._names = list(voter(Images([np.zeros((64, 64), np.uint8)])).members)
        self._waiting: deque[_Waiting] = deque()
        self._working: asyncio.Task[None] | None = None
        self.models = describe(voter, self._names)
        self._model = ModelName(
            name=self.models.ensemble.name,
            hash=self.models.ensemble.hash,
            task=self.models.ensemble.task,
            calibrated=self.models.ensemble.calibration.fitted_on is not None,
            members=[MemberName(name=member.name, hash=member.hash) for member in self.models.members],
        )

    async def vote(self, views: list[DecodedView]) -> StudyVote:
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
                _settle(each, answer)

    async def _apart(self, batch: list[_Waiting], error: Exception) -> None:
        """Find whose study failed: one that breaks a member must not break the answers of others."""
        if len(batch) == 1:
            _settle(batch[0], error)
            return
        for each in batch:
            try:
                _settle(each, (await asyncio.to_thread(self._vote, [each.views]))[0])
            except Exception as own:
                _settle(each, own)

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
        vote = self._voter(Images([view.pixels for view in views], [view.body_part for view in views], names))
        answers, start = [], 0
        for study in studies:
            answers.append(self._answer(vote, study, slice(start, start + len(study))))
            start += len(study)
        return answers

    def _answer(self, vote: Vote, study: list[DecodedView], rows: slice) -> StudyVote:
        # As in evaluation: a study is the mean of its views' probabilities.
        mean = vote.probabilities[rows].mean(axis=0, dtype=np.float64)
        called = int(decision(mean[None], self._voter.threshold)[0])
        return StudyVote(
            views=[self._by_class(row) for row in vote.probabilities[rows]],
            members=[
                {name: self._by_class(vote.members[name][index]) for name in self._names}
                for index in range(rows.start, rows.stop)
            ],
            study=StudyResult(
                probabilities=self._by_class(mean),
                label=self._voter.classes[called],
                threshold=self.models.ensemble.threshold,
                views=len(study),
            ),
            warnings=_doubts(study, self.models),
            model=self._model,
        )

    def _by_class(self, row: np.ndarray) -> Probabilities:
        # A float32 softmax may exceed 1 by its last digit.
        return dict(zip(self._voter.classes, np.clip(row, 0, 1).tolist(), strict=True))


def use_threads(cpus: float) -> None:
    """Give torch one thread for each CPU that was reserved, and no more than there are."""
    torch.set_num_threads(max(1, min(int(cpus), len(os.sched_getaffinity(0)))))


def describe(voter: Voter, names: Sequence[str]) -> Models:
    """Describe a loaded ensemble; `names` tells its members apart, in order."""
    ensemble = voter.ensemble
    total = sum(member.weight for member in ensemble.members)
    return Models(
        ensemble=EnsembleInfo(
            name=ensemble.name,
            hash=_hash(ensemble),
            task=ensemble.task,
            classes=list(ensemble.classes),
            threshold=ensemble.threshold if len(ensemble.classes) == 2 else None,
            calibration=CalibrationInfo(**ensemble.calibration.model_dump()),
        ),
        members=[
            MemberInfo(
                name=name,
                family=bundle.family,
                task=bundle.task,
                classes=list(bundle.classes),
                body_parts=list(bundle.body_parts),
                metrics={key: float(value) for key, value in bundle.best.items() if _is_figure(value)},
                hash=bundle.hash,
                cohort_hash=bundle.cohort.get("content_hash", ""),
                weight=member.weight / total,
            )
            for name, bundle, member in zip(names, voter.bundles, ensemble.members, strict=True)
        ],
    )


def _doubts(study: list[DecodedView], models: Models) -> list[Doubt]:
    doubts = []
    for part in dict.fromkeys(view.body_part for view in study if view.body_part):
        message = doubt(((member.name, member.body_parts) for member in models.members), part)
        if message:
            views = [view.index for view in study if view.body_part == part]
            doubts.append(Doubt(code="body-part-not-trained", views=views, message=message))
    return doubts


def _hash(ensemble: Ensemble) -> str:
    """SHA-256 over all that decides an answer, and not over where the members lie."""
    content = ensemble.model_dump(mode="json", exclude={"name", "members", "flag_remover"})
    if ensemble.flag_remover is not None:
        content["flag_remover"] = ensemble.flag_remover.hash
    content["members"] = [[member.hash, member.weight] for member in ensemble.members]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _is_figure(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))


def _settle(waiting: _Waiting, outcome: StudyVote | Exception) -> None:
    if waiting.answer.done():
        return
    if isinstance(outcome, Exception):
        waiting.answer.set_exception(outcome)
    else:
        waiting.answer.set_result(outcome)
