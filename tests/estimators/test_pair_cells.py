"""The work of a pair table's cells: what is learned from and what is held out are who they are said to be. No Ray."""

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from small_pairs import pair_cohort

from mskray.cohorts.change import CHANGE, IMPROVED
from mskray.estimators.cache import Cache
from mskray.estimators.kmeans import KMeansSection
from mskray.estimators.pair_cells import CellResult, Fold, SoftmaxWork, WordsWork
from mskray.estimators.pair_softmax import SoftmaxSection
from mskray.estimators.pair_words import KeyPointSection, PairWords, SplitsWords
from mskray.estimators.pairs import AugmentSection, FoldSection, Pairs
from mskray.estimators.words import ClassifierSection
from mskray.storage import locate

SPLITS = {"train": 18, "test": 6}
LABELS = np.arange(24) % 3
#: Rows that have no key point: with them counted in, every pair after them would have another's label.
GONE = (4, 19)
KEPT = np.setdiff1d(np.arange(24), GONE)
#: Rows of what is kept: twelve that are learned from, in no order, and the others.
FOLD = Fold("fold 1", np.array([11, 2, 0, 1, 3, 5, 4, 7, 6, 10, 9, 8]), np.arange(12, len(KEPT)))
AUGMENT = AugmentSection(noise_copies=0)
LEVELS = np.array([20, 120, 220])
BEFORE, AFTER = np.array([0, 1, 2]), np.array([2, 1, 0])
"""Places in LEVELS of a pair that regressed, persisted, improved; reversed, the first is the last."""


def tasks() -> dict[str, Pairs]:
    labels, people = LABELS[KEPT], np.array([f"p{row}" for row in KEPT], object)
    two = (labels == CHANGE.classes.index("improved")).astype(np.int64)
    return {task.name: Pairs(task, values, labels, people) for task, values in ((CHANGE, labels), (IMPROVED, two))}


def lengths() -> np.ndarray:
    """Key points (24, 1, 2) of each image: another number in each pair."""
    found = np.repeat(3 + np.arange(24, dtype=np.int32)[:, None, None], 2, axis=2)
    found[list(GONE), :, 1] = 0
    return found


def words(folder: Path) -> SplitsWords:
    """Two splits of pairs, all descriptors of an image at one level, which says what became of the pair."""
    cohort = pair_cohort(folder / "pairs", {name: [0] * count for name, count in SPLITS.items()})
    random, start, found = np.random.default_rng(0), 0, []
    for name, count in SPLITS.items():
        split = PairWords.open(cohort, name, CHANGE, KeyPointSection(), AUGMENT, Cache(locate(folder / "cache"), 10**9))
        rows = slice(start, start + count)
        level = LEVELS[np.stack([BEFORE[LABELS[rows]], AFTER[LABELS[rows]]], axis=1)]
        levels = np.repeat(level.ravel(), lengths()[rows].ravel())
        descriptors = (levels[:, None] + random.integers(-3, 4, (len(levels), 128))).astype(np.uint8)
        split.parts.write(0, {"descriptors": descriptors, "lengths": lengths()[rows]})
        found.append(split)
        start += count
    return SplitsWords(tuple(found))


def check_right(result: CellResult, judges: set[str]) -> None:
    """All that is judged is right, in the order of the fold's rows."""
    assert result.outcomes.keys() == judges
    for name, outcome in result.outcomes.items():
        labels = tasks()[name.partition("/")[0]].labels
        for judged, rows in ((outcome.train, FOLD.rows), (outcome.dev, FOLD.held)):
            np.testing.assert_array_equal(judged.rows, rows)
            np.testing.assert_array_equal(judged.probabilities.argmax(axis=1), labels[rows], err_msg=name)


def test_words_are_learned_from_the_folds_rows_of_what_is_kept(tmp_path: Path) -> None:
    judges = tuple(ClassifierSection.model_validate({"name": name}) for name in ("svm", "gaussian_nb"))
    work = WordsWork(words(tmp_path), KEPT, 3, KMeansSection(), judges, AUGMENT, tasks())
    result = work(FOLD)
    check_right(result, {f"{task}/{judge}" for task in ("change", "improved") for judge in ("svm", "gaussian_nb")})
    assert result.facts["rows"] == result.facts["of"] == lengths()[KEPT[FOLD.rows]].sum()
    assert result.facts["words"] == 3


@pytest.mark.parametrize("wrong", [False, True], ids=["as they are", "held labels wrong"])
def test_the_softmax_learns_from_the_folds_rows_alone(wrong: bool) -> None:
    """Whatever the labels of what is held out, the answers are the same."""
    random, labels = np.random.default_rng(0), LABELS[KEPT]
    features = random.normal(0, 0.05, (len(KEPT), 1, 2, 6)).astype(np.float32)
    features[:, 0, :, 0] += np.stack([BEFORE[labels], AFTER[labels]], axis=1)
    given = tasks()
    if wrong:
        for pairs in given.values():
            pairs.labels[FOLD.held] = (pairs.labels[FOLD.held] + 1) % len(pairs.task.classes)
    work = SoftmaxWork(cast(Any, None), SoftmaxSection(features=2), FoldSection(), AUGMENT, given)
    check_right(work.judge(features, FOLD), {"change/softmax", "improved/softmax"})
