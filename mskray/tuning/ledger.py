"""The ledger of a search: one file a trial in the bucket, so that no finished trial is ever repeated.

    <out>/driver.json                      who works on it now (`mskray.tuning.lease`)
    <out>/tune.json                        what is searched, how and by which figure (`Description`)
    <out>/trials/<id>.json                 one trial (`TrialRecord`), written when it is suggested and when it ends
    <out>/trials/<id>/predictions.parquet  what a finished trial said of each validation image, all folds

Ray Tune's own experiment state is not relied on: `Tuner.restore` fails where a kill left one of its files empty
(https://github.com/ray-project/ray/issues/58179).
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from mskray.errors import UserError
from mskray.storage import Location
from mskray.storage.tables import parquet_bytes

SCHEMA_VERSION = 1
DESCRIPTION, TRIALS, PREDICTIONS = "tune.json", "trials", "predictions.parquet"
_THREADS = 16
_MOST_BYTES = 64 << 20

VOTES = "ensemble"
"""What a search of an ensemble's votes has for a family (`mskray.verbs.votes`)."""

State = Literal["open", "finished", "stopped", "failed", "refused"]
"""open: suggested and not ended, begun anew by the next call. stopped: by a scheduler, before its end.

refused: the family does not take this combination of values, or not this cohort with it. failed: it was tried.
"""
ENDED: frozenset[State] = frozenset({"finished", "stopped", "failed"})
"""Of trials that the budget counts."""


