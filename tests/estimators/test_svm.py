"""Kernel, bags, probabilities and routing of bagged SVMs, on small arrays and without a cluster."""

import numpy as np
import pytest
from sklearn.ensemble import BaggingClassifier
from sklearn.multiclass import OneVsRestClassifier
from sklearn.svm import SVC

from mskray.estimators.bags import BagSection, SvmSection, draw_bag, models_for
from mskray.estimators.svm import (
    ALL_PARTS,
    BaggedSVM,
    FittedBag,
    PartModel,
    Polynomial,
    Standard,
    fit_sigmoid,
    fit_svms,
    mean_of_bags,
)

RAW = Standard(np.zeros(2, np.float32), np.ones(2, np.float32))


def bundled(vectors: np.ndarray, duals: np.ndarray, intercepts: np.ndarray, standard: Standard = RAW) -> PartModel:
    outputs = len(intercepts)
    return PartModel(standard, vectors.astype(np.float32), duals, intercepts, np.ones(outputs), np.zeros(outputs))


def test_two_points_by_hand() -> None:
    """Two points x₁, x₂ of either class: α = 2 / (k₁₁ + k₂₂ − 2 k₁₂), f(x) = α (k(x₁, x) − k(x₂, x)) + b, f(x₁) = 1."""
    points, kernel = np.array([[2.0, 0.0], [0.0, 1.0]]), Polynomial(degree=5, gamma=0.5, coef0=1.0)
    gram = kernel(points, points)
    # (0.5 · 4 + 1)⁵ = 243, (0.5 · 1 + 1)⁵ = 7.59375, (0.5 · 0 + 1)⁵ = 1
    np.testing.assert_allclose(gram, [[243, 1], [1, 7.59375]])
    duals, intercepts = fit_svms(gram, np.array([1, 0]), np.ones(2), 2, C=1e3, cache_mb=1)
    alpha = 2 / (243 + 7.59375 - 2)
    np.testing.assert_allclose(duals, [[alpha, -alpha]], rtol=1e-6)
    # k(x₁, (1, 1)) = (0.5 · 2 + 1)⁵ = 32, k(x₂, (1, 1)) = 1.5⁵ = 7.59375
    expected = alpha * (32 - 7.59375) + 1 - alpha * (243 - 1)
    model = bundled(points, duals, intercepts)
    np.testing.assert_allclose(model.decision(np.array([[1.0, 1.0]]), kernel), [[expected]], rtol=1e-6)
    np.testing.assert_allclose(model.decision(points, kernel), [[1], [-1]], rtol=1e-6)


