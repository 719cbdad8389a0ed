"""One trial: a config is fitted and judged, fold by fold, and what came out is written to the ledger.

A torch family of one worker is trained in the process that runs the trial. Otherwise that process books no CPU: it
waits for Ray Train's workers and Ray tasks, which book their own. It writes the ledger itself, so that a driver killed
in the next moment loses nothing; a fold that is finished is a file in the trial's folder, and a training in the middle
has its checkpoints there, so that a trial begun anew goes on.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from ray.exceptions import RayError, RayTaskError

from mskray.bundles import Fitted
from mskray.cohorts import Cohort, Task, open_cohort
from mskray.config import Section, describe, merge, validate
from mskray.errors import Fault, UserError, user_error_in
from mskray.families import Family, family
from mskray.progress import Report, silent
from mskray.storage import locate
from mskray.storage.faults import is_transient
from mskray.training.config import TorchConfig
from mskray.training.run import Part, Run
from mskray.tuning.judge import Judged, judge
from mskray.tuning.ledger import Ledger, TrialRecord
from mskray.tuning.population import left_by
from mskray.tuning.ray_trial import EPOCH, FIGURE, STEP, Plan, Tell
from mskray.tuning.subject import Subject

_RUN = "run"
_NOT_KEPT = ("kind", "epochs", "prefix", "score")


def config_of(chosen: Subject, base: Mapping[str, Any], record: TrialRecord) -> Any:
    """The config of a trial; a repeat has its number added to every seed.

    Raises:
        UserError: the values do not go together.
    """
    merged = merge(base, record.parameters)
    where = ", ".join(f"{key}={value}" for key, value in record.parameters.items())
    config = validate(chosen.Config, merged, where or chosen.name)
    return reseeded(config, record.seed) if record.seed else config


def without_search(chosen: Subject, base: Mapping[str, Any]) -> Any:
    """The config of what the job would train if nothing were searched."""
    return validate(chosen.Config, base, chosen.name)


def reseeded(config: Section, by: int) -> Any:
    """The config with `by` added to every seed in it."""
    data = config.model_dump(mode="json")
    for setting in describe(type(config)):
        *sections, last = setting.key.split(".")
        if last != "seed":
            continue
        node = data
        for name in sections:
            node = node[name]
        node[last] += by
    return type(config).model_validate(data)


def run_trial(plan: Plan, record: TrialRecord, tell: Tell, report: Report = silent) -> TrialRecord:
    """Fit and judge every fold, write the record as it ends, and return it.

    Args:
        tell: called after each epoch of the first fold, or each fold of a family that knows no epochs.
    """
    folder = plan.ledger.room(record.id)
    done: list[dict[str, Any]] = []

    def work() -> dict[str, Any]:
        chosen, cohort = family(plan.family), open_cohort(plan.cohort)
        config = config_of(chosen, plan.base, record)
        views = cohort.folds(plan.folds, plan.folds_seed) if plan.folds > 1 else [cohort]
        for number, view in enumerate(views):
            place = folder.join(f"{_name(plan, record, number)}.json")
            if not place.is_file():
                place.write_json(_fold(plan, record, chosen, config, view, number, tell, report))
            done.append(place.read_json())
            if plan.folds > 1 and not done[0]["history"]:
                tell({STEP: number + 1, FIGURE: float(np.mean([each["figures"][plan.metric] for each in done]))})
        _join_predictions(plan, record, len(done))
        return {**_summary(done), **_round(plan, record, chosen, config)}

    ended = attempt(plan, record, work)
    clear(plan.ledger, record.id)
    return ended


def clear(ledger: Ledger, trial: str) -> None:
    """Delete the checkpoints of a trial that has ended, if the store lets us: they are no more than in the way."""
    with suppress(UserError, OSError):
        ledger.room(trial).join(_RUN).delete_dir()


def attempt(plan: Plan, record: TrialRecord, work: Callable[[], dict[str, Any]]) -> TrialRecord:
    """Do a trial's work, write the record as it ends, and return it.

    Values that do not go together were refused before a trial: what it meets itself is a failure, and counts.

    Args:
        work: returns what the record of a finished trial is to say.
    Raises:
        Fault, RayError, OSError: the cluster's or the store's fault; the record stays as it was.
    """
    began, started = time.monotonic(), record.started or _now()
    try:
        ended = record.model_copy(update={"state": "finished", **work()})
    except Exception as error:  # whatever stops one trial must not stop the others
        found = user_error_in(error)
        if isinstance(found, Fault) or (found is None and _of_the_cluster(error)):
            if plan.shared is not None:  # one of the objects that are held may be what failed
                with suppress(UserError, RayError):
                    plan.shared.let_go()
            raise  # Tune tries again, and at last the trial stays open
        reason = str(found) if found else f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        ended = record.model_copy(update={"state": "failed", "reason": reason})
    seconds = time.monotonic() - began
    ended = ended.model_copy(
        update={
            "started": started,
            "ended": _now(),
            "seconds": record.seconds + seconds,
            "gpu_seconds": record.gpu_seconds + plan.resources.workers * plan.resources.gpus * seconds,
        }
    )
    plan.ledger.write(ended)
    return ended


def _of_the_cluster(error: Exception) -> bool:
    """Whether an error is of Ray or of the system, and not of what was done; libraries raise OSErrors of their own."""
    if isinstance(error, RayTaskError):
        return isinstance(error.cause, Exception) and _of_the_cluster(error.cause)
    return isinstance(error, RayError) or (isinstance(error, OSError) and (bool(error.errno) or is_transient(error)))


def _fold(
    plan: Plan,
    record: TrialRecord,
    chosen: Family,
    config: Any,
    cohort: Cohort,
    number: int,
    tell: Tell,
    report: Report,
) -> dict[str, Any]:
    """Fit and judge one fold; what its file holds. Predictions go beside it."""
    task = chosen.task(cohort, plan.task)
    chosen.check(cohort, config, task)
    listeners = (_Listener(plan.metric, tell),) if number == 0 else ()
    place = plan.ledger.room(record.id).join(_RUN)
    part, _ = _part(plan, record, chosen, config)
    name = _name(plan, record, number)
    run = Run(place, name, task, plan.resources, report, listeners, shared=plan.shared, part=part, local=plan.here)
    fitted = chosen.fit(cohort, config, run)
    judged = _judged(plan, chosen, fitted, cohort, task)
    check_reported(plan, judged.figures)
    if judged.predictions is not None:
        folds = pa.array(np.full(len(judged.predictions), number, np.int32))
        plan.ledger.write_predictions(record.id, judged.predictions.append_column("fold", folds), number)
    history = [{key: value for key, value in entry.items() if key not in _NOT_KEPT} for entry in fitted.history]
    in_epochs = isinstance(config, TorchConfig) and bool(history)
    return {
        "figures": judged.figures,
        "history": history if in_epochs else [],
        "epochs": int(fitted.best["epoch"]) if in_epochs else 0,
    }


def _name(plan: Plan, record: TrialRecord, fold: int) -> str:
    return f"fold-{fold}-round-{record.rounds}" if plan.round_epochs else f"fold-{fold}"


def _part(plan: Plan, record: TrialRecord, chosen: Family, config: Any) -> tuple[Part | None, int]:
    """The next round of population based training, None where a trial trains to its end; and the epochs of all."""
    if not plan.round_epochs:
        return None, 0
    epochs = int(attrgetter(next(iter(chosen.epoch_keys.values())))(config))
    until = min((record.rounds + 1) * plan.round_epochs, epochs)
    start = locate(record.begins) if record.begins else None
    return Part(until, start, left_by(plan.ledger, record.id, record.rounds + 1)), epochs


def check_reported(plan: Plan, figures: Mapping[str, float]) -> None:
    """Raise UserError where a trial's figures lack that which trials are compared by."""
    if plan.metric not in figures:
        known = ", ".join(sorted(figures))
        raise UserError(f"metric {plan.metric} is never reported by family {plan.family}: it reports {known}")


