"""Finished searches, and what of them is to be trained anew: which config, for how many epochs, told how."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from mskray.bundles import Search
from mskray.cohorts import Cohort, Task, open_cohort
from mskray.config import merge
from mskray.errors import UserError
from mskray.families import Family, family
from mskray.storage import Location, check_access, locate
from mskray.tuning.leaderboard import Row, ranked, winner
from mskray.tuning.ledger import Description, Ledger, TrialRecord
from mskray.tuning.wording import parameters_text, short_names
from mskray.verbs.train import TrainJob, parse_job


@dataclass(frozen=True)
class Found:
    """A search as it is in its ledger, and the cohort that it was made on."""

    ledger: Ledger
    description: Description
    records: tuple[TrialRecord, ...]
    cohort: Cohort

    @classmethod
    def open(cls, uri: str) -> "Found":
        """Read a search. Raises UserError: there is none, it cannot be read, or its cohort is not what it was."""
        folder = locate(uri)
        check_access(folder)
        ledger = Ledger(folder)
        description = ledger.describe()
        cohort = open_cohort(description.cohort)
        if cohort.content_hash != description.cohort_hash:
            raise UserError(
                f"cohort {cohort.location} has changed since the search {folder} (content hash "
                f"{cohort.content_hash[:16]}, then {description.cohort_hash[:16]}): search anew, or bring it back"
            )
        return cls(ledger, description, tuple(ledger.trials()), cohort)

    def __str__(self) -> str:
        return str(self.ledger.folder)

    @property
    def family(self) -> Family:
        """Raises UserError where there is none: of a search of votes."""
        return family(self.description.family)

    @property
    def task(self) -> Task:
        if self.description.of_votes:
            return self.cohort.task(self.description.task)
        return self.family.task(self.cohort, self.description.task)

    @property
    def metric(self) -> str:
        return self.description.metrics[0]

    @property
    def winner(self) -> "Chosen":
        """The best row. Raises UserError where nothing has finished."""
        return Chosen(self, winner(self.description, self.records))

    def finished(self) -> "list[Chosen]":
        """Every row that has finished, the best first. Raises UserError where none has."""
        best = self.winner
        rows = [row for row in ranked(self.description, self.records) if row.rank]
        return [best, *(Chosen(self, row) for row in rows[1:])]


@dataclass(frozen=True)
class Chosen:
    """A row of a search that is to be trained."""

    found: Found
    row: Row

    @property
    def name(self) -> str:
        return f"{self.found.family.name}-{self.row.id}"

    @property
    def figure(self) -> float:
        """By which it was compared."""
        return self.row.figures[self.found.metric].mean

    @property
    def values(self) -> dict[str, Any]:
        """What it changes in the search's base."""
        if self.found.description.of_votes:
            return dict(self.row.parameters)
        return {**self.row.parameters, **epochs_of(self.found.family.epoch_keys, self.row)}

    def __str__(self) -> str:
        values = self.values
        told = parameters_text(values, short_names(values)) or "the base as it is"
        return f"trial {self.row.id}, {self.found.metric} {self.figure:.4f} in the search: {told}"

    def job(self, out: Location, resources: Mapping[str, Any] = MappingProxyType({})) -> tuple[TrainJob, Family, Any]:
        """The training on train and validation; its seeds are those of the base, as of the row's first trial.

        Raises:
            UserError: the values do not go together.
        """
        description = self.found.description
        keys = {
            "family": description.family,
            "cohort": description.cohort,
            "task": description.task,
            "out": str(out),
            "merge": True,
            "resources": {**description.resources, **resources},
        }
        data = {**merge(description.base, self.values), **keys}
        return parse_job(data, f"{self.name} of {self.found}, trained anew")

    def told(self, members: int = 1) -> Search:
        """What its bundle says of how the config was chosen, alone or as one of several members."""
        figures, first = self.row.figures, self.row.figures[self.found.metric]
        return Search(
            uri=str(self.found),
            trial=self.row.id,
            metric=self.found.metric,
            trials=sum(each.state in ("finished", "stopped") for each in self.found.records),
            figures={name: each.mean for name, each in figures.items()},
            spread={name: each.sd for name, each in figures.items() if each.sd is not None},
            over=first.over,
            folds=self.row.folds,
            seeds=self.row.seeds,
            members=members,
        )


def epochs_of(keys: Mapping[str, str], row: Row) -> dict[str, int]:
    """How many epochs a row is to be trained for, by config key: the mean best epoch of its folds and seeds, rounded.

    Nothing is held back to choose an epoch by, so the training ends there, and its schedule with it. Of an earlier
    training, where a family has several, the ledger knows the best epoch of each seed's first fold: the first of the
    highest score. Empty where nothing is learned in epochs, or in a single one: the config's own number stays.

    Args:
        keys: `Family.epoch_keys`.
    """
    if not row.epochs:
        return {}
    means = {key: _mean_best(row, f"{stage}/") if stage else row.epochs for stage, key in keys.items()}
    return {key: max(1, math.floor(mean + 0.5)) for key, mean in means.items() if mean}


def _mean_best(row: Row, prefix: str) -> float:
    """Mean best epoch of the training whose keys begin with `prefix`; 0 where no history tells."""
    best = [epoch for trial in row.judged if (epoch := _best_epoch(trial.history, prefix))]
    return math.fsum(best) / len(best) if best else 0.0


def _best_epoch(history: Sequence[Mapping[str, Any]], prefix: str) -> int:
    score, epoch = f"{prefix}score", f"{prefix}epoch"
    able = [entry for entry in history if score in entry and epoch in entry]
    return int(max(able, key=lambda entry: entry[score])[epoch]) if able else 0