def cloud(rows: int, classes: int, features: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Overlapping classes, so that not every row is judged well and coefficients reach C."""
    random = np.random.default_rng(seed)
    labels = np.arange(rows) % classes
    return (random.normal(size=(rows, features)) + random.normal(size=(classes, features))[labels]).astype(
        np.float32
    ), labels


@pytest.mark.parametrize("classes", [2, 3])
def test_bags_decide_as_those_of_scikit_learn(classes: int) -> None:
    """OneVsRestClassifier(BaggingClassifier(SVC)) on the same bags: the same decisions, for new rows too."""
    features, labels = cloud(160, classes)
    svc = SVC(kernel="poly", degree=5, gamma=1 / 6, coef0=1.0, C=0.3)
    peer = OneVsRestClassifier(BaggingClassifier(svc, n_estimators=10, max_samples=0.3, random_state=3))
    peer.fit(features.astype(np.float64), labels)
    kernel, bags = Polynomial(5, 1 / 6, 1.0), []
    for drawn in peer.estimators_[0].estimators_samples_:
        rows, counts = np.unique(drawn, return_counts=True)
        gram = kernel(features[rows], features[rows])
        bags.append(FittedBag(rows, *fit_svms(gram, labels[rows], counts, classes, 0.3, 10)))
    assert any(len(bag.rows) < 48 for bag in bags), "no row was drawn twice"
    used, duals, intercepts = mean_of_bags(np.arange(160), bags)
    standard = Standard(np.zeros(6, np.float32), np.ones(6, np.float32))
    new = cloud(50, classes, seed=1)[0]
    found = bundled(features[used], duals, intercepts, standard).decision(new, kernel)
    expected = peer.decision_function(new.astype(np.float64)).reshape(50, -1)
    np.testing.assert_allclose(found, expected, rtol=5e-3, atol=5e-3)  # libsvm stops at a tolerance of 1e-3
    assert found.std() > 0.2


def test_a_constant_feature_is_standardised_to_nothing() -> None:
    values = np.random.default_rng(0).normal([3, 1e4, 7], [2, 5, 0], size=(500, 3)).astype(np.float32)
    wide = values.astype(np.float64)
    found = Standard.of(500, wide.sum(axis=0), np.square(wide).sum(axis=0))(values)
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-3)
    np.testing.assert_allclose(found.std(axis=0), [1, 1, 0], atol=1e-3)


def test_the_sigmoid_recovers_the_probabilities_that_labels_were_drawn_with() -> None:
    random = np.random.default_rng(0)
    decision = random.normal(0, 3, 20_000)
    positive = random.random(20_000) < 1 / (1 + np.exp(-(0.7 * decision - 0.4)))
    assert fit_sigmoid(decision, positive) == pytest.approx((0.7, -0.4), abs=0.03)


def test_the_sigmoid_stays_finite_and_never_turns_the_order_round() -> None:
    decision, positive = np.array([-2.0, -1, 1, 2]), np.array([False, False, True, True])
    slope, offset = fit_sigmoid(decision, positive)
    assert 0 < slope < 10  # without Platt's targets it would grow without end
    # Ends are judged by (2 + 1)/(2 + 2) at most: what two images of a class can say.
    assert 0.6 < 1 / (1 + np.exp(-(slope * 2 + offset))) < 0.95
    slope, offset = fit_sigmoid(-decision, positive)
    assert slope == 0
    assert offset == pytest.approx(0, abs=1e-6)


def constant(decisions: list[float]) -> PartModel:
    """A model that decides the same for everything."""
    return bundled(np.zeros((1, 2)), np.zeros((len(decisions), 1)), np.array(decisions, np.float64))


def test_each_body_part_has_its_model_and_strangers_that_over_all() -> None:
    model = BaggedSVM(
        Polynomial(5, 0.5, 1.0), {ALL_PARTS: constant([-9]), "HAND": constant([9]), "KNEE": constant([0])}
    )
    parts = ["HAND", "SKULL", "KNEE", "", "HAND"]
    found = model.probabilities(np.zeros((5, 2), np.float32), parts)
    np.testing.assert_allclose(found[:, 1], [1, 0, 0.5, 0, 1], atol=1e-3)
    np.testing.assert_allclose(found.sum(axis=1), 1)


@pytest.mark.parametrize("decisions", [[-500.0, -500, -500], [0.0, 3, -2], [500.0, 500, 0]])
def test_one_vs_rest_probabilities_sum_to_one(decisions: list[float]) -> None:
    model = BaggedSVM(Polynomial(5, 0.5, 1.0), {ALL_PARTS: constant(decisions)})
    found = model.probabilities(np.zeros((2, 2), np.float32), ["", ""])
    np.testing.assert_allclose(found.sum(axis=1), 1)
    assert (np.argsort(found[0], kind="stable")[-1]) in np.flatnonzero(np.array(decisions) == max(decisions))


def test_degree_5_solves_what_no_line_does() -> None:
    """Labels by the sign of a product: a linear machine is at chance, the paper's kernel is not."""
    random = np.random.default_rng(0)
    features = random.normal(size=(600, 2)).astype(np.float32)
    labels = (features[:, 0] * features[:, 1] > 0).astype(int)
    accuracy = {}
    for degree in (1, 5):
        kernel = Polynomial(degree, 0.5, 1.0)
        gram = kernel(features[:400], features[:400])
        model = bundled(features[:400], *fit_svms(gram, labels[:400], np.ones(400), 2, 1.0, 10))
        accuracy[degree] = ((model.decision(features[400:], kernel)[:, 0] > 0) == labels[400:]).mean()
    assert accuracy[1] < 0.65
    assert accuracy[5] > 0.9


def test_a_bag_has_every_class_in_proportion_and_no_more_rows_than_it_may() -> None:
    labels = np.array([0] * 900 + [1] * 98 + [2] * 2)
    bag = draw_bag(labels, BagSection(max_samples=0.1), (0, 0))
    drawn = np.bincount(labels[bag.rows], weights=bag.counts)
    np.testing.assert_array_equal(drawn, [90, 9, 1])
    assert (np.diff(bag.rows) > 0).all()
    again, other = (draw_bag(labels, BagSection(max_samples=0.1), (0, number)) for number in (0, 1))
    np.testing.assert_array_equal(bag.rows, again.rows)
    assert not np.array_equal(bag.rows, other.rows)
    assert draw_bag(labels, BagSection(max_samples=1, most_rows=50), (0, 0)).counts.sum() <= 50 + 3


@pytest.mark.parametrize(
    ("changes", "names", "named"),
    [
        ({}, [ALL_PARTS, "HAND"], "without a body part 5, KNEE 1"),
        ({"least_images": 6}, [ALL_PARTS], "without a body part 5, HAND 5, KNEE 1"),
        ({"per_part": False}, [ALL_PARTS], ""),
    ],
)
def test_a_body_part_with_too_few_images_is_named(changes: dict, names: list[str], named: str) -> None:
    parts = np.array(["HAND"] * 10 + ["KNEE"] * 10 + [""] * 10, dtype=object)
    labels = np.array([0, 1] * 5 + [0] * 9 + [1] + [0, 1] * 5)
    section = SvmSection(**{"least_images": 5, **changes})
    found, said = models_for((parts, parts), (labels, labels), 2, section)
    assert found == names
    assert [line.rpartition(": ")[2] for line in said] == ([named] if named else [])


def test_one_body_part_is_all_of_them() -> None:
    parts, labels = np.array(["KNEE"] * 40, dtype=object), np.array([0, 1] * 20)
    assert models_for((parts, parts), (labels, labels), 2, SvmSection()) == ([ALL_PARTS], [])


def test_features_are_standardised_in_place_to_the_same_bits() -> None:
    features = np.random.default_rng(0).gamma(0.5, 10, (300, 64)).astype(np.float32)
    features[:, 3] = 7.0
    rows = features.astype(np.float64)
    standard = Standard.of(len(rows), rows.sum(axis=0), np.square(rows).sum(axis=0))
    apart = (features - standard.mean) / standard.scale
    assert standard(features, out=features) is features
    np.testing.assert_array_equal(features, apart)
    assert not features[:, 3].any()
