"""Word histograms by hand, reversal, classifiers against scikit-learn, and folds that keep a patient together."""

from typing import Any

import numpy as np
import pytest
from sklearn.metrics import f1_score
from sklearn.naive_bayes import GaussianNB, MultinomialNB
from sklearn.svm import SVC
from skops.io import dumps, get_untrusted_types, loads

from mskray.bundles import TRUSTED
from mskray.errors import UserError
from mskray.estimators.histograms import count_words
from mskray.estimators.pair_words import of_copies, usable
from mskray.estimators.pairs import Copies
from mskray.estimators.svm import Rbf, fit_sigmoid
from mskray.estimators.words import (
    ClassifierSection,
    class_probabilities,
    class_weights,
    deal,
    fit_classifier,
    pair_rows,
)

CLASSES = ("regressed", "persisted", "improved")


def test_words_are_counted_image_by_image() -> None:
    """Two pairs of 2, 0, 3 and 1 descriptors; words stand at 0, 10 and 20."""
    centres = np.repeat(np.array([[0], [10], [20]], np.float32), 64, axis=1)
    lengths = np.array([[2, 0], [3, 1]])
    descriptors = np.repeat(np.array([[1], [9], [0], [2], [19], [11]], np.float32), 64, axis=1)
    found = count_words(descriptors, "surf", lengths, centres)
    np.testing.assert_array_equal(found, [[[1, 1, 0], [0, 0, 0]], [[2, 0, 1], [0, 1, 0]]])


def test_orb_is_counted_by_its_bits() -> None:
    words = np.zeros((2, 256), np.float32)
    words[1, :8] = 1
    descriptors = np.zeros((2, 32), np.uint8)
    descriptors[1, 0] = 0b11111000  # five of eight bits: nearer to the second word, though byte 0 is 248
    np.testing.assert_array_equal(count_words(descriptors, "orb", np.array([2]), words), [[1, 1]])


@pytest.mark.parametrize(
    ("name", "norm", "expected"),
    [
        ("svm", "l1", [0.25, 0.75, 1, 0]),
        ("gaussian_nb", "l1", [0.25, 0.75, 1, 0]),
        ("svm", "counts", [1, 3, 2, 0]),
        ("multinomial_nb", "l1", [1, 3, 2, 0]),
    ],
)
def test_histograms_of_a_pair_stand_side_by_side(name: str, norm: str, expected: list[float]) -> None:
    counts = np.array([[[1, 3], [2, 0]]], np.float32)
    section = ClassifierSection(name=name, norm=norm)  # type: ignore[arg-type]
    np.testing.assert_array_equal(pair_rows(counts, section), [expected])


def test_reversal_swaps_the_halves_and_an_image_without_words_is_told() -> None:
    counts = np.arange(16, dtype=np.float32).reshape(2, 2, 2, 2) + 1
    counts[1, 1, 0] = 0
    copies = Copies(
        pair=np.array([0, 0, 1, 1]),
        noise=np.array([0, 1, 0, 1]),
        reversed=np.array([False, True, True, False]),
        labels=np.zeros(4, np.int64),
    )
    found, seen = of_copies(counts, copies)
    np.testing.assert_array_equal(found[0], counts[0, 0])
    np.testing.assert_array_equal(found[1], counts[0, 1, ::-1])
    np.testing.assert_array_equal(found[2], counts[1, 0, ::-1])
    assert seen.tolist() == [True, True, True, False]
    assert counts[0, 1, 0, 0] == 5, "what was given is left alone"


def test_a_pair_is_usable_with_key_points_in_both_images() -> None:
    lengths = np.array([[[3, 2], [0, 0]], [[0, 4], [1, 1]], [[5, 0], [2, 2]]])  # copies do not decide
    assert usable(lengths).tolist() == [True, False, False]


def test_rbf_by_hand() -> None:
    points = np.array([[0.0, 0], [3, 4]])
    np.testing.assert_allclose(Rbf(0.1)(points, points), [[1, np.exp(-2.5)], [np.exp(-2.5), 1]])


