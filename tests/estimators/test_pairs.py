"""Copies and their labels, folds by patient, votes with ties, and errors with intervals; by hand on small arrays."""

import numpy as np
import pytest
from sklearn.metrics import f1_score

from mskray.cohorts import Task
from mskray.cohorts.change import CHANGE, IMPROVED, change_labels, reversed_labels
from mskray.errors import UserError
from mskray.estimators.pair_errors import macro_f1, pair_error, vote, wilson
from mskray.estimators.pair_samples import PairImages
from mskray.estimators.pairs import (
    AugmentSection,
    Copies,
    FoldSection,
    Pairs,
    check_folds,
    check_reversal,
    cross_validate,
    fold_numbers,
    noisy,
    out_of_fold,
    run_fold,
)
from mskray.imaging.inputs import InputFormat

OTHER = Task(name="side", classes=("medial", "lateral"))


def pairs_of(labels: list[int], task: Task = CHANGE, patients: list[str] | None = None) -> Pairs:
    people = patients or [f"p{number}" for number in range(len(labels))]
    return Pairs(task, np.array(labels), np.array(labels) if task == CHANGE else None, np.array(people, object))


@pytest.mark.parametrize(
    ("task", "labels", "change", "expected"),
    [
        (CHANGE, [0, 1, 2, -1], None, [2, 1, 0, -1]),
        # In two classes, after reversal: what had regressed improved, all else did not.
        (IMPROVED, [0, 0, 1], [0, 1, 2], [1, 0, 0]),
        (IMPROVED, [0, 1, 0, -1], None, [-1, 0, -1, -1]),
        (IMPROVED, [0, 1, 0], [-1, -1, 0], [-1, 0, 1]),
    ],
)
def test_reversal_swaps_the_label(task: Task, labels: list[int], change: list[int] | None, expected: list[int]) -> None:
    given = None if change is None else np.array(change)
    assert reversed_labels(task, np.array(labels), given).tolist() == expected


def test_both_questions_follow_from_three_classes() -> None:
    assert [change_labels(index) for index in (0, 1, 2, None)] == [
        {"change": 0, "improved": 0},
        {"change": 1, "improved": 0},
        {"change": 2, "improved": 1},
        {"change": None, "improved": None},
    ]


def test_copies_are_of_the_given_rows_and_know_their_source() -> None:
    pairs = pairs_of([2, 1, 0, 2])
    copies = pairs.copies(np.array([0, 2]), AugmentSection(noise_copies=1))
    rows = list(zip(copies.pair, copies.noise, copies.reversed, copies.labels, strict=True))
    assert rows == [
        *[(0, 0, False, 2), (2, 0, False, 0), (0, 1, False, 2), (2, 1, False, 0)],
        *[(0, 0, True, 0), (2, 0, True, 2), (0, 1, True, 0), (2, 1, True, 2)],
    ]
    plain = pairs.copies(np.array([3]), AugmentSection(reverse=False, noise_copies=0))
    assert (plain.pair.tolist(), plain.reversed.tolist(), plain.labels.tolist()) == ([3], [False], [2])


def test_a_reversed_copy_without_a_known_label_is_not_made() -> None:
    pairs = pairs_of([0, 1], IMPROVED)
    copies = pairs.copies(np.array([0, 1]), AugmentSection(noise_copies=0))
    assert list(zip(copies.pair, copies.reversed, copies.labels, strict=True)) == [
        (0, False, 0),
        (1, False, 1),
        (1, True, 0),
    ]


def test_reversal_of_another_question_is_refused() -> None:
    with pytest.raises(UserError, match=r"what a reversed pair is in task side is not known.*reverse=false"):
        check_reversal(OTHER, AugmentSection())
    check_reversal(OTHER, AugmentSection(reverse=False))
    check_reversal(IMPROVED, AugmentSection())


