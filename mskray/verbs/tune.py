"""`mskray tune CONFIG.yaml [section.key=value …]`: a family's config is searched, and every trial kept in a ledger.

So are an ensemble's members and weights (`mskray.verbs.votes`).

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

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from operator import attrgetter
from typing import Any

import optuna
import ray
from ray.tune.search import Searcher

import mskray
from mskray import cluster
from mskray.bundles import read_description
from mskray.cohorts import Cohort, open_cohort
from mskray.config import validate
from mskray.errors import UserError
from mskray.families import Family, families, family
from mskray.progress import Report, silent
from mskray.storage import check_access, locate
from mskray.training.config import TorchConfig
from mskray.training.once import Shared
from mskray.training.reach import check_everywhere
from mskray.training.run import run_name
from mskray.tuning.checks import BUNDLE, check_base, check_method
from mskray.tuning.figures import SPLIT, sign
from mskray.tuning.job import RepeatsSection, SchedulerSection, TuneJob, read_job
from mskray.tuning.judge import check_known
from mskray.tuning.lease import lease
from mskray.tuning.ledger import ENDED, VOTES, Description, Ledger, TrialRecord
from mskray.tuning.live import Board
from mskray.tuning.page import write_page
from mskray.tuning.population import train_population
from mskray.tuning.ray_trial import FIGURE, STEP, Plan, Work
from mskray.tuning.runner import Watch, check_room, room, run_trials
from mskray.tuning.search import Listed, StudySearch, address
from mskray.tuning.space import SearchSpace, parse_space
from mskray.tuning.subject import Subject
from mskray.tuning.trial import clear, run_trial
from mskray.verbs.votes import Votes, parse_votes


def parse_search(data: Mapping[str, Any], where: str) -> tuple[TuneJob, Subject, dict[str, Any]]:
    """Validate a search: (job, what is searched, its sections as they are given).

    Raises:
        UserError: naming each wrong key.
    """
    if not isinstance(data.get("family"), str):
        raise UserError(f"{where}: family is required: one of {', '.join(families())}, or {VOTES}")
    if data["family"] == VOTES:
        return parse_votes(data, where)
    chosen = family(data["family"])
    job, given = read_job(data, chosen, where)
    return job, chosen, given


def tune(job: TuneJob, chosen: Subject, base: Mapping[str, Any], where: str, report: Report = silent) -> Ledger:
    """Search as the job says, or go on with it; write `tune.html` at the end.

    Args:
        base: its sections before a trial's parameters.
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
    check_method(job, chosen, base, space, where)
    check_base(chosen, base, cohort, where)
    metrics = job.metric or (f"{SPLIT}.{chosen.judged_by}",)
    check_known(chosen, base, cohort, task, metrics, where)
    ledger = Ledger(out)
    named = job.task if isinstance(chosen, Family) else task.name
    description = _description(job, chosen, base, space, metrics, cohort, named)
    ledger.check_same(description)
    records = ledger.trials()
    folds, seed = job.trials.folds, job.trials.folds_seed
    plan = Plan(ledger, chosen.name, str(cohort_location), job.task, base, job.resources, folds, seed, metrics[0])
    seen = cohort.fold(0, folds, seed) if folds > 1 else cohort
    with lease(out, report), cluster.session(dashboard=True):
        check_room(job.resources)
        check_everywhere(out, cohort)
        fitting = partial(room, job.resources, issubclass(chosen.Config, TorchConfig), job.trials.at_once)
        if job.scheduler.name != "none":
            cluster.check_dashboard()
        ledger.describe_as(description)
        records = _tried_again(ledger, records)
        gpus = job.resources.workers * job.resources.gpus
        firsts = [record for record in records if not record.seed]
        searcher = StudySearch(
            ledger, firsts, space, job.search, job.budget, metrics, chosen, base, seen, job.task, gpus
        )
        steps = _steps(chosen, base, space, folds)
        work: Work = run_trial
        if isinstance(chosen, Votes):
            work = chosen.ballots(cohort, ledger.folder, report)
        else:
            plan = replace(plan, shared=Shared.start())
        with Board(description, job.budget.trials + sum(record.seed > 0 for record in records)) as board:
            for record in records:
                board.update(record)
            watch = _watching(board, ledger, metrics[0])

            lost: list[str] = []

            def run(given: Searcher, scheduler: SchedulerSection, round_epochs: int = 0) -> bool:
                rounds = replace(plan, round_epochs=round_epochs)
                lost.extend(run_trials(rounds, given, fitting, scheduler, steps, watch, work, searcher.time_left))
                return not spent()

            def spent() -> bool:
                seconds = sum(record.gpu_seconds for record in ledger.trials())
                return searcher.out_of_time or 0 < job.budget.gpu_hours <= seconds / 3600

            if job.scheduler.name == "pbt":
                _train_population(ledger, searcher, space, metrics[0], job, steps, run)
            else:
                run(searcher, job.scheduler)
            if searcher.used_up:
                board.tell(f"the space holds no more to try than these {len(ledger.trials())} trials")
            again = _repeats(ledger.trials(), metrics[0], job.repeats)
            if again and not spent():
                board.tell(f"{len(again)} repeats with other seeds")
                board.total = sum(record.state in ENDED for record in ledger.trials()) + len(again)
                for record in again:
                    ledger.write(record)
                run(Listed(again), SchedulerSection())
    for record in ledger.trials():
        if record.state == "stopped":
            clear(ledger, record.id)
    _check_outcome(ledger.trials())
    write_page(ledger)
    if lost:
        raise UserError(
            f"{len(lost)} trials were lost by a fault of the cluster or the store (the last: {lost[-1]}): the same "
            "command begins them anew"
        )
    return ledger