def histograms(pairs: int = 120, words: int = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Counts of words, some of which grow or fall with the class, in the second image."""
    random, labels = np.random.default_rng(seed), np.arange(pairs) % 3
    rates = np.full((pairs, 2, words), 6.0)
    rates[:, 1, :4] += 5.0 * (labels - 1)[:, None]
    return random.poisson(rates).astype(np.float32), labels


@pytest.mark.parametrize("name", ["svm", "gaussian_nb", "multinomial_nb"])
def test_classifiers_learn_and_are_stored_without_pickle(name: str) -> None:
    section = ClassifierSection(name=name, C=10)  # type: ignore[arg-type]
    counts, labels = histograms()
    rows = pair_rows(counts, section)
    model = fit_classifier(rows, labels, np.arange(len(rows)), CLASSES, section)
    new, truth = histograms(seed=1)
    found = class_probabilities(model, pair_rows(new, section))
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)
    assert (found.argmax(axis=1) == truth).mean() > 0.85
    content = dumps(model)
    assert set(get_untrusted_types(data=content)) <= set(TRUSTED)
    again = loads(content, trusted=list(TRUSTED))
    np.testing.assert_allclose(class_probabilities(again, pair_rows(new, section)), found)


@pytest.mark.parametrize("classes", [2, 3])
def test_the_svm_decides_as_that_of_scikit_learn(classes: int) -> None:
    section = ClassifierSection(C=3)
    counts, labels = histograms()
    labels = np.minimum(labels, classes - 1)
    rows = pair_rows(counts, section)
    model = fit_classifier(rows, labels, np.arange(len(rows)), CLASSES[:classes], section)
    new = pair_rows(histograms(seed=2)[0], section)
    for output, positive in enumerate([1] if classes == 2 else range(3)):
        peer = SVC(C=3, gamma="scale").fit(rows, labels == positive, sample_weight=class_weights(labels))
        np.testing.assert_allclose(
            model.model.decision(new, model.kernel)[:, output], peer.decision_function(new), atol=5e-3
        )


@pytest.mark.parametrize(("name", "peer"), [("gaussian_nb", GaussianNB()), ("multinomial_nb", MultinomialNB())])
def test_naive_bayes_says_what_scikit_learn_says(name: Any, peer: Any) -> None:
    section = ClassifierSection(name=name)
    counts, labels = histograms()
    rows, new = (pair_rows(each, section) for each in (counts, histograms(seed=3)[0]))
    model = fit_classifier(rows, labels, np.arange(len(rows)), CLASSES, section)
    peer.fit(rows.astype(np.float64), labels)
    np.testing.assert_allclose(
        class_probabilities(model, new), peer.predict_proba(new.astype(np.float64)), rtol=1e-6, atol=1e-12
    )


def test_probabilities_of_noise_stay_modest() -> None:
    """Labels without meaning: sigmoids fitted on the training rows themselves would be sure of them."""
    random = np.random.default_rng(0)
    rows, labels = random.normal(size=(150, 20)).astype(np.float32), random.integers(2, size=150)
    model = fit_classifier(rows, labels, np.arange(150), ("a", "b"), ClassifierSection(C=100))
    assert (model.model.decision(rows, model.kernel)[:, 0] > 0).tolist() == (labels == 1).tolist()
    assert class_probabilities(model, rows).max() < 0.75


def test_classes_weigh_alike() -> None:
    np.testing.assert_allclose(class_weights(np.array([0, 0, 0, 2])), [2 / 3, 2 / 3, 2 / 3, 2])


@pytest.mark.parametrize(("weights", "expected"), [(None, (2 / 3 + 3 / 5) / 4), ([3, 1, 1, 1], (2 + 3 / 5) / 6)])
def test_a_decision_that_tells_nothing_is_answered_by_the_weighted_share(weights: Any, expected: float) -> None:
    """One of four is positive: Platt's targets are 2/3 and 1/5."""
    given = None if weights is None else np.array(weights)
    _, offset = fit_sigmoid(np.zeros(4), np.array([True, False, False, False]), given)
    assert 1 / (1 + np.exp(-offset)) == pytest.approx(expected, abs=1e-4)


def test_few_pairs_of_mostly_one_class_do_not_all_get_that_class() -> None:
    """80 pairs, 56 of them persisted; a word's share tells of the others, weakly."""
    random = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [12, 56, 12])
    rows = random.normal(size=(160, 20)).astype(np.float32)
    both = np.concatenate([labels, labels])
    rows[:, 0] += both - 1
    rows[:, 1] -= both - 1

    def called(balance: bool) -> list[int]:
        section = ClassifierSection(balance=balance)
        model = fit_classifier(rows[:80], labels, np.arange(80), CLASSES, section)
        return class_probabilities(model, rows[80:]).argmax(axis=1).tolist()

    assert set(called(False)) == {1}
    answers = called(True)
    assert set(answers) == {0, 1, 2}
    assert f1_score(labels, answers, average="macro") > 0.4 > f1_score(labels, [1] * 80, average="macro")


def test_folds_keep_groups_together_and_every_class_in_each() -> None:
    groups = np.repeat(np.arange(10), 4)
    labels = np.where(groups < 3, 0, 1)
    fold = deal(labels, groups, 3, ("rare", "common"))
    assert all(len(set(fold[groups == group])) == 1 for group in range(10))
    assert all(set(labels[fold == number]) == {0, 1} for number in range(3))
    assert set(deal(labels, groups, 20, ("rare", "common"))) == {0, 1, 2}  # three groups of the rare class


def test_a_class_that_lies_in_one_fold_is_refused() -> None:
    """Groups 0 and 2 are dealt to fold 0, 1 and 3 to fold 1; the commoner class lies in groups 0 and 2."""
    groups = np.array([0] * 5 + [1] + [2] * 5 + [3])
    labels = np.array([0, 1, 1, 1, 1, 0, 0, 1, 1, 1, 1, 0])
    with pytest.raises(UserError, match="beside every fold, those of common are all in one"):
        deal(labels, groups, 3, ("rare", "common"))


def test_a_kernel_matrix_has_a_bound() -> None:
    labels = np.arange(30_000) % 2
    with pytest.raises(UserError, match=r"of 30,000 pairs, copies counted, takes 7\.2 GB, 4\.3 GB at most"):
        fit_classifier(np.zeros((30_000, 1), np.float32), labels, np.arange(30_000), ("a", "b"), ClassifierSection())


@pytest.mark.parametrize(
    ("labels", "message"),
    [([0, 0, 2, 2], "no training pair of persisted is left"), ([0, 1, 2, 2], "two patients of each class, regressed")],
)
def test_what_cannot_be_learned_is_refused(labels: list[int], message: str) -> None:
    rows, given = np.eye(4, dtype=np.float32), np.array(labels)
    with pytest.raises(UserError, match=message):
        fit_classifier(rows, given, np.array([0, 1, 2, 3]), CLASSES, ClassifierSection())
