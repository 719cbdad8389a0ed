"""The work of a pair table, cut into cells that run side by side on Ray tasks; each finished cell is a file.

A cell is one fold of one feature set: a vocabulary and all that is judged with it, or the softmax on a network's
features. All of it runs in one process, k-means too: a table has many cells to spread over a cluster. Its file is named
by a hash over what decides it, so that the same table asked for again, after a kill or with another size of vocabulary,
computes what is not there. Another set of descriptors, classifiers or tasks is another table: which pairs can be judged
depends on all descriptors, and a cell holds the answers of all classifiers.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import ray
from ray.exceptions import RayError

from mskray.errors import UserError, user_error_in
from mskray.estimators.arrays import damaged, packed, read_arrays
from mskray.estimators.cache import address
from mskray.estimators.kmeans import fit_kmeans
from mskray.estimators.pair_softmax import SoftmaxSection, learn_softmax
from mskray.estimators.pair_words import SplitsWords, of_copies
from mskray.estimators.pairs import AugmentSection, Copies, FoldOutcome, FoldSection, Judged, Learn, Pairs, run_fold
from mskray.estimators.pieces import Here
from mskray.estimators.starts import KMeansSection
from mskray.estimators.words import ClassifierSection, class_probabilities, fit_classifier, pair_rows
from mskray.progress import Progress, Report, silent
from mskray.storage import Location
from mskray.training.waiting import as_finished

_VERSION = 3
"""Raised when the same facts give another result."""
_MOST_BYTES = 1 << 30
_STAGE = "judging pairs"
_FACTS, _SIDES = "facts", ("train", "held")


@dataclass(frozen=True)
class Fold:
    """Which pairs are learned from (`rows`), and which are held from that: the development set, or the test split."""

    name: str
    rows: np.ndarray
    held: np.ndarray


@dataclass(frozen=True)
class Cell:
    """One piece of work.

    Args:
        model: whose fold this is, for progress and for `outcomes_of`.
        facts: JSON values that decide the result; they name its file.
        work: what makes the result.
    """

    model: str
    fold: Fold
    facts: Mapping[str, Any]
    work: "Work"

    @property
    def file(self) -> str:
        named = {"version": _VERSION, "model": self.model, "fold": self.fold.name}
        return f"cell-{address({**self.facts, **named})}.npz"


@dataclass(frozen=True)
class CellResult:
    """What a cell found.

    Args:
        outcomes: what was said of train and held pairs, by "<task>/<judge>".
        facts: what else is to be told of it (how the vocabulary converged, its seed), JSON values.
    """

    outcomes: Mapping[str, FoldOutcome]
    facts: Mapping[str, Any]


class Work(Protocol):
    """Judges a fold."""

    def __call__(self, fold: Fold) -> CellResult: ...


@dataclass(frozen=True)
class WordsWork:
    """A vocabulary from the fold's training pairs, learned in this process, and every classifier on every task with it.

    Args:
        words: descriptors of all pairs.
        kept: (n,) rows of `words` that the pairs of `tasks` are.
        kmeans: `most` says from how many of the training pairs' descriptors, 0 for all.
        tasks: the same pairs with the labels of each task.
    """

    words: SplitsWords
    kept: np.ndarray
    size: int
    kmeans: KMeansSection
    classifiers: tuple[ClassifierSection, ...]
    augment: AugmentSection
    tasks: Mapping[str, Pairs]

    def __call__(self, fold: Fold) -> CellResult:
        found = fit_kmeans(self.words.pieces(self.kept[fold.rows]), self.size, self.kmeans, Here)
        counts = self.words.count(found.centres)[self.kept]
        outcomes = {
            f"{task}/{section.name}": run_fold(
                learn_words(counts, pairs, section), pairs, fold.rows, fold.held, self.augment
            )
            for task, pairs in self.tasks.items()
            for section in self.classifiers
        }
        return CellResult(outcomes, found.facts())


@dataclass(frozen=True)
class SoftmaxWork:
    """The softmax on the differences of a network's features, on every task.

    Args:
        features: reference to features (n, 1 + copies, 2, width) of the pairs of `tasks`.
    """

    features: ray.ObjectRef
    section: SoftmaxSection
    penalty_folds: FoldSection
    augment: AugmentSection
    tasks: Mapping[str, Pairs]

    def __call__(self, fold: Fold) -> CellResult:
        return self.judge(ray.get(self.features), fold)

    def judge(self, features: np.ndarray, fold: Fold) -> CellResult:
        """As called, the features at hand."""
        outcomes = {
            f"{task}/softmax": run_fold(
                learn_softmax(features, pairs, self.section, self.penalty_folds),
                pairs,
                fold.rows,
                fold.held,
                self.augment,
            )
            for task, pairs in self.tasks.items()
        }
        return CellResult(outcomes, {})


def learn_words(counts: np.ndarray, pairs: Pairs, section: ClassifierSection) -> Learn:
    """Return how a classifier learns from copies and judges pairs, given the words (n, 1 + copies, 2, k) of all."""

    def learn(copies: Copies, rows: np.ndarray) -> np.ndarray:
        given, seen = of_copies(counts, copies)
        patients = pairs.patients[copies.pair[seen]]
        model = fit_classifier(
            pair_rows(given[seen], section), copies.labels[seen], patients, pairs.task.classes, section
        )
        return class_probabilities(model, pair_rows(counts[rows, 0], section))

    return learn


def missing_cells(cells: Sequence[Cell], folder: Location) -> list[Cell]:
    """Return the cells that have no file yet."""
    there = {entry.path for entry in folder.walk()}
    return [cell for cell in cells if cell.file not in there]


def run_cells(
    cells: Sequence[Cell], folder: Location, cpus: float = 1.0, retries: int = 3, report: Report = silent
) -> None:
    """Run the cells that have no file yet, as many at once as there are CPUs; `read_cell` reads them.

    Args:
        cpus: reserved for each.
        retries: times that a cell whose worker is lost is begun anew.
    Raises:
        UserError: a cell failed; what is finished stays, and the same command goes on with the others.
    """
    task = _run.options(num_cpus=cpus, max_retries=retries)
    waiting = {task.remote(cell, folder): cell for cell in missing_cells(cells, folder)}
    if len(waiting) < len(cells):
        report(Progress(f"{len(cells) - len(waiting)} of {len(cells)} cells are there already"))
    try:
        for done in as_finished(list(waiting), _STAGE, "cells", report, len(cells) - len(waiting)):
            cell = waiting.pop(done)
            ray.get(done)
            finished = len(cells) - len(waiting)
            report(Progress(_STAGE, finished, len(cells), "cells", note=f"{cell.model}, {cell.fold.name}"))
    except RayError as error:
        reason = (str(error).strip().splitlines() or ["no reason given"])[-1][:300]
        raise user_error_in(error) or UserError(
            f"{cell.model}, {cell.fold.name}: {reason}: the same command goes on with the cells that are left"
        ) from error
    finally:
        for each in waiting:
            ray.cancel(each)


@ray.remote(scheduling_strategy="SPREAD")
def _run(cell: Cell, folder: Location) -> None:
    write_cell(folder.join(cell.file), cell.work(cell.fold))


def write_cell(place: Location, result: CellResult) -> None:
    """Write one cell, whole or not at all."""
    arrays = {_FACTS: np.frombuffer(json.dumps(dict(result.facts)).encode(), np.uint8)}
    for name, outcome in result.outcomes.items():
        for side, judged in zip(_SIDES, (outcome.train, outcome.dev), strict=True):
            arrays[f"{name}/{side}/rows"] = judged.rows
            arrays[f"{name}/{side}/probabilities"] = judged.probabilities.astype(np.float32)
    place.write_bytes(packed(arrays))


def read_cell(place: Location) -> CellResult:
    """Read one cell. Raises UserError where it is damaged or larger than 1 GiB."""
    arrays = read_arrays(place, _MOST_BYTES)
    try:
        facts = json.loads(arrays.pop(_FACTS).tobytes())
        names = sorted({key.rsplit("/", 2)[0] for key in arrays})
        outcomes = {
            name: FoldOutcome(
                *(Judged(arrays[f"{name}/{side}/rows"], arrays[f"{name}/{side}/probabilities"]) for side in _SIDES)
            )
            for name in names
        }
        return CellResult(outcomes, facts)
    except (ValueError, KeyError) as error:
        raise damaged(place, error) from None
