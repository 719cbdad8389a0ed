"""CRMO's table: train, dev and test error of every model of pairs and of their votes, each with its interval.

A model is judged K + 1 times: in each fold on the pairs that it learned and on those of the development set, and once,
learned from all folds, on the held-out pairs. Train error rests on what each fold's model says of its own pairs, dev
error on what was said of each pair by the model that had not learned it.

Votes are taken fold by fold. The weights of a weighted vote in a fold are the members' F1 on the *other* folds, on the
held-out pairs those on all folds: no pair weighs in on its own vote.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mskray.estimators.pair_errors import VOTINGS, PairError, Voting, macro_f1, pair_error, vote
from mskray.estimators.pairs import FoldOutcome, Judged, Pairs, out_of_fold
from mskray.evaluation.metrics import weighted_confusion


@dataclass(frozen=True)
class Outcomes:
    """What one model said: in each fold, and at last of the pairs that it learned (train) and the held-out (dev)."""

    folds: tuple[FoldOutcome, ...]
    final: FoldOutcome


@dataclass(frozen=True)
class TableRow:
    """A model or a vote, and its errors; `test` is None where the cohort holds no pair out."""

    name: str
    members: tuple[str, ...]
    train: PairError
    dev: PairError
    test: PairError | None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def table_rows(pairs: Pairs, models: Mapping[str, Outcomes], first: str, resamples: int = 2000) -> list[TableRow]:
    """Return a row for each model, and for the votes.

    Args:
        models: outcomes by name, all over the same folds.
        first: the model that votes with the best of the others (CRMO's ensemble is of two); "" for none.
    Returns:
        Models as given; then the votes of `first` with the other of least dev error, which flatters the dev error of
        these votes a little; then the votes of all models. A vote needs two.
    """
    rows = [_row(name, (name,), pairs, each, resamples) for name, each in models.items()]
    if len(models) < 2:
        return rows
    teams: dict[str, list[str]] = {}
    others = [row for row in rows if row.name != first]
    if first and len(others) > 1:
        best = min(others, key=lambda row: row.dev.value).name
        teams[f"{first} + {best}"] = [first, best]
    teams[f"all {len(models)}"] = list(models)
    for name, members in teams.items():
        for voting in VOTINGS:
            outcome = vote_outcomes(pairs, [models[member] for member in members], voting)
            rows.append(_row(f"{voting} vote: {name}", tuple(members), pairs, outcome, resamples))
    return rows


def vote_outcomes(pairs: Pairs, members: Sequence[Outcomes], voting: Voting) -> Outcomes:
    """Vote in each fold and on the held-out pairs."""
    count = len(members[0].folds)
    folds = []
    for number in range(count):
        others = [place for place in range(count) if place != number]
        weights = _weights(pairs, members, others) if voting == "weighted" else None
        folds.append(_vote([member.folds[number] for member in members], voting, weights))
    weights = _weights(pairs, members, range(count)) if voting == "weighted" else None
    return Outcomes(tuple(folds), _vote([member.final for member in members], voting, weights))


def _vote(outcomes: Sequence[FoldOutcome], voting: Voting, weights: np.ndarray | None) -> FoldOutcome:
    def joined(judged: Sequence[Judged]) -> Judged:
        for each in judged[1:]:
            if not np.array_equal(each.rows, judged[0].rows):
                raise ValueError("models that vote must have judged the same pairs")
        if not len(judged[0].rows):
            return judged[0]
        return Judged(judged[0].rows, vote(np.stack([each.probabilities for each in judged]), voting, weights))

    return FoldOutcome(joined([each.train for each in outcomes]), joined([each.dev for each in outcomes]))


def _weights(pairs: Pairs, members: Sequence[Outcomes], folds: Sequence[int]) -> np.ndarray:
    """Return each member's F1 (models,) on the development sets of some folds."""
    found = []
    for member in members:
        rows = np.concatenate([member.folds[number].dev.rows for number in folds])
        said = np.concatenate([member.folds[number].dev.probabilities for number in folds])
        labels, classes = pairs.labels[rows], said.shape[1]
        found.append(
            float(macro_f1(weighted_confusion(labels, said.argmax(axis=1), np.ones((1, len(rows))), classes))[0])
        )
    return np.array(found)


def _row(name: str, members: tuple[str, ...], pairs: Pairs, outcomes: Outcomes, resamples: int) -> TableRow:
    learned = [each.train for each in outcomes.folds]
    train = Judged(
        np.concatenate([each.rows for each in learned]), np.concatenate([each.probabilities for each in learned])
    )
    developed = np.sort(np.concatenate([each.dev.rows for each in outcomes.folds]))
    dev = Judged(developed, out_of_fold(outcomes.folds))
    held = outcomes.final.dev
    return TableRow(
        name,
        members,
        _error(pairs, train, resamples),
        _error(pairs, dev, resamples),
        _error(pairs, held, resamples) if len(held.rows) else None,
    )


def _error(pairs: Pairs, judged: Judged, resamples: int) -> PairError:
    return pair_error(pairs.labels[judged.rows], judged.probabilities, pairs.patients[judged.rows], resamples)


def text_cells(row: TableRow) -> list[str]:
    """Return a row as text: name, and each error with its interval; for the held-out pairs also how many were right."""
    test = "none held out"
    if row.test is not None:
        low, high = row.test.right_low, row.test.right_high
        test = f"{_words(row.test)}, {row.test.right} of {row.test.n} right ({low:.0%} to {high:.0%})"
    return [row.name, _words(row.train), _words(row.dev), test]


def _words(error: PairError) -> str:
    if error.low is None or error.high is None:
        return f"{error.value:.2f} (under 5 patients)"
    return f"{error.value:.2f} ({error.low:.2f} to {error.high:.2f})"
