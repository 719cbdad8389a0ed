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

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import optuna
import ray

import mskray
from mskray import cluster
from mskray.bundles import read_description
from mskray.cohorts import Cohort, open_cohort
from mskray.cohorts.reach import check_everywhere
from mskray.config import validate
from mskray.errors import UserError
from mskray.families import Family, families, family
from mskray.progress import Report, silent
from mskray.storage import check_access, locate
from mskray.training.run import run_name
from mskray.tuning.checks import BUNDLE, check_base, check_method
from mskray.tuning.figures import SPLIT
from mskray.tuning.job import TuneJob, read_job
from mskray.tuning.judge import check_known
from mskray.tuning.lease import lease
from mskray.tuning.ledger import VOTES, Description, Ledger, TrialRecord
from mskray.tuning.live import Board
from mskray.tuning.page import write_page
from mskray.tuning.runner import check_room
from mskray.tuning.space import SearchSpace, parse_space
from mskray.tuning.subject import Subject
from mskray.tuning.trial import clear
from mskray.verbs.searching import Searching
from mskray.verbs.votes import parse_votes


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
    with lease(out, report):
        ledger.check_same(description)
        records = ledger.trials()
        with cluster.session(dashboard=True):
            check_room(job.resources)
            check_everywhere([cohort.location, *(locate(each.uri) for each in cohort.view.added)], [out])
            if job.scheduler.name != "none":
                cluster.check_dashboard()
            ledger.describe_as(description)
            searching = Searching(job, chosen, base, space, metrics, cohort, ledger, records, report)
            with Board(description, job.budget.trials) as board:
                searching.run(board)
        records = ledger.trials()
        for record in records:
            if record.state == "stopped":
                clear(ledger, record.id)
        _check_outcome(records)
        write_page(ledger)
    if searching.lost:
        raise UserError(
            f"{len(searching.lost)} trials were lost by a fault of the cluster or the store (the last: "
            f"{searching.lost[-1]}): the same command begins them anew"
        )
    return ledger


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


def _check_outcome(records: Sequence[TrialRecord]) -> None:
    if any(record.state in ("finished", "open") for record in records):
        return
    reasons = [record.reason for record in records if record.reason]
    states = ", ".join(f"{count} {state}" for state, count in Counter(record.state for record in records).items())
    raise UserError(f"no trial came to an end ({states}): {reasons[-1] if reasons else 'there was none'}")