class _Kept(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Description(_Kept):
    """`tune.json`.

    Args:
        task: as the job names it; empty for the cohort's first, or all that a family learns at once.
        base: the family's sections as the job gives them, before a trial's parameters.
        space: as in YAML, {key: {kind: values, "when": …}}.
        metrics: what is optimised, "validation.study.kappa"; the first ranks, several span a Pareto front.
        search: of the job's `search` section; scheduler, folds and repeats likewise.
        bundles: hashes of all that trials stand on, by config key, or by URI where they are searched.
        resources: of each trial, as the first call had them.
        fingerprint: hash of all that must not change between two calls.
    """

    schema_version: int = SCHEMA_VERSION
    family: str
    cohort: str
    cohort_hash: str
    task: str
    base: dict[str, Any]
    space: dict[str, Any]
    metrics: tuple[str, ...]
    search: dict[str, Any]
    scheduler: dict[str, Any]
    folds: dict[str, Any]
    repeats: dict[str, Any]
    fingerprint: str
    bundles: dict[str, str] = {}
    resources: dict[str, Any] = {}
    created: str
    versions: dict[str, str]

    @property
    def of_votes(self) -> bool:
        return self.family == VOTES


class TrialRecord(_Kept):
    """`trials/<id>.json`.

    Args:
        id: 12 hex digits of a hash over parameters and seed.
        number: place in the order of suggestions, from 0.
        parameters: values by dotted key, of the parameters that are there under the space's conditions.
        seed: 0 for a trial of the search, 1, 2, … for a repeat of the same parameters with another seed.
        figures: what came out, by name ("validation.study.kappa", "latency_ms", "size_mb"); means over folds.
        spread: standard deviation of each over the folds; empty with one.
        folds: figures of each fold.
        history: an entry an epoch of the first fold's training ("epoch", "train_loss", "val_kappa", …).
        epochs: best epoch, mean over folds; 0 where nothing is trained in epochs.
        seconds, gpu_seconds: that it occupied.
        rounds: of population based training that it has behind it; begins: URI of the checkpoint that the next one goes
            on from, its own or a better member's.
        reason: why it was stopped, failed or refused.
        started, ended: UTC, ISO 8601.
    """

    schema_version: int = SCHEMA_VERSION
    id: str
    number: int
    parameters: dict[str, Any]
    seed: int = 0
    state: State = "open"
    figures: dict[str, float] = {}
    spread: dict[str, float] = {}
    folds: tuple[dict[str, float], ...] = ()
    history: tuple[dict[str, Any], ...] = ()
    epochs: float = 0.0
    seconds: float = 0.0
    gpu_seconds: float = 0.0
    rounds: int = 0
    begins: str = ""
    reason: str = ""
    started: str = ""
    ended: str = ""


@dataclass(frozen=True)
class Ledger:
    """The folder of a search."""

    folder: Location

    def describe(self) -> Description:
        """Read `tune.json`. Raises UserError where there is none, or it cannot be read."""
        place = self.folder.join(DESCRIPTION)
        if not place.is_file():
            raise UserError(
                f"{self.folder} has no {DESCRIPTION}: it is no search; give the folder that a search's `out` names"
            )
        return _read(place, Description)

    def describe_as(self, description: Description) -> None:
        """Write `tune.json`, or keep the one that is there. Raises UserError where it is of another search."""
        self.check_same(description)
        if not self.folder.join(DESCRIPTION).is_file():
            self.folder.join(DESCRIPTION).write_json(description.model_dump(mode="json"))

    def check_same(self, description: Description) -> None:
        """Raise UserError where another search is here."""
        if not self.folder.join(DESCRIPTION).is_file():
            return
        there = self.describe()
        if there.fingerprint != description.fingerprint:
            raise UserError(
                f"{self.folder} already holds another search ({there.family}, {there.created}), with "
                f"{_differ(there, description)}: give another out, or delete it"
            )

    def trials(self) -> list[TrialRecord]:
        """Read all trials, in the order of their numbers. Raises UserError that names a file that cannot be read."""
        folder = self.folder.join(TRIALS)
        names = [entry.path for entry in folder.walk() if "/" not in entry.path and entry.path.endswith(".json")]
        with ThreadPoolExecutor(_THREADS) as pool:
            found = list(pool.map(lambda name: _read(folder.join(name), TrialRecord), names))
        return sorted(found, key=lambda each: (each.number, each.id))

    def trial(self, name: str) -> TrialRecord:
        """Read one trial. Raises UserError."""
        found: TrialRecord = _read(self.folder.join(TRIALS, f"{name}.json"), TrialRecord)
        return found

    def write(self, record: TrialRecord) -> None:
        """Write one trial, whole or not at all."""
        self.folder.join(TRIALS, f"{record.id}.json").write_json(record.model_dump(mode="json"))

    def room(self, trial: str) -> Location:
        """The folder of a trial's own files."""
        return self.folder.join(TRIALS, trial)

    def write_predictions(self, trial: str, table: pa.Table, fold: int | None = None) -> None:
        """Write what a trial said of one fold's images, or of all."""
        self.room(trial).join(_predictions(fold)).write_bytes(parquet_bytes(table))

    def fold_predictions(self, trial: str, fold: int) -> pa.Table | None:
        """What a trial said of one fold's images; None where its family gives no class probabilities."""
        place = self.room(trial).join(_predictions(fold))
        return pq.read_table(pa.BufferReader(place.read_bytes())) if place.is_file() else None

    def predictions(self, trial: str) -> pa.Table:
        """What a trial said of each validation image: as `mskray predict` writes it, with the column `fold`.

        Raises:
            UserError: it left none.
        """
        place = self.room(trial).join(PREDICTIONS)
        if not place.is_file():
            raise UserError(
                f"trial {trial} of {self.folder} left no {PREDICTIONS}: its family gives no class probabilities"
            )
        return pq.read_table(pa.BufferReader(place.read_bytes()))


def _predictions(fold: int | None) -> str:
    return PREDICTIONS if fold is None else f"fold-{fold}.parquet"


def _read(place: Location, model: type[Any]) -> Any:
    try:
        found = model.model_validate_json(place.read_bytes(_MOST_BYTES))
    except ValueError:
        raise UserError(
            f"{place} cannot be read, it is damaged or cut short: delete it; mskray tune makes it again"
        ) from None
    if found.schema_version > SCHEMA_VERSION:
        raise UserError(
            f"{place} has schema version {found.schema_version}, this mskray reads {SCHEMA_VERSION}: update mskray"
        )
    return found


def _differ(one: Description, other: Description) -> str:
    names = ("family", "cohort_hash", "task", "base", "space", "metrics", "search", "scheduler", "folds", "bundles")
    found = [name for name in names if getattr(one, name) != getattr(other, name)]
    if one.resources.get("workers") != other.resources.get("workers"):
        found.append("number of workers")
    return "another " + ", ".join(found)