@pytest.mark.parametrize("count", [2, 3, 5])
def test_folds_are_by_patient_and_stratified(count: int) -> None:
    rng = np.random.default_rng(0)
    labels = rng.permutation([0] * 11 + [1] * 30 + [2] * 41)
    pairs = pairs_of(labels.tolist())
    fold = fold_numbers(pairs, FoldSection(count=count))
    for index in range(3):
        sizes = np.bincount(fold[labels == index], minlength=count)
        assert sizes.max() - sizes.min() <= 1
    assert np.ptp(np.bincount(fold)) <= 1
    assert (fold != fold_numbers(pairs, FoldSection(count=count, seed=1))).any()

    twice = pairs.joined(pairs)
    both = fold_numbers(twice, FoldSection(count=count))
    np.testing.assert_array_equal(both[: len(pairs)], both[len(pairs) :])


@pytest.mark.parametrize(
    ("labels", "count", "message"),
    [
        (
            [0, 0, 1, 1, 2],
            2,
            r"fold 2 of 2 has no pair of improved \(5 patients; pairs: regressed 2, persisted 2, improved 1\)",
        ),
        ([0, 0, 1, 1, 2, 2], 3, r"cohort x, split train, task change: fold \d of 3 has no pair of"),
    ],
)
def test_a_class_that_a_fold_lacks_is_refused(labels: list[int], count: int, message: str) -> None:
    pairs = pairs_of(labels)
    with pytest.raises(UserError, match=message):
        check_folds(pairs, fold_numbers(pairs, FoldSection(count=count)), "cohort x, split train")
    enough = pairs_of(labels * count)
    check_folds(enough, fold_numbers(enough, FoldSection(count=count)), "cohort x, split train")


def test_every_pair_is_judged_once_by_a_model_that_knew_no_copy_of_it() -> None:
    pairs = pairs_of([0, 1, 2] * 6)
    seen: list[tuple[set[int], set[int]]] = []

    def learn(copies: Copies, asked: np.ndarray) -> np.ndarray:
        learned = set(copies.pair.tolist())
        seen.append((learned, set(asked.tolist()) - learned))
        share = np.bincount(copies.labels, minlength=3) / len(copies)
        return share + np.eye(3)[asked % 3] * asked[:, None]

    fold = fold_numbers(pairs, FoldSection(count=3))
    outcomes = cross_validate(learn, pairs, fold, AugmentSection())
    assert all(not learned & held for learned, held in seen)
    assert set().union(*(held for _, held in seen)) == set(range(18))
    said = out_of_fold(outcomes)
    # Only the row itself can have put its own number there.
    np.testing.assert_allclose(said[np.arange(18), np.arange(18) % 3] - said.min(axis=1), np.arange(18))
    with pytest.raises(ValueError, match="a patient is in the training part"):
        run_fold(learn, pairs, np.arange(4), np.array([3]), AugmentSection())


def test_noise_is_its_name_s_own_and_stays_in_range() -> None:
    grey = np.full((2, 64, 64), 128, np.uint8)
    once = noisy(grey, 0.05, 0, "a", 1)
    np.testing.assert_array_equal(once, noisy(grey, 0.05, 0, "a", 1))
    assert (once != noisy(grey, 0.05, 0, "a", 2)).mean() > 0.9
    assert (once != noisy(grey, 0.05, 0, "b", 1)).mean() > 0.9
    assert once.astype(float).std() == pytest.approx(0.05 * 255, rel=0.05)
    wide = noisy(np.full((64, 64), 65535, np.uint16), 0.05, 0, "a", 1)
    assert wide.dtype == np.uint16
    assert wide.min() > 40000


def test_macro_f1_is_scikit_learn_s() -> None:
    rng = np.random.default_rng(1)
    truth, called = rng.integers(0, 3, (2, 200, 7))
    confusion = np.zeros((200, 3, 3))
    for row in range(200):
        np.add.at(confusion[row], (truth[row], called[row]), 1)
    expected = [
        f1_score(one, other, average="macro", zero_division=0) for one, other in zip(truth, called, strict=True)
    ]
    np.testing.assert_allclose(macro_f1(confusion), expected)


