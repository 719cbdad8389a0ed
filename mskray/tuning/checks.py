"""What makes no sense as a search, told before any work: what does not go together, bundles that know too much."""

from collections.abc import Mapping
from typing import Any

from mskray.bundles import foundations
from mskray.cohorts import Cohort
from mskray.errors import UserError
from mskray.families import Family
from mskray.training.config import TorchConfig
from mskray.training.validation import HIGHER_IS_BETTER
from mskray.tuning.figures import SPLIT
from mskray.tuning.job import TuneJob
from mskray.tuning.population import check_population
from mskray.tuning.space import SearchSpace
from mskray.tuning.subject import Subject
from mskray.unseen import check_foundations

BUNDLE = ".bundle"
"""How the keys end that name a bundle to stand on."""


def check_method(job: TuneJob, chosen: Subject, base: Mapping[str, Any], space: SearchSpace, where: str) -> None:
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
    if job.scheduler.name == "pbt" and isinstance(chosen, Family):
        check_population(chosen, space, job.budget.trials, where)
        for key, given in (("trials.folds", job.trials.folds > 1), ("repeats.best", job.repeats.best > 0)):
            if given:
                raise UserError(
                    f"{where}: {key} makes no sense with scheduler.name=pbt: members change while they train"
                )
    learns_in_epochs = issubclass(chosen.Config, TorchConfig)
    if job.scheduler.name != "none" and not learns_in_epochs and job.trials.folds == 1:
        raise UserError(
            f"{where}: scheduler.name={job.scheduler.name} compares trials epoch by epoch, and {chosen.name} learns in "
            "one go: set trials.folds to compare fold by fold, or scheduler.name=none"
        )
    figure = (job.metric or (chosen.judged_by,))[0].rpartition(".")[2]
    if job.scheduler.name not in ("none", "pbt") and learns_in_epochs and figure not in HIGHER_IS_BETTER:
        raise UserError(
            f"{where}: scheduler.name={job.scheduler.name} compares epochs, and these do not tell {figure}: they tell "
            f"{', '.join(HIGHER_IS_BETTER)}; take one of these as metric, or set scheduler.name=none"
        )
    if job.trials.folds > 1 and (any(foundations(base)) or any(key.endswith(BUNDLE) for key in space.parameters)):
        raise UserError(
            f"{where}: trials.folds = {job.trials.folds} with a bundle to stand on: it may have learned from patients "
            "that a fold is judged by: set trials.folds=1"
        )
    if job.scheduler.name != "none" and len(job.metric) > 1:
        raise UserError(
            f"{where}: scheduler.name={job.scheduler.name} stops trials by one figure, metric names {len(job.metric)}: "
            "give one, or set scheduler.name=none"
        )


def check_base(chosen: Subject, base: Mapping[str, Any], cohort: Cohort, where: str) -> None:
    """Raise UserError where the bundles that all trials stand on know what trials are judged by."""
    if isinstance(chosen, Family):
        try:
            check_foundations(base, cohort, SPLIT)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
