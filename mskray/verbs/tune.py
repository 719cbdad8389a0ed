"""`mskray tune CONFIG.yaml [section.key=value …]`: a family's config is searched, and every trial kept in a ledger.

The config is a training job with a few sections more; `out` is the search's folder:

    family: classifier
    cohort: s3://bucket/cohorts/knees
    out: s3://bucket/searches/knees
    network: {backbone: mobilenet_v2, weights: imagenet}     # what is not searched
    space:
      optimizer.learning_rate: {loguniform: [1e-5, 1e-2]}
    budget: {trials: 30}

The same command goes on after an interruption, or with a larger budget, and repeats no finished trial.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import optuna
import ray
from pydantic import field_validator

import mskray
from mskray import cluster
from mskray.cohorts import Cohort, open_cohort
from mskray.config import Section, describe, setting, validate
from mskray.errors import UserError
from mskray.families import Family, families, family
from mskray.progress import Report, silent
from mskray.storage import check_access, locate
from mskray.training.config import TorchConfig
from mskray.training.once import Shared
from mskray.training.run import Resources, run_name
from mskray.tuning.figures import SPLIT, check_metric, sign
from mskray.tuning.job import (
    BudgetSection,
    FoldsSection,
    RepeatsSection,
    SchedulerSection,
    SearchSection,
    TrialsSection,
)
from mskray.tuning.ledger import Description, Ledger, TrialRecord
from mskray.tuning.live import Board
from mskray.tuning.page import write_page
from mskray.tuning.ray_trial import FIGURE, RECORD, STEP, Plan
from mskray.tuning.runner import Watch, room, run_trials
from mskray.tuning.search import Listed, StudySearch, address
from mskray.tuning.space import SearchSpace, parse_space
from mskray.tuning.trial import run_trial


class TuneJob(Section):
    """A search's own keys; the family's sections stand beside them."""

    family: str = setting(..., "the model family (`mskray families` lists them)")
    cohort: str = setting(..., "URI of the cohort to learn from", min_length=1)
    out: str = setting(..., "URI of the search's folder", min_length=1)
    task: str = setting("", "the cohort's task to learn; empty for its first")
    metric: tuple[str, ...] = setting(
        (), "figures to optimise, by split, level and name; the first ranks, several span a Pareto front"
    )
    preset: str = setting("", 'space to begin with: the family\'s own, one of its presets, or "none"')
    space: dict[str, Any] = setting({}, "parameters to search: {key: {choice | grid | uniform | loguniform: […]}}")
    search: SearchSection = SearchSection()
    scheduler: SchedulerSection = SchedulerSection()
    budget: BudgetSection = BudgetSection()
    folds: FoldsSection = FoldsSection()
    repeats: RepeatsSection = RepeatsSection()
    trials: TrialsSection = TrialsSection()
    resources: Resources = Resources()

    @field_validator("metric", mode="before")
    @classmethod
    def _one_or_several(cls, given: Any) -> Any:
        return (given,) if isinstance(given, str) else given


def parse_search(data: Mapping[str, Any], where: str) -> tuple[TuneJob, Family, dict[str, Any]]:
    """Validate a search: (job, its family, the family's sections as they are given).

    Raises:
        UserError: naming each wrong key.
    """
    if not isinstance(data.get("family"), str):
        raise UserError(f"{where}: family is required: one of {', '.join(families())}")
    chosen = family(data["family"])
    both: type[Any] = type("Search", (chosen.Config, TuneJob), {"__doc__": f"A search of {chosen.name}."})
    whole = validate(both, data, where)
    job = TuneJob(**{name: getattr(whole, name) for name in TuneJob.model_fields})
    given = {name: data[name] for name in chosen.Config.model_fields if name in data}
    for name in job.metric:
        check_metric(name, where)
    if len(set(job.metric)) != len(job.metric):
        raise UserError(f"{where}: metric names {', '.join(job.metric)}: name each once")
    return job, chosen, given


def tune(job: TuneJob, chosen: Family, base: Mapping[str, Any], where: str, report: Report = silent) -> Ledger:
    """Search as the job says, or go on with it; write `tune.html` at the end.

    Args:
        base: the family's sections before a trial's parameters.
        where: what the job came from, for messages.
    Raises:
        UserError: before any work, when the job, the cohort, `out` or the cluster does not allow it; at the end when no
            trial came to one.
    """
    out, cohort_location = locate(job.out), locate(job.cohort)
    check_access(cohort_location)
    check_access(out, write=True)
    cohort = open_cohort(cohort_location)
    task = chosen.task(cohort, job.task)
    chosen.check_kind(cohort)
    space = parse_space(job.space, chosen, base, job.preset, where)
    _check_method(job, chosen, space, where)
    metrics = job.metric or (f"{SPLIT}.{chosen.judged_by}",)
    ledger = Ledger(out)
    description = _description(job, chosen, base, space, metrics, cohort, task.name)
    ledger.describe_as(description)
    records = ledger.trials()
    folds = job.folds
    plan = Plan(
        ledger, chosen.name, str(cohort_location), job.task, base, job.resources, folds.count, folds.seed, metrics[0]
    )
    seen = cohort.fold(0, folds.count, folds.seed) if folds.count > 1 else cohort
    with cluster.session(dashboard=True):
        at_once = min(room(job.resources, issubclass(chosen.Config, TorchConfig)), job.trials.at_once or 10**9)
        if job.scheduler.name != "none":
            cluster.check_dashboard()
        gpus = job.resources.workers * job.resources.gpus
        firsts = [record for record in records if not record.seed]
        searcher = StudySearch(
            ledger, firsts, space, job.search, job.budget, metrics, chosen, base, seen, job.task, gpus
        )
        steps = _steps(chosen, base, space, folds.count)
        with Board(description, job.budget.trials) as board:
            for record in records:
                board.update(record)
            seconds = 3600 * job.budget.hours or None
            watch, plan = _watching(board, ledger, metrics[0]), replace(plan, shared=Shared.start())
            run_trials(plan, searcher, at_once, job.scheduler, steps, watch, run_trial, seconds)
            again = _repeats(ledger.trials(), metrics[0], job.repeats)
            if again and not searcher.out_of_time:
                board.tell(f"{len(again)} repeats with other seeds")
                for record in again:
                    ledger.write(record)
                left = searcher.time_left
                run_trials(plan, Listed(again), at_once, SchedulerSection(), steps, watch, run_trial, left)
    _check_outcome(ledger.trials())
    write_page(ledger)
    return ledger


def _check_method(job: TuneJob, chosen: Family, space: SearchSpace, where: str) -> None:
    """Raise UserError for a grid that cannot be walked, or a scheduler that would have nothing to compare."""
    if job.search.method == "grid":
        ranges = space.infinite()
        if ranges:
            raise UserError(
                f"{where}: search.method=grid needs values, and {', '.join(ranges)} is a range: give it as a choice, "
                "or set search.method=random"
            )
        count = space.count()
        if count > job.budget.trials:
            raise UserError(
                f"{where}: the grid has {count:,} combinations, budget.trials = {job.budget.trials}: raise it to "
                f"{count}, take values out, or set search.method=random"
            )
    learns_in_epochs = issubclass(chosen.Config, TorchConfig)
    if job.scheduler.name != "none" and not learns_in_epochs and job.folds.count == 1:
        raise UserError(
            f"{where}: scheduler.name={job.scheduler.name} compares trials epoch by epoch, and {chosen.name} learns in "
            "one go: set folds.count to compare fold by fold, or scheduler.name=none"
        )
    if job.scheduler.name != "none" and len(job.metric) > 1:
        raise UserError(
            f"{where}: scheduler.name={job.scheduler.name} stops trials by one figure, metric names {len(job.metric)}: "
            "give one, or set scheduler.name=none"
        )


def _description(
    job: TuneJob,
    chosen: Family,
    base: Mapping[str, Any],
    space: SearchSpace,
    metrics: Sequence[str],
    cohort: Cohort,
    task: str,
) -> Description:
    facts: dict[str, Any] = {
        "family": chosen.name,
        "cohort_hash": cohort.content_hash,
        "task": task,
        "base": dict(base),
        "space": space.to_data(),
        "metrics": tuple(metrics),
        "search": job.search.model_dump(mode="json"),
        "scheduler": job.scheduler.model_dump(mode="json"),
        "folds": job.folds.model_dump(mode="json"),
    }
    return Description(
        **facts,
        cohort=str(cohort.location),
        repeats=job.repeats.model_dump(mode="json"),
        fingerprint=run_name(**facts, workers=job.resources.workers),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        versions={"mskray": mskray.__version__, "ray": ray.__version__, "optuna": optuna.__version__},
    )


def _steps(chosen: Family, base: Mapping[str, Any], space: SearchSpace, folds: int) -> int:
    """Epochs of the longest trial, of all its trainings together; folds where a family knows no epochs."""
    if not issubclass(chosen.Config, TorchConfig):
        return folds
    config = validate(chosen.Config, base, chosen.name).model_dump(mode="json")
    total = 0
    for each in describe(chosen.Config):
        if each.key.rpartition(".")[2] != "epochs":
            continue
        value: Any = config
        for part in each.key.split("."):
            value = value[part]
        parameter = space.parameters.get(each.key)
        total += int(max(parameter.values) if parameter else value)
    return total


def _watching(board: Board, ledger: Ledger, metric: str) -> Watch:
    def watch(record: dict[str, Any], result: dict[str, Any] | None) -> None:
        known = TrialRecord.model_validate(record)
        if result is None:
            board.update(known)
        elif RECORD in result:
            board.update(TrialRecord.model_validate(result[RECORD]))
        elif FIGURE in result:
            board.update(known, int(result[STEP]), {metric: float(result[FIGURE])})
        else:  # stopped
            board.update(ledger.trial(known.id))

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


def _check_outcome(records: Sequence[TrialRecord]) -> None:
    if any(record.state in ("finished", "open") for record in records):
        return
    reasons = [record.reason for record in records if record.reason]
    states = ", ".join(f"{count} {state}" for state, count in Counter(record.state for record in records).items())
    raise UserError(f"no trial came to an end ({states}): {reasons[-1] if reasons else 'there was none'}")