def _round(plan: Plan, record: TrialRecord, chosen: Family, config: Any) -> dict[str, Any]:
    """What the record says of rounds: with one to come it stays open."""
    part, epochs = _part(plan, record, chosen, config)
    if part is None:
        return {}
    return {"rounds": record.rounds + 1, "state": "open" if part.until < epochs else "finished"}


def _judged(plan: Plan, chosen: Family, fitted: Fitted, cohort: Cohort, task: Task) -> Judged:
    """Judge here, or on a GPU where the trainings have one."""
    device = "cuda" if plan.resources.gpu else "cpu"
    if plan.here or not plan.resources.gpu:
        return judge(chosen, fitted, cohort, task, device)
    remote: Any = ray.remote(judge).options(
        num_cpus=plan.resources.cpus_per_worker,
        num_gpus=plan.resources.gpus,
        scheduling_strategy="SPREAD",
    )
    found: Judged = ray.get(remote.remote(chosen, fitted, cohort, task, device))
    return found


def _join_predictions(plan: Plan, record: TrialRecord, folds: int) -> None:
    parts = [plan.ledger.fold_predictions(record.id, number) for number in range(folds)]
    tables = [part for part in parts if part is not None]
    if len(tables) == folds:
        plan.ledger.write_predictions(record.id, pa.concat_tables(tables))


def _summary(folds: list[dict[str, Any]]) -> dict[str, Any]:
    """What a record says of finished folds. Of a figure that some fold cannot tell, nothing."""
    figures = [each["figures"] for each in folds]
    names = [name for name in figures[0] if all(name in each for each in figures)]
    values = {name: np.array([each[name] for each in figures]) for name in names}
    return {
        "figures": {name: float(each.mean()) for name, each in values.items()},
        "spread": {name: float(each.std(ddof=1)) for name, each in values.items()} if len(folds) > 1 else {},
        "folds": tuple(figures),
        "history": tuple(folds[0]["history"]),
        "epochs": float(np.mean([each["epochs"] for each in folds])),
    }


@dataclass
class _Listener:
    """Passes on each finished epoch, with the figure that a scheduler compares; those of later trainings count on."""

    metric: str
    tell: Tell
    _training: str = ""
    _before: int = 0
    _step: int = 0

    def epoch(self, event: Mapping[str, Any]) -> None:
        name = f"val_{self.metric.rpartition('.')[2]}"
        if event.get("kind") != "epoch" or name not in event:
            return  # the one entry of a family that knows no epochs
        if event["prefix"] != self._training:
            self._training, self._before = event["prefix"], self._step
        self._step = self._before + int(event["epoch"])
        self.tell({STEP: self._step, EPOCH: int(event["epoch"]), FIGURE: float(event[name])})

    def finish(self, tags: dict[str, str]) -> None:
        """Nothing to write at the end."""

    def abandon(self) -> None:
        """Nothing to close."""


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
