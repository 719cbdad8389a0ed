"""What a search is told beside the family's own sections: how to look, when to stop, how to judge.

`mskray families` lists the families' sections and spaces; README, "Tune", has a whole file.
"""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import field_validator

from mskray.config import Section, setting, validate
from mskray.errors import UserError
from mskray.training.run import Resources
from mskray.tuning.figures import check_metric
from mskray.tuning.subject import Subject


class SearchSection(Section):
    """How the next trial's values are found."""

    method: Literal["tpe", "random", "grid"] = setting(
        "tpe", "tree-structured Parzen estimator (Optuna), random draws, or every combination"
    )
    seed: int = setting(0, "seed of the draws", ge=0, le=2**31 - 1)
    startup: int = setting(8, "tpe: random trials before it learns from them", unit="trials", ge=1, le=10_000)


class SchedulerSection(Section):
    """Which trials are stopped before their end. Compared is each epoch's validation figure, or each fold's."""

    name: Literal["none", "asha", "hyperband", "pbt"] = setting(
        "none",
        "successive halving (asha), the same in several brackets (hyperband), or population based training (pbt: torch "
        "families, whose weak trials go on from strong ones' weights with changed values)",
    )
    grace: int = setting(1, "epochs (folds) that every trial is given", unit="epochs", ge=1, le=10_000)
    reduction: int = setting(3, "asha, hyperband: one trial of so many goes on at each halving", ge=2, le=16)
    brackets: int = setting(3, "hyperband: with how many grace periods", ge=1, le=8)
    interval: int = setting(2, "pbt: epochs between two exchanges", unit="epochs", ge=1, le=1000)


class BudgetSection(Section):
    """Where the search ends; what an earlier call of the same search used counts too."""

    trials: int = setting(20, "trials, repeats aside", unit="trials", ge=1, le=100_000)
    hours: float = setting(0.0, "time of this call; 0 for no bound", unit="h", ge=0, le=10_000)
    gpu_hours: float = setting(
        0.0, "GPUs × time of all trials, after which no other is begun; 0 for no bound", unit="h", ge=0, le=1e6
    )


class RepeatsSection(Section):
    """Other seeds for the best trials: the winner is chosen by their mean."""

    best: int = setting(0, "trials that are repeated; 0 for none", unit="trials", ge=0, le=100)
    seeds: int = setting(2, "further seeds for each", unit="seeds", ge=1, le=100)


class TrialsSection(Section):
    """How trials run."""

    folds: int = setting(
        1,
        "cross-validation inside each trial, for small cohorts: folds that train and validation are dealt to by "
        "patient; 1: judged on the validation split",
        unit="folds",
        ge=1,
        le=20,
    )
    folds_seed: int = setting(0, "seed of the deal", ge=0, le=2**31 - 1)
    at_once: int = setting(0, "most trials side by side; 0: as many as the cluster has room for", ge=0, le=10_000)


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
    repeats: RepeatsSection = RepeatsSection()
    trials: TrialsSection = TrialsSection()
    resources: Resources = Resources()

    @field_validator("metric", mode="before")
    @classmethod
    def _one_or_several(cls, given: Any) -> Any:
        return (given,) if isinstance(given, str) else given


def read_job(data: Mapping[str, Any], subject: Subject, where: str) -> tuple[TuneJob, dict[str, Any]]:
    """Validate a search: (job, the subject's sections as they are given).

    Raises:
        UserError: naming each wrong key.
    """
    both: type[Any] = type("Search", (subject.Config, TuneJob), {"__doc__": f"A search of {subject.name}."})
    whole = validate(both, data, where)
    job = TuneJob(**{name: getattr(whole, name) for name in TuneJob.model_fields})
    for name in job.metric:
        check_metric(name, where)
    if len(set(job.metric)) != len(job.metric):
        raise UserError(f"{where}: metric names {', '.join(job.metric)}: name each once")
    return job, {name: data[name] for name in subject.Config.model_fields if name in data}