def _train_population(
    ledger: Ledger,
    searcher: StudySearch,
    space: SearchSpace,
    metric: str,
    job: TuneJob,
    epochs: int,
    run: Callable[[Searcher, SchedulerSection, int], bool],
) -> None:
    """Draw the members that are still to be drawn, then train all of them in rounds."""
    for number in range(job.budget.trials):
        searcher.suggest(str(number))
    interval = job.scheduler.interval
    train_population(
        ledger,
        space,
        metric,
        job.search.seed,
        math.ceil(epochs / interval),
        lambda members: run(Listed(members), SchedulerSection(), interval),
    )


def _description(
    job: TuneJob,
    chosen: Subject,
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
        "folds": {"count": job.trials.folds, "seed": job.trials.folds_seed},
        "bundles": _bundles(chosen, base, space),
    }
    return Description(
        **facts,
        cohort=str(cohort.location),
        repeats=job.repeats.model_dump(mode="json"),
        resources=job.resources.model_dump(mode="json"),
        fingerprint=run_name(**facts, workers=job.resources.workers),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        versions={"mskray": mskray.__version__, "ray": ray.__version__, "optuna": optuna.__version__},
    )


def _bundles(chosen: Subject, base: Mapping[str, Any], space: SearchSpace) -> dict[str, str]:
    """Hashes of what trials read beside the cohort."""
    if not isinstance(chosen, Family):
        return {}
    searched = [uri for key, each in space.parameters.items() if key.endswith(BUNDLE) for uri in each.values if uri]
    own = chosen.depends_on(validate(chosen.Config, base, chosen.name))
    return {**own, **{str(uri): read_description(str(uri)).hash for uri in searched}}


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


def _tried_again(ledger: Ledger, records: Sequence[TrialRecord]) -> list[TrialRecord]:
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


def _check_outcome(records: Sequence[TrialRecord]) -> None:
    if any(record.state in ("finished", "open") for record in records):
        return
    reasons = [record.reason for record in records if record.reason]
    states = ", ".join(f"{count} {state}" for state, count in Counter(record.state for record in records).items())
    raise UserError(f"no trial came to an end ({states}): {reasons[-1] if reasons else 'there was none'}")
