"""`mskray train CONFIG.yaml [section.key=value …] [--add COHORT]`: a cohort becomes a bundle.

The config file holds the job's own keys and the family's sections side by side:

    family: classifier
    cohort: s3://bucket/cohorts/knees
    out: s3://bucket/bundles/knees
    network: {backbone: mobilenet_v2, weights: imagenet}
    loop: {epochs: 4}
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from operator import attrgetter
from typing import Any

from pydantic import BaseModel

from mskray.bundles import DESCRIPTION, Bundle, Search, read_description, save_bundle
from mskray.cohorts import Cohort, Task, open_cohort
from mskray.cohorts.added import add
from mskray.config import Section, describe, setting, validate
from mskray.errors import UserError
from mskray.families import Family, families, family
from mskray.progress import Progress, Report, silent
from mskray.storage import Location, check_access, locate
from mskray.training.run import Resources, Run, run_name
from mskray.training.tracking import abandon, finish, trackers
from mskray.verbs.here import no_cluster


class TrainJob(Section):
    """A job's own keys; the family's sections stand beside them."""

    family: str = setting(..., "the model family (`mskray families` lists them)")
    cohort: str = setting(..., "URI of the cohort to learn from", min_length=1)
    out: str = setting(..., "URI of the bundle to write", min_length=1)
    task: str = setting("", "the cohort's task to learn; empty for its first")
    exchange: bool = setting(
        False,
        "exchange the cohort's validation and test splits, for a second, independent result",
        source="SpineNet §5",
    )
    merge: bool = setting(
        False,
        "learn from the validation split too: nothing is held back, no epoch is chosen, the last one is kept",
    )
    add: tuple[str, ...] = setting(
        (),
        "URIs of cohorts whose train split is learned too, such as what readers corrected (`mskray ingest feedback`)",
    )
    experiment: str = setting("mskray", "MLflow experiment", min_length=1)
    resources: Resources = Resources()

    def view(self, cohort: Cohort) -> Cohort:
        """Return a cohort as the job sees it. Raises UserError where it lacks a split for that."""
        seen = cohort.exchange() if self.exchange else cohort
        return seen.merged() if self.merge else seen

    def with_added(self, cohort: Cohort, chosen: Family, report: Report = silent) -> Cohort:
        """Return a cohort as the job sees it, with what is added. Raises UserError where that does not fit."""
        if self.add and chosen.learns:
            raise UserError(
                f"family {chosen.name} learns {chosen.learns}: --add replaces one label of an image that comes again, "
                "and could lose the rest; ingest one cohort that holds all"
            )
        for uri in self.add:
            cohort, taken = add(cohort, open_cohort(uri), chosen.task(cohort, self.task))
            report(
                Progress(
                    f"added {uri}: {taken.images} images, in place of {taken.replaced} of the train split that show "
                    f"the same; {taken.left_out} left out, as they or their patient are held out"
                )
            )
        return cohort


def parse_job(data: Mapping[str, Any], where: str) -> tuple[TrainJob, Family, Any]:
    """Validate a job: (job, its family, the family's config). Raises UserError naming each wrong key."""
    if not isinstance(data.get("family"), str):
        raise UserError(f"{where}: family is required: one of {', '.join(families())}")
    chosen = family(data["family"])
    whole = validate(job_model(chosen), data, where)
    job = TrainJob(**{name: getattr(whole, name) for name in TrainJob.model_fields})
    config = chosen.Config(**{name: getattr(whole, name) for name in chosen.Config.model_fields})
    return job, chosen, config


def job_model(chosen: Family) -> type[BaseModel]:
    """Return the config class of a whole job: the job's keys and the family's sections."""
    return type("Job", (chosen.Config, TrainJob), {"__doc__": f"A training job of {chosen.name}."})


def train(
    job: TrainJob,
    chosen: Family,
    config: Any,
    report: Report = silent,
    search: Search | None = None,
    local: bool = False,
) -> Bundle:
    """Train as the job says and write the bundle; go on where an interrupted run of the same job stopped.

    A bundle that the same job wrote before is returned as it is.

    Args:
        search: what chose the config, to be told by the bundle.
        local: in this process, without Ray (`mskray.training.local`).
    Raises:
        UserError: before any work, when the cohort, `out`, the tracking server or the cluster does not allow it;
            later as `mskray.training.fit.fit` says, or when another job's bundle has appeared at `out`.
    """
    if local:
        _check_local(job, chosen)
    out, cohort_location = locate(job.out), locate(job.cohort)
    check_access(cohort_location)
    check_access(out, write=True)
    cohort = job.with_added(job.view(open_cohort(cohort_location)), chosen, report)
    task = chosen.task(cohort, job.task)
    chosen.check(cohort, config, task)
    fingerprint = fingerprint_of(job, chosen, config, cohort)
    there = finished(out, fingerprint)
    if there is not None:
        report(Progress(f"{out} is already trained by this very job"))
        return there
    _tell_of_strangers(cohort, report)
    with nullcontext() if local else _cluster(cohort, out):
        return _train(job, chosen, config, cohort, task, out, fingerprint, report, search, local)


def stays_here(job: TrainJob, chosen: Family) -> bool:
    """Whether Ray gains nothing: one worker, of a family that spreads no work, and no cluster is named or joined.

    Its processes take half a minute to start, and this one is at its first step after four seconds.
    """
    return job.resources.workers == 1 and not chosen.needs_ray and no_cluster()


def _check_local(job: TrainJob, chosen: Family) -> None:
    """Raise UserError for what one process cannot do."""
    from mskray.training.local import check

    if chosen.needs_ray:
        raise UserError(f"family {chosen.name} spreads its work over Ray tasks: leave --local out")
    check(job.resources)


@contextmanager
def _cluster(cohort: Cohort, out: Location) -> Iterator[None]:
    """Ray, on nodes that all reach what is read and written."""
    try:
        from mskray import cluster
        from mskray.cohorts.reach import check_everywhere
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "ray":
            raise
        raise UserError(
            "Ray is not installed here: install it, or train in this process with resources.workers=1"
        ) from None
    with cluster.session():
        check_everywhere([cohort.location, *(locate(each.uri) for each in cohort.view.added)], [out])
        yield


def fingerprint_of(job: TrainJob, chosen: Family, config: Any, cohort: Cohort) -> str:
    """Return what a job's bundle is known by: a hash of all that decides its result, `cohort` as the job sees it."""
    return run_name(
        family=chosen.name,
        config=config.model_dump(mode="json"),
        cohort=cohort.content_hash,
        task=chosen.task(cohort, job.task).name,
        workers=job.resources.workers,
        **chosen.depends_on(config),
    )


def _train(
    job: TrainJob,
    chosen: Family,
    config: Any,
    cohort: Cohort,
    task: Task,
    out: Location,
    fingerprint: str,
    report: Report,
    search: Search | None = None,
    local: bool = False,
) -> Bundle:
    settings = {each.key: attrgetter(each.key)(config) for each in describe(chosen.Config)}
    params = {"family": chosen.name, "cohort": str(cohort.location), "task": task.name, **settings}
    params |= {"added": ", ".join(job.add)} if job.add else {}
    listeners = trackers(out.join("tensorboard"), job.experiment, f"{out.name}-{fingerprint}", params)
    held_back = not job.merge
    run = Run(out.join("run"), fingerprint, task, job.resources, report, listeners, held_back=held_back, local=local)
    try:
        fitted = replace(chosen.fit(cohort, config, run), search=search, added=cohort.view.added)
        if cohort.view.added:  # what is held out is told by the cohort's own hash
            fitted = replace(fitted, cohort={**fitted.cohort, "content_hash": cohort.view.alone})
        bundle = finished(out, fingerprint) or save_bundle(fitted, out, fingerprint)
    except BaseException:
        abandon(listeners, report)
        raise
    finish(listeners, {"bundle": str(out), "bundle_hash": bundle.hash}, report)
    _remove_run(run)
    return bundle


def _tell_of_strangers(cohort: Cohort, report: Report) -> None:
    """Say which body parts are judged in validation and not learned, where the cohort has both splits."""
    if not {"train", "validation"} <= set(cohort.splits):
        return
    parts = {split: set(cohort.columns(split, ["body_part"])["body_part"]) for split in ("train", "validation")}
    strangers = sorted(parts["validation"] - parts["train"])
    if strangers:
        report(
            Progress(f"the validation split has images of {', '.join(strangers)}, the train split has none of these")
        )


def _remove_run(run: Run) -> None:
    """Delete this job's checkpoints and nothing else; on disk also their folder, if nothing is left in it."""
    run.location.join(run.name).delete_dir()
    if run.location.uri.startswith("file:"):
        with suppress(OSError):
            os.rmdir(run.location.path)


def finished(out: Location, fingerprint: str) -> Bundle | None:
    """Return the bundle that this very job left at `out`; None where none is. Raises UserError for another job's."""
    if not out.join(DESCRIPTION).is_file():
        return None
    bundle = read_description(out)
    if bundle.fingerprint == fingerprint:
        return bundle
    raise UserError(
        f"{out} already holds a bundle of another job ({bundle.name}, {bundle.created}): give another out, or delete it"
    )