def test_seven_cases_say_little() -> None:
    """Five of seven right in two classes: the paper's binary test error of 0.29, and what it is worth."""
    labels = np.array([1, 1, 1, 0, 0, 1, 0])
    called = np.array([1, 1, 1, 0, 0, 0, 1])
    error = pair_error(labels, np.eye(2)[called], np.array(list("abcdefg")))
    assert round(error.value, 2) == 0.29
    assert (error.n, error.patients, error.right) == (7, 7, 5)
    assert error.low is not None
    assert error.high is not None
    assert error.low < 0.05
    assert error.high > 0.6
    assert (error.right_low, error.right_high) == pytest.approx((0.359, 0.918), abs=1e-3)
    perfect = pair_error(labels, np.eye(2)[labels], np.array(list("abcdefg")))
    assert (perfect.value, perfect.low, perfect.high) == (0, 0, 0)
    assert perfect.right_low == pytest.approx(0.646, abs=1e-3)
    assert pair_error(labels, np.eye(2)[called], np.array(list("aaabbcd"))).low is None


@pytest.mark.parametrize(
    ("right", "n", "low", "high"), [(0, 10, 0.0, 0.278), (5, 10, 0.237, 0.763), (81, 263, 0.255, 0.366)]
)
def test_wilson(right: int, n: int, low: float, high: float) -> None:
    """81 of 263: Newcombe 1998, Table I."""
    assert wilson(right, n) == pytest.approx((low, high), abs=5e-4)


def test_votes_by_hand() -> None:
    first = np.array([[0.6, 0.3, 0.1], [0.1, 0.5, 0.4]])
    second = np.array([[0.0, 0.9, 0.1], [0.2, 0.5, 0.3]])
    third = np.array([[0.5, 0.1, 0.4], [0.0, 0.1, 0.9]])
    two, three = np.stack([first, second]), np.stack([first, second, third])
    np.testing.assert_allclose(vote(two, "soft"), [[0.3, 0.6, 0.1], [0.15, 0.5, 0.35]])
    np.testing.assert_allclose(vote(two, "weighted", np.array([1.0, 3.0]))[0], [0.15, 0.75, 0.1])
    np.testing.assert_allclose(vote(two, "weighted", np.zeros(2)), vote(two, "soft"))
    # Two that disagree tie: the higher mean probability decides; it cannot make a class win that nobody voted for.
    assert vote(two, "hard").tolist() == [[0, 1, 0], [0, 1, 0]]
    assert vote(three, "hard").tolist() == [[1, 0, 0], [0, 1, 0]]
    unloved = np.array([[[0.51, 0.49, 0.0]], [[0.0, 0.48, 0.52]]])
    assert vote(unloved, "soft").argmax() == 1
    assert vote(unloved, "hard").tolist() == [[0, 0, 1]]
    with pytest.raises(ValueError, match="F1 on the development folds"):
        vote(two, "weighted")


def test_images_of_pairs_come_back_by_pair_copy_and_member() -> None:
    samples = PairImages("label_change", AugmentSection(noise_copies=2, noise=0.01))
    cells = np.arange(3 * 2, dtype=np.uint8).reshape(3, 2, 1, 1) * 40 + np.zeros((3, 2, 8, 8), np.uint8)
    rows = {
        "image": cells,
        "instance_id": np.array(["a", "b", "c"], object),
        "label_change": np.array([2, -1, 0], np.int32),
    }
    found = samples.load(rows, InputFormat(8))
    assert found["image"].shape == (2 * 3 * 2, 8, 8)
    assert found["label"].tolist() == [2] * 6 + [0] * 6
    grouped = samples.by_pair(found["image"])
    assert grouped.shape == (2, 3, 2, 8, 8)
    np.testing.assert_array_equal(grouped[:, 0], cells[[0, 2]])
    np.testing.assert_allclose(grouped.mean(axis=(3, 4))[1], [[160, 200]] * 3, atol=1.5)
    assert (grouped[:, 1] != grouped[:, 2]).any()
