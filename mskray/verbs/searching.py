"""The course of a search: trials until the budget is used, populations in rounds, repeats of the best."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from operator import attrgetter
from typing import Any

from ray.tune.search import Searcher

from mskray.cohorts import Cohort
from mskray.config import validate
from mskray.families import Family
from mskray.progress import Report
from mskray.training.config import TorchConfig
from mskray.training.once import Shared
from mskray.tuning.figures import sign
from mskray.tuning.job import RepeatsSection, SchedulerSection, TuneJob
from mskray.tuning.ledger import ENDED, Ledger, TrialRecord
from mskray.tuning.live import Board
from mskray.tuning.population import train_population
from mskray.tuning.ray_trial import FIGURE, STEP, Plan, Work
from mskray.tuning.runner import Watch, room, run_trials
from mskray.tuning.search import Listed, StudySearch, address
from mskray.tuning.space import SearchSpace
from mskray.tuning.subject import Subject
from mskray.tuning.trial import run_trial
from mskray.verbs.votes import Votes


class Searching:
    """A search whose ledger and cluster are ready.

    Args:
        base: its sections before a trial's parameters.
        metrics: what is optimised; the first ranks.
        records: the ledger's trials.

    Attributes:
        lost: why trials stay open that the cluster or the store was at fault of, a line each.
    """

    def __init__(
        self,
        job: TuneJob,
        chosen: Subject,
        base: Mapping[str, Any],
        space: SearchSpace,
        metrics: Sequence[str],
        cohort: Cohort,
        ledger: Ledger,
        records: Sequence[TrialRecord],
        report: Report,
    ) -> None:
        self._job, self._space, self._metric, self._ledger = job, space, metrics[0], ledger
        self._records = tried_again(ledger, records)
        self.lost: list[str] = []
        folds, seed, resources = job.trials.folds, job.trials.folds_seed, job.resources
        self._searcher = StudySearch(
            ledger,
            [record for record in self._records if not record.seed],
            space,
            job.search,
            job.budget,
            metrics,
            chosen,
            base,
            cohort.fold(0, folds, seed) if folds > 1 else cohort,
            job.task,
            resources.workers * resources.gpus,
        )
        self._plan = Plan(
            ledger, chosen.name, str(cohort.location), job.task, base, resources, folds, seed, self._metric
        )
        alone = isinstance(chosen, Family) and issubclass(chosen.Config, TorchConfig) and not chosen.needs_ray
        self._steps = _steps(chosen, base, space, folds)
        self._room = partial(room, resources, issubclass(chosen.Config, TorchConfig), job.trials.at_once)
        self._work: Work = run_trial
        if isinstance(chosen, Votes):
            self._work = chosen.ballots(cohort, ledger.folder, report)
        else:
            self._plan = replace(self._plan, shared=Shared.start(), here=alone and resources.workers == 1)

    def run(self, board: Board) -> None:
        """Do all that is left to do, and show it."""
        board.total += sum(record.seed > 0 for record in self._records)
        for record in self._records:
            board.update(record)
        if self._job.scheduler.name == "pbt":
            self._train_population(board)
        else:
            self._run(board, self._searcher, self._job.scheduler)
        if self._searcher.used_up:
            board.tell(f"the space holds no more to try than these {len(self._ledger.trials())} trials")
        records = self._ledger.trials()
        again = _repeats(records, self._metric, self._job.repeats)
        if again and not self._spent():
            board.tell(f"{len(again)} repeats with other seeds")
            board.total = sum(record.state in ENDED for record in records) + len(again)
            for record in again:
                self._ledger.write(record)
            self._run(board, Listed(again), SchedulerSection())

    def _run(self, board: Board, given: Searcher, scheduler: SchedulerSection, round_epochs: int = 0) -> bool:
        """Run what a searcher gives; tells whether something is left of the budget."""
        plan, watch = replace(self._plan, round_epochs=round_epochs), _watching(board, self._ledger, self._metric)
        left = self._searcher.time_left
        self.lost += run_trials(plan, given, self._room, scheduler, self._steps, watch, self._work, left)
        return not self._spent()

    def _spent(self) -> bool:
        """Whether time or GPU hours of the budget are used."""
        hours = sum(record.gpu_seconds for record in self._ledger.trials()) / 3600
        return self._searcher.out_of_time or 0 < self._job.budget.gpu_hours <= hours

    def _train_population(self, board: Board) -> None:
        """Draw the members that are still to be drawn, then train all of them in rounds."""
        for number in range(self._job.budget.trials):
            self._searcher.suggest(str(number))
        interval = self._job.scheduler.interval
        train_population(
            self._ledger,
            self._space,
            self._metric,
            self._job.search.seed,
            math.ceil(self._steps / interval),
            lambda members: self._run(board, Listed(members), SchedulerSection(), interval),
        )


def tried_again(ledger: Ledger, records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """The records; where none has come to an end yet, failed trials are open again: what was wrong may be mended."""
    if any(record.state in ("finished", "stopped") for record in records):
        return list(records)
    result = []
    for record in records:
        if record.state == "failed":
            record = record.model_copy(update={"state": "open", "reason": ""})
            ledger.write(record)
        result.append(record)
    return result


def _steps(chosen: Subject, base: Mapping[str, Any], space: SearchSpace, folds: int) -> int:
    """Epochs of the longest trial, of all its trainings together; folds where a family knows no epochs."""
    if not isinstance(chosen, Family) or not issubclass(chosen.Config, TorchConfig):
        return folds
    config = validate(chosen.Config, base, chosen.name)
    total = 0
    for key in chosen.epoch_keys.values():
        searched = space.parameters.get(key)
        total += int(max(searched.values) if searched else attrgetter(key)(config))
    return total


def _watching(board: Board, ledger: Ledger, metric: str) -> Watch:
    def watch(record: dict[str, Any], result: dict[str, Any] | None) -> None:
        known = TrialRecord.model_validate(record)
        if result is None:
            board.update(ledger.trial(known.id))
        elif FIGURE in result:
            board.update(known, int(result[STEP]), {metric: float(result[FIGURE])})
        else:
            board.update(known)

    return watch


def _repeats(records: Sequence[TrialRecord], metric: str, section: RepeatsSection) -> list[TrialRecord]:
    """The best trials again, with other seeds: those that have not ended yet, as open records."""
    if not section.best:
        return []
    ended = [record for record in records if record.state == "finished" and not record.seed]
    finished = [record for record in ended if metric in record.figures]
    finished.sort(key=lambda record: (-sign(metric) * record.figures[metric], record.number))
    there = {record.id: record for record in records}
    number = 1 + max((record.number for record in records), default=-1)
    result: list[TrialRecord] = []
    for record in finished[: section.best]:
        for seed in range(1, section.seeds + 1):
            name = address(record.parameters, seed)
            new = TrialRecord(id=name, number=number + len(result), parameters=record.parameters, seed=seed)
            if there.get(name, new).state == "open":
                result.append(there.get(name, new))
    return result
