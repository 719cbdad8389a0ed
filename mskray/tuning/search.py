"""Where the next trial comes from: an Optuna study that is filled from the ledger, as a searcher of Ray Tune.

The study lives in memory and is made anew from the ledger by each call: nothing else has to survive a kill. First come
trials that were open, or what the job would train without a search, to be beaten. What was tried is not tried again.
"""

import hashlib
import json
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import TrialState
from ray.tune.search import Searcher

from mskray.cohorts import Cohort
from mskray.config import merge
from mskray.errors import UserError
from mskray.space import Parameter
from mskray.tuning.figures import SPLIT, higher_is_better
from mskray.tuning.job import BudgetSection, SearchSection
from mskray.tuning.ledger import Ledger, TrialRecord
from mskray.tuning.ray_trial import FIGURE, RECORD, SCORE, STEP
from mskray.tuning.space import SearchSpace
from mskray.tuning.subject import Subject
from mskray.tuning.trial import config_of, without_search
from mskray.unseen import check_foundations

_IN_VAIN = 5
"""Trials of a call that failed or were lost, with none that came to an end: after these no other is begun."""
_DRAWS = 200
"""Draws in a row that were tried before: after these the space is taken to be used up."""


def address(parameters: Mapping[str, Any], seed: int) -> str:
    """Return 12 hex digits by which the ledger knows a trial."""
    text = json.dumps([dict(parameters), seed], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


class _FromLedger(Searcher):
    """A searcher that Tune need not keep: what it knows is in the ledger."""

    def __init__(self) -> None:
        super().__init__(metric=SCORE, mode="max")

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing: see the class."""


class Listed(_FromLedger):
    """Gives Tune trials that are known beforehand: those that were open, or repeats."""

    def __init__(self, records: Sequence[TrialRecord]) -> None:
        super().__init__()
        self._waiting = list(records)

    def suggest(self, trial_id: str) -> Any:
        return {RECORD: self._waiting.pop(0).model_dump(mode="json")} if self._waiting else Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing is learned from it."""


class StudySearch(_FromLedger):
    """Draws trials until the budget is used, each written to the ledger as open before it is given.

    Args:
        records: the ledger's trials, repeats aside.
        cohort: what a combination of values is checked against, as the trials see it.
        gpus: that each trial occupies.

    Attributes:
        used_up: whether the space held no more to try, before the budget was used.
    """

    def __init__(
        self,
        ledger: Ledger,
        records: Sequence[TrialRecord],
        space: SearchSpace,
        section: SearchSection,
        budget: BudgetSection,
        metrics: Sequence[str],
        subject: Subject,
        base: Mapping[str, Any],
        cohort: Cohort,
        task: str,
        gpus: float = 0.0,
    ) -> None:
        super().__init__()
        self._ledger, self._space, self._budget, self._metrics = ledger, space, budget, tuple(metrics)
        self._subject, self._base, self._cohort, self._task, self._gpus = subject, base, cohort, task, gpus
        self._known = {record.id: record for record in records}
        self._open = [record for record in records if record.state == "open"]
        self._number = 1 + max((record.number for record in records), default=-1)
        self._given: dict[str, _Given] = {}
        self._grid = space.combinations() if section.method == "grid" else None
        self._fixed = space.grids() if section.method != "grid" else []
        self._in_turn = {key for values in self._fixed for key in values}
        self.used_up = False
        self._in_vain = 0
        self._deadline = time.monotonic() + 3600 * budget.hours if budget.hours else float("inf")
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._study = optuna.create_study(
            directions=["maximize" if higher_is_better(metric) else "minimize" for metric in metrics],
            # Another seed for each call: the same draws again would all be known already.
            sampler=_sampler(section, self._number),
        )
        for record in records:
            self._learn(record)
        if not records and self._grid is None:
            self._study.enqueue_trial(space.held_of(without_search(subject, base)))

    @property
    def out_of_time(self) -> bool:
        return time.monotonic() >= self._deadline

    @property
    def time_left(self) -> float | None:
        """Seconds of the budget that are left; None where it has no bound."""
        return max(1.0, self._deadline - time.monotonic()) if self._budget.hours else None

    def suggest(self, trial_id: str) -> Any:
        """The next trial for Tune's `trial_id`, or FINISHED where the budget or the space is used up."""
        if self.out_of_time or 0 < self._budget.gpu_hours <= self._gpu_hours():
            return Searcher.FINISHED
        if self._in_vain >= _IN_VAIN and not any(record.state == "finished" for record in self._known.values()):
            return Searcher.FINISHED
        if self._open:
            return self._give(trial_id, self._open.pop(0), None)
        if sum(record.state != "refused" for record in self._known.values()) >= self._budget.trials:
            return Searcher.FINISHED
        in_vain = 0
        while in_vain < _DRAWS:
            asked, values = self._draw()
            if values is None:
                break
            known = self._known.get(address(values, 0))
            if known is None:
                record = TrialRecord(id=address(values, 0), number=self._number, parameters=values)
                self._number += 1
                known = self._checked(record)
                self._ledger.write(known)
                if known.state == "open":
                    return self._give(trial_id, known, asked)
                self._known[known.id] = known
            if asked is not None:
                in_vain += 1
                self._tell(asked, known)
        self.used_up = True
        return Searcher.FINISHED

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Keep the learning curve, for a trial that a scheduler stops."""
        self._note_step(self._given[trial_id], result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        given = self._given.pop(trial_id)
        ended = self._ledger.trial(given.id)
        if ended.state == "open":
            self._note_step(given, result or {})  # the step at which it was stopped was told to nobody
            if error or self.out_of_time or not given.curve:
                self._in_vain += error
                return  # it is begun anew by the next call
            ended = self._stopped(ended, given, float((result or {}).get("time_total_s", 0.0)))
        self._known[ended.id] = ended
        self._in_vain += ended.state == "failed"
        if given.asked is None:
            self._learn(ended)
        else:
            self._tell(given.asked, ended)

    def _note_step(self, given: "_Given", result: dict[str, Any]) -> None:
        if FIGURE in result:
            figure = f"val_{self._metrics[0].rpartition('.')[2]}"
            given.curve[int(result[STEP])] = {"epoch": int(result[STEP]), figure: result[FIGURE]}

    def _stopped(self, record: TrialRecord, given: "_Given", seconds: float) -> TrialRecord:
        """Write and return what is known of a trial that a scheduler stopped."""
        curve = tuple(given.curve[step] for step in sorted(given.curve))
        ended = record.model_copy(
            update={
                "state": "stopped",
                "history": curve,
                "epochs": float(len(curve)),
                "seconds": record.seconds + seconds,
                "gpu_seconds": record.gpu_seconds + self._gpus * seconds,
                "reason": f"by the scheduler after epoch {len(curve)}",
            }
        )
        self._ledger.write(ended)
        return ended

    def _gpu_hours(self) -> float:
        """Of trials that have ended and of those that run."""
        now = time.monotonic()
        running = self._gpus * sum(now - given.began for given in self._given.values())
        return (running + sum(record.gpu_seconds for record in self._known.values())) / 3600

    def _draw(self) -> tuple[optuna.Trial | None, dict[str, Any] | None]:
        """The next values; None where a grid is at its end. Values of "grid" parameters come in turn."""
        if self._grid is not None:
            return None, next(self._grid, None)
        asked = self._study.ask()
        fixed = self._fixed[asked.number % len(self._fixed)] if self._fixed else {}

        def suggest(key: str, parameter: Parameter) -> Any:
            if key in fixed:
                return fixed[key]
            return self._space.value(key, _suggested(asked, key, self._space.distribution(key)))

        return asked, self._space.draw(suggest)

    def _checked(self, record: TrialRecord) -> TrialRecord:
        """The record as it is, or refused with the reason why its values do not go together."""
        try:
            config = config_of(self._subject, self._base, record)
            check_foundations(merge(self._base, record.parameters), self._cohort, SPLIT)
            self._subject.check(self._cohort, config, self._subject.task(self._cohort, self._task))
        except UserError as error:
            return record.model_copy(update={"state": "refused", "reason": str(error)})
        return record

    def _give(self, trial_id: str, record: TrialRecord, asked: optuna.Trial | None) -> dict[str, Any]:
        self._known[record.id] = record
        self._given[trial_id] = _Given(record.id, asked)
        return {RECORD: record.model_dump(mode="json")}

    def _tell(self, asked: optuna.Trial, record: TrialRecord) -> None:
        """Tell the study how a draw of its own ended."""
        state, values, curve = self._outcome(record)
        if len(self._metrics) == 1:
            for step, value in curve.items():
                asked.report(value, step)
        self._study.tell(asked, values, state)

    def _learn(self, record: TrialRecord) -> None:
        """Put a trial of the ledger into the study."""
        state, values, curve = self._outcome(record)
        if state == TrialState.FAIL or self._grid is not None:
            return
        inside = {key: value for key, value in record.parameters.items() if key not in self._in_turn}
        self._study.add_trial(
            optuna.trial.create_trial(
                state=state,
                params={key: self._space.internal(key, value) for key, value in inside.items()},
                distributions={key: self._space.distribution(key) for key in inside},
                values=values,
                intermediate_values=curve,
            )
        )

    def _outcome(self, record: TrialRecord) -> tuple[TrialState, list[float] | None, dict[int, float]]:
        """State, values and curve as the study wants them; one with several metrics knows no stopped trials."""
        if record.state == "finished" and all(metric in record.figures for metric in self._metrics):
            return TrialState.COMPLETE, [record.figures[metric] for metric in self._metrics], {}
        if record.state == "stopped" and len(self._metrics) == 1:
            figure = f"val_{self._metrics[0].rpartition('.')[2]}"
            return TrialState.PRUNED, None, {int(entry["epoch"]): entry[figure] for entry in record.history}
        return TrialState.FAIL, None, {}


@dataclass
class _Given:
    """A trial that runs, since `began`: the draw of the study (None where it was open before), its curve by step."""

    id: str
    asked: optuna.Trial | None
    curve: dict[int, dict[str, Any]] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)


def _sampler(section: SearchSection, calls: int) -> BaseSampler:
    seed = section.seed + 7919 * calls
    if section.method != "tpe":
        return RandomSampler(seed=seed)
    # Conditional parameters are drawn group by group; a trial that runs counts as a poor one, not to be drawn again.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return TPESampler(
            seed=seed, n_startup_trials=section.startup, multivariate=True, group=True, constant_liar=True
        )


def _suggested(asked: optuna.Trial, key: str, distribution: Any) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return asked.suggest_categorical(key, distribution.choices)
    if isinstance(distribution, IntDistribution):
        return asked.suggest_int(key, distribution.low, distribution.high, log=distribution.log)
    assert isinstance(distribution, FloatDistribution)
    return asked.suggest_float(key, distribution.low, distribution.high, log=distribution.log)
