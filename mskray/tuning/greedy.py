"""Which trials vote best together: greedy ensemble selection.

Caruana, Niculescu-Mizil, Crew, Ksikes, Ensemble selection from libraries of models (ICML 2004), section 2: begin with
the best models together, as many as are best (sorted initialisation, 2.2), then add, one after the other, whichever
model makes the vote best, also one that is in it (selection with replacement, 2.1): how often a model is in is its
weight. Of all votes on the way the best is taken, of equal ones the first. Their bagged selection (2.3) is not done:
a few members leave little room to fit the validation split by chance, but some, so the figure that comes out flatters.

With C candidates, n samples and a vote of ROUNDS models at most, the figure is counted ROUNDS · C times:
O(ROUNDS · C · n log n) time, and C · n numbers a class in memory.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mskray.errors import UserError
from mskray.evaluation.metrics import FIGURES, weighted_figures
from mskray.evaluation.studies import Samples, read_predictions, to_studies
from mskray.progress import Progress, Report, silent
from mskray.tuning.figures import sign

ROUNDS = 50
"""Models of a vote at most, each counted as often as it is in."""
_THRESHOLD = 0.5
_SAME = 1e-12
"""Figures that differ by less differ by rounding."""


@dataclass(frozen=True)
class Candidate:
    """A trial that may vote.

    Args:
        name: for messages.
        table: of its validation images: instance_id, study_id, patient_id, label, prob_<class>, and fold.
    """

    name: str
    table: pa.Table


@dataclass(frozen=True)
class Member:
    """A candidate of the ensemble, by its place among those given, and how often it is in."""

    candidate: int
    count: int


@dataclass(frozen=True)
class Selection:
    """The members, the heaviest first, and the figure of their vote on the images that they were chosen on."""

    members: tuple[Member, ...]
    figure: float


def select(
    candidates: Sequence[Candidate], classes: Sequence[str], metric: str, most: int, report: Report = silent
) -> Selection:
    """Choose at most `most` members of a soft vote.

    Args:
        candidates: the best first, as `leaderboard.ranked` puts them: that is the order of the initialisation, the
            first is chosen where `most` is 1, and of equally good additions that which is in the least, then the first.
        metric: "validation.study.kappa", "validation.image.auroc", …; over folds their mean, as of a trial.
    Raises:
        UserError: fewer than one member or more than there are candidates, a metric that no vote has, or candidates
            that were not judged on the same images.
    """
    if most < 1:
        raise UserError(f"an ensemble of {most}: give the number of members, 1 at least")
    if most > len(candidates):
        raise UserError(
            f"an ensemble of {most}: there are {len(candidates)} finished trials to choose from, ask for fewer"
        )
    check_vote_metric(metric)
    library = _Library.read(candidates, list(classes), metric)
    total = max(ROUNDS, most) if most > 1 else 1
    best, chosen, done = -np.inf, np.zeros(len(candidates), np.int64), 0
    for score, counts in _path(library, most):
        if score > best + _SAME:
            best, chosen = score, counts
        done = max(done, int(counts.sum()))
        note = f"{metric} {sign(metric) * best:.4f} of {np.count_nonzero(chosen)}"
        report(Progress("choosing members", done, total, "votes", note=note))
    if not chosen.any():
        raise UserError(f"{metric} is defined of no vote on these images: choose by another metric")
    order = sorted(np.flatnonzero(chosen).tolist(), key=lambda place: (-chosen[place], place))
    return Selection(tuple(Member(place, int(chosen[place])) for place in order), sign(metric) * best)


def check_vote_metric(metric: str) -> None:
    """Raise UserError for a metric that is not of one question's probabilities."""
    _, level, figure = metric.split(".") if metric.count(".") == 2 else ("", "", "")
    if level not in ("study", "image") or figure not in FIGURES:
        raise UserError(
            f"members of an ensemble cannot be chosen by {metric}: a vote has the figures {', '.join(FIGURES)}, of "
            "studies or images; promote the winner alone"
        )


