"""Pairs of images as samples: their copies by reversal and noise, their folds, and cross-validation over them.

The protocol is CRMO's: a few pairs are held out and touched last; the rest is divided by patient into K folds, each
of which is the development set once while the others, with their copies, are learned from. Copies are made from the
rows of the training part alone, so that no copy of a pair is ever on the other side of its source.

The paper has 57 + 25 + 7 pairs: 70 to 30 between training and development, and 7 held out. With K folds a share of
1 / K is developed on; 3 comes nearest to its 30 %. No torch, no Ray.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mskray.cohorts import Cohort, Task
from mskray.cohorts.change import CHANGE, REVERSIBLE, reversed_labels
from mskray.cohorts.schema import MISSING
from mskray.config import Section, setting
from mskray.errors import UserError


class AugmentSection(Section):
    """Copies of the training pairs."""

    reverse: bool = setting(True, "also learn each pair in reverse, with its label swapped", source="CRMO")
    noise_copies: int = setting(1, "noisy copies of each pair", unit="copies", source="CRMO; number ours", ge=0, le=16)
    noise: float = setting(
        0.02, "standard deviation of the noise, as a share of the range of grey levels", source="ours", gt=0, le=0.5
    )
    seed: int = setting(0, "of the noise", ge=0, le=2**31 - 1)


class FoldSection(Section):
    """Cross-validation."""

    count: int = setting(3, "folds", unit="folds", source="CRMO's 70 to 30, nearest", ge=2, le=50)
    seed: int = setting(0, "which patients are in which fold", ge=0, le=2**31 - 1)


@dataclass(frozen=True)
class Copies:
    """What is learned from: the pairs themselves and their copies, m in all.

    Args:
        pair: (m,) row of the pair in its `Pairs`.
        noise: (m,) 0 for the pair's own images, else the number of a noisy copy.
        reversed: (m,) bool, whether after comes first.
        labels: (m,) class.
    """

    pair: np.ndarray
    noise: np.ndarray
    reversed: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.pair)


@dataclass(frozen=True)
class Pairs:
    """The labelled pairs of one or several splits, in the order of their features.

    Args:
        labels: (n,) class of each in `task`.
        change: (n,) label in three classes, MISSING where not known; None where the cohort has none.
        patients: (n,) whose pair it is.
    """

    task: Task
    labels: np.ndarray
    change: np.ndarray | None
    patients: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def read(cls, cohort: Cohort, split: str, task: Task) -> "Pairs":
        """Read the labelled pairs of a split; no pixel is read."""
        known = CHANGE in cohort.tasks
        wanted = dict.fromkeys([task.column, "patient_id", *([CHANGE.column] if known else [])])
        rows = cohort.columns(split, list(wanted))
        inside = rows[task.column] != MISSING
        change = rows[CHANGE.column][inside].astype(np.int64) if known else None
        return cls(task, rows[task.column][inside].astype(np.int64), change, rows["patient_id"][inside])

    @classmethod
    def of_splits(cls, cohort: Cohort, splits: Sequence[str], task: Task) -> "Pairs":
        """Read the labelled pairs of one or more splits, in their order."""
        first, *others = (cls.read(cohort, split, task) for split in splits)
        for other in others:
            first = first.joined(other)
        return first

    def some(self, rows: np.ndarray) -> "Pairs":
        """Those in these rows."""
        change = None if self.change is None else self.change[rows]
        return Pairs(self.task, self.labels[rows], change, self.patients[rows])

    def joined(self, other: "Pairs") -> "Pairs":
        """These pairs, then those of another split of the same cohort."""
        change = None if self.change is None or other.change is None else np.append(self.change, other.change)
        patients = np.append(self.patients, other.patients)
        return Pairs(self.task, np.append(self.labels, other.labels), change, patients)

    def originals(self, rows: np.ndarray) -> Copies:
        """Some pairs as they are."""
        count = len(rows)
        return Copies(np.asarray(rows), np.zeros(count, np.int64), np.zeros(count, bool), self.labels[rows])

    def copies(self, rows: np.ndarray, augment: AugmentSection) -> Copies:
        """Some pairs with their copies: as they are, noisy, and each of these reversed where its label is known.

        Raises:
            ValueError: reversal of a task whose labels are not known to swap; see `check_reversal`.
        """
        given = self.originals(rows)
        pair = np.tile(given.pair, 1 + augment.noise_copies)
        noise = np.repeat(np.arange(1 + augment.noise_copies), len(rows))
        labels = self.labels[pair]
        turned = np.zeros(len(pair), bool)
        if augment.reverse:
            after = reversed_labels(self.task, labels, None if self.change is None else self.change[pair])
            known = after != MISSING
            pair, noise = np.append(pair, pair[known]), np.append(noise, noise[known])
            labels, turned = np.append(labels, after[known]), np.append(turned, np.ones(int(known.sum()), bool))
        return Copies(pair, noise, turned, labels)


def check_reversal(task: Task, augment: AugmentSection) -> None:
    """Raise UserError where copies by reversal are asked for and it is not known what becomes of the label."""
    if augment.reverse and task.name not in REVERSIBLE:
        raise UserError(
            f"augment.reverse: what a reversed pair is in task {task.name} is not known, only in "
            f"{' and '.join(REVERSIBLE)}: set augment.reverse=false"
        )


def fold_numbers(pairs: Pairs, folds: FoldSection) -> np.ndarray:
    """Deal patients to folds, stratified by class: (n,) fold of each pair, 0 to count − 1.

    A patient stands in the stratum of the rarest class among their pairs. Within it patients come in the order of a
    seeded hash and are dealt one to a fold, on from where the stratum before ended: the folds of a class with one
    pair a patient differ by one pair at most, and so do all folds together.
    """
    frequency = Counter(pairs.labels.tolist())
    stratum: dict[str, tuple[int, int]] = {}
    for patient, label in zip(pairs.patients.tolist(), pairs.labels.tolist(), strict=True):
        rank = (frequency[label], label)
        stratum[patient] = min(stratum.get(patient, rank), rank)
    order = sorted(stratum, key=lambda patient: (stratum[patient], _hash(folds.seed, patient)))
    fold = {patient: place % folds.count for place, patient in enumerate(order)}
    return np.array([fold[patient] for patient in pairs.patients.tolist()], np.int64)


def check_folds(pairs: Pairs, fold: np.ndarray, where: str) -> None:
    """Raise UserError where a fold lacks a class of the task: its F1 would say nothing of that class.

    Where every fold has a class, so has the rest that is learned from beside it.

    Args:
        where: the cohort and its splits, for the message.
    """
    classes, count = pairs.task.classes, int(fold.max(initial=0)) + 1
    for number in range(count):
        present = set(pairs.labels[fold == number].tolist())
        lacking = [name for index, name in enumerate(classes) if index not in present]
        if lacking:
            has = ", ".join(f"{name} {int((pairs.labels == index).sum())}" for index, name in enumerate(classes))
            raise UserError(
                f"{where}, task {pairs.task.name}: fold {number + 1} of {count} has no pair of {', '.join(lacking)} "
                f"({len(set(pairs.patients))} patients; pairs: {has}): lower folds.count, choose another folds.seed, "
                "or bring more pairs"
            )


Learn = Callable[[Copies, np.ndarray], np.ndarray]
"""Learn from copies, then say the class probabilities (k, classes) of pairs (k,) as they are."""


@dataclass(frozen=True)
class Judged:
    """What a model said of some pairs: rows (k,) of `Pairs`, class probabilities (k, classes)."""

    rows: np.ndarray
    probabilities: np.ndarray


@dataclass(frozen=True)
class FoldOutcome:
    """One fold: what its model said of the pairs that it had learned, and of those of its development set."""

    train: Judged
    dev: Judged


def run_fold(learn: Learn, pairs: Pairs, rows: np.ndarray, held: np.ndarray, augment: AugmentSection) -> FoldOutcome:
    """Learn from `rows` with their copies and judge them and `held`, all without copies.

    A function of its arguments alone: folds and models run side by side as Ray tasks.

    Raises:
        ValueError: a patient on both sides.
    """
    if set(pairs.patients[rows].tolist()) & set(pairs.patients[held].tolist()):
        raise ValueError("a patient is in the training part and in what is held from it")
    said = learn(pairs.copies(rows, augment), np.concatenate([rows, held]))
    return FoldOutcome(Judged(rows, said[: len(rows)]), Judged(held, said[len(rows) :]))


def cross_validate(learn: Learn, pairs: Pairs, fold: np.ndarray, augment: AugmentSection) -> list[FoldOutcome]:
    """Run every fold, one after the other; see `run_fold`."""
    parts = [(np.flatnonzero(fold != number), np.flatnonzero(fold == number)) for number in range(int(fold.max()) + 1)]
    return [run_fold(learn, pairs, rows, held, augment) for rows, held in parts]


def out_of_fold(outcomes: Sequence[FoldOutcome]) -> np.ndarray:
    """Return what was said of each pair (n, classes) by the model that had not learned it."""
    rows = np.concatenate([outcome.dev.rows for outcome in outcomes])
    said = np.concatenate([outcome.dev.probabilities for outcome in outcomes])
    return said[np.argsort(rows)]


def noisy(pixels: np.ndarray, sigma: float, seed: int, name: str, copy: int) -> np.ndarray:
    """Return an image with Gaussian noise, the same for the same seed, name and number of the copy.

    Args:
        pixels: uint8 or uint16 of any shape.
        sigma: standard deviation as a share of the range of grey levels.
        name: of the image, such as its instance and its place in the pair.
    """
    top = np.iinfo(pixels.dtype).max
    rng = np.random.default_rng(int(_hash(seed, f"{copy}:{name}")[:16], 16))
    grain = rng.standard_normal(pixels.shape, dtype=np.float32) * np.float32(sigma * top)
    return np.clip(np.rint(pixels + grain), 0, top).astype(pixels.dtype)


def _hash(seed: int, text: str) -> str:
    return hashlib.sha256(f"{seed}:{text}".encode()).hexdigest()