def _path(library: "_Library", most: int) -> Iterator[tuple[float, NDArray[np.int64]]]:
    """Yield score and counts (C,) of each vote on the way."""
    prefixes = [np.arange(library.size) < length for length in range(1, most + 1)]
    scores = []
    for prefix in prefixes:
        scores.append(library.score(prefix.astype(np.int64)))
        yield scores[-1], prefix.astype(np.int64)
    if most == 1:
        return
    counts = prefixes[int(np.argmax(_best(scores)))].astype(np.int64)
    while counts.sum() < ROUNDS:
        full = np.count_nonzero(counts) == most
        able = np.flatnonzero(counts) if full else np.arange(library.size)
        steps = np.eye(library.size, dtype=np.int64)[able]
        scores = [library.score(counts + step) for step in steps]
        # Of equally good ones that which is in the least: the same again would only make later ones weigh less.
        place = int(np.argmin(np.where(_best(scores), counts[able], ROUNDS + 1)))
        counts = counts + steps[place]
        yield scores[place], counts


def _best(scores: Sequence[float]) -> NDArray[np.bool_]:
    """Which are best but for rounding."""
    return np.asarray(scores) >= max(scores) - _SAME


@dataclass(frozen=True)
class _Library:
    """All candidates' answers at the metric's level.

    prob: (C, n, classes). label: (n,). folds: places of each fold's samples among the n.
    """

    prob: NDArray[np.float64]
    label: NDArray[np.int64]
    folds: tuple[NDArray[np.int64], ...]
    metric: str

    @property
    def size(self) -> int:
        return len(self.prob)

    @classmethod
    def read(cls, candidates: Sequence[Candidate], classes: list[str], metric: str) -> "_Library":
        images = [read_predictions(each.table, classes)[0] for each in candidates]
        _check_same(candidates, images)
        # The vote's study mean is the vote of the study means: both are weighted means.
        level = [to_studies(each)[0] for each in images] if metric.split(".")[1] == "study" else images
        first = level[0]
        numbers = _fold_numbers(candidates, images[0], first)
        folds = tuple(np.flatnonzero(numbers == number) for number in np.unique(numbers))
        return cls(np.stack([each.prob for each in level]), first.label, folds, metric)

    def score(self, counts: NDArray[np.int64]) -> float:
        """The figure of the vote with these counts (C,), the larger the better; −inf where it is not defined."""
        prob = np.tensordot(counts / counts.sum(), self.prob, axes=1)
        name = self.metric.rpartition(".")[2]
        found = []
        for fold in self.folds:
            figures = weighted_figures(
                self.label[fold],
                prob[fold],
                np.ones((1, len(fold))),
                threshold=_THRESHOLD,
                ordinal=name == "quadratic_kappa",
            )
            found.append(float(figures[name][0]))
        known = [value for value in found if np.isfinite(value)]
        return sign(self.metric) * float(np.mean(known)) if known else -np.inf


def _check_same(candidates: Sequence[Candidate], images: Sequence[Samples]) -> None:
    """Raise UserError where a candidate was judged on other images than the first, or has other labels of them."""
    first, known = images[0], set(images[0].ids)
    for candidate, each in zip(candidates[1:], images[1:], strict=True):
        lacks, more = sorted(known - set(each.ids)), sorted(set(each.ids) - known)
        if lacks or more:
            told = [f"lacks {len(lacks)} of its images (first {lacks[0]})"] if lacks else []
            told += [f"has {len(more)} others (first {more[0]})"] if more else []
            raise UserError(
                f"trials {candidates[0].name} and {candidate.name} were judged on different images: the latter "
                f"{' and '.join(told)}; give searches of one cohort with the same folds or none"
            )
        other = np.flatnonzero(each.label != first.label)
        if len(other):
            raise UserError(
                f"trials {candidates[0].name} and {candidate.name} know different labels of image "
                f"{first.ids[other[0]]}: give searches of one cohort and one task"
            )


def _fold_numbers(candidates: Sequence[Candidate], images: Samples, level: Samples) -> NDArray[np.int64]:
    """The fold (n,) of each sample; all one where candidates were dealt to different folds."""
    found = []
    for candidate in candidates:
        table = candidate.table.select(["instance_id", "fold"]).to_pydict()
        fold = dict(zip(map(str, table["instance_id"]), table["fold"], strict=True))
        found.append(np.array([fold[name] for name in images.ids], np.int64))
    if any((each != found[0]).any() for each in found):
        return np.zeros(len(level), np.int64)
    # A study lies in one fold: patients are dealt.
    of_study = dict(zip(zip(images.patient, images.study, strict=True), found[0].tolist(), strict=True))
    return np.array([of_study[key] for key in zip(level.patient, level.study, strict=True)], np.int64)
