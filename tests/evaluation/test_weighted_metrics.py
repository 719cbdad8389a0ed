"""Every figure against scikit-learn under random weights, and by hand on a few samples."""

import numpy as np
import pytest
from sklearn import metrics as sk

from mskray.evaluation.metrics import (
    FIGURES,
    weighted_confusion,
    weighted_ece,
    weighted_figures,
    weighted_kappa,
    weighted_ranking,
)


def draw(classes: int, n: int = 200, resamples: int = 7, seed: int = 0, decimals: int | None = None):
    rng = np.random.default_rng(seed)
    label = rng.integers(classes, size=n)
    logit = rng.normal(size=(n, classes)) + 1.1 * np.eye(classes)[label]
    prob = np.exp(logit) / np.exp(logit).sum(axis=1, keepdims=True)
    if decimals is not None:  # ties
        second = np.round(prob[:, 1], decimals)
        prob = np.column_stack([1 - second, second])
    weights = rng.integers(0, 4, size=(resamples, n)).astype(float)
    return label, prob, weights


def expected_binary(label, prob, w, threshold):
    called = (prob[:, 1] >= threshold).astype(int)
    return {
        "accuracy": sk.accuracy_score(label, called, sample_weight=w),
        "balanced_accuracy": sk.balanced_accuracy_score(label, called, sample_weight=w),
        "sensitivity": sk.recall_score(label, called, sample_weight=w),
        "specificity": sk.recall_score(label, called, pos_label=0, sample_weight=w),
        "f1": sk.f1_score(label, called, sample_weight=w),
        "auroc": sk.roc_auc_score(label, prob[:, 1], sample_weight=w),
        "auprc": sk.average_precision_score(label, prob[:, 1], sample_weight=w),
        "kappa": sk.cohen_kappa_score(label, called, sample_weight=w),
        "brier": sk.brier_score_loss(label, prob[:, 1], sample_weight=w),
    }


def expected_multiclass(label, prob, w):
    called = prob.argmax(axis=1)
    one_hot = np.eye(prob.shape[1])[label]
    specificities = [
        sk.recall_score(label != index, called != index, sample_weight=w) for index in range(prob.shape[1])
    ]
    return {
        "accuracy": sk.accuracy_score(label, called, sample_weight=w),
        "balanced_accuracy": sk.balanced_accuracy_score(label, called, sample_weight=w),
        "sensitivity": sk.recall_score(label, called, average="macro", sample_weight=w),
        "specificity": np.mean(specificities),
        "f1": sk.f1_score(label, called, average="macro", sample_weight=w),
        "auroc": sk.roc_auc_score(one_hot, prob, average="macro", sample_weight=w),
        "auprc": sk.average_precision_score(one_hot, prob, average="macro", sample_weight=w),
        "kappa": sk.cohen_kappa_score(label, called, sample_weight=w),
        "quadratic_kappa": sk.cohen_kappa_score(label, called, weights="quadratic", sample_weight=w),
        "brier": np.average(((prob - one_hot) ** 2).sum(axis=1), weights=w),
    }


@pytest.mark.parametrize("threshold", [0.5, 0.3])
@pytest.mark.parametrize("decimals", [None, 1])
def test_binary_figures_equal_scikit_learns(threshold, decimals):
    label, prob, weights = draw(2, decimals=decimals)
    figures = weighted_figures(label, prob, weights, threshold=threshold)
    for row, w in enumerate(weights):
        for name, value in expected_binary(label, prob, w, threshold).items():
            assert figures[name][row] == pytest.approx(value, abs=1e-12), name


@pytest.mark.parametrize("classes", [3, 5])
def test_multiclass_figures_equal_scikit_learns(classes):
    label, prob, weights = draw(classes)
    figures = weighted_figures(label, prob, weights, ordinal=True)
    assert set(figures) == set(FIGURES)
    for row, w in enumerate(weights):
        for name, value in expected_multiclass(label, prob, w).items():
            assert figures[name][row] == pytest.approx(value, abs=1e-12), name


def test_a_class_that_never_occurs_is_left_out_of_the_averages():
    label, prob, weights = draw(4)
    label[label == 2] = 0
    figures = weighted_figures(label, prob, weights[:1])
    present = [0, 1, 3]
    recalls = sk.recall_score(label, prob.argmax(axis=1), labels=present, average="macro", sample_weight=weights[0])
    areas = [sk.roc_auc_score(label == index, prob[:, index], sample_weight=weights[0]) for index in present]
    assert figures["sensitivity"][0] == pytest.approx(recalls)
    assert figures["auroc"][0] == pytest.approx(np.mean(areas))


@pytest.mark.parametrize(
    ("score", "positive", "auroc", "auprc"),
    [
        ([0.9, 0.8, 0.2, 0.1], [1, 1, 0, 0], 1.0, 1.0),
        ([0.9, 0.8, 0.2, 0.1], [0, 0, 1, 1], 0.0, (1 / 3 + 2 / 4) / 2),
        ([0.9, 0.8, 0.2, 0.1], [1, 0, 1, 0], 0.75, (1 + 2 / 3) / 2),
        ([0.5, 0.5, 0.5, 0.5], [1, 0, 1, 0], 0.5, 0.5),  # all tied: chance
        ([0.7, 0.7, 0.1], [1, 0, 0], 0.75, 0.5),  # a tie counts as half
    ],
)
def test_ranking_by_hand(score, positive, auroc, auprc):
    found = weighted_ranking(np.array(positive, bool), np.array(score), np.ones((1, len(score))))
    assert [float(value[0]) for value in found] == pytest.approx([auroc, auprc])


@pytest.mark.parametrize(
    ("confidence", "correct", "weights", "ece"),
    [
        ([0.95, 0.95], [1, 1], [1, 1], 0.05),
        ([0.25, 0.25, 0.85, 0.85], [0, 0, 1, 0], [1, 1, 1, 1], 0.5 * 0.25 + 0.5 * 0.35),
        ([0.25, 0.25, 0.85, 0.85], [0, 0, 1, 0], [0, 0, 3, 1], 0.1),
        ([0.0, 1.0], [0, 1], [1, 1], 0.0),  # both ends belong to a bin
        ([0.42, 0.48], [0, 1], [1, 1], 0.05),  # one bin: gaps of opposite sign cancel
    ],
)
def test_calibration_error_by_hand(confidence, correct, weights, ece):
    found = weighted_ece(np.array(confidence), np.array(correct, float), np.array([weights], float))
    assert float(found[0]) == pytest.approx(ece)


def test_confusion_has_truth_in_rows():
    label, called = np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1])
    confusion = weighted_confusion(label, called, np.array([[1.0, 2.0, 3.0, 0.0]]), 2)
    assert confusion.tolist() == [[[1, 2], [0, 3]]]


def test_quadratic_kappa_forgives_near_misses():
    near = np.array([[[5, 5, 0], [0, 10, 0], [0, 5, 5]]], float)
    far = np.array([[[5, 0, 5], [0, 10, 0], [5, 0, 5]]], float)
    assert weighted_kappa(near, quadratic=True)[0] > weighted_kappa(far, quadratic=True)[0]
    assert weighted_kappa(near, quadratic=False)[0] > weighted_kappa(near * 0 + 1, quadratic=False)[0]


@pytest.mark.parametrize(
    ("dropped", "undefined"),
    [
        (1, {"balanced_accuracy", "sensitivity", "f1", "auroc", "auprc"}),
        (0, {"balanced_accuracy", "specificity", "auroc", "auprc"}),
    ],
)
def test_a_resample_without_a_class_leaves_its_figures_undefined(dropped, undefined):
    label, prob, _ = draw(2, n=50)
    figures = weighted_figures(label, prob, (label != dropped)[None].astype(float))
    assert {name for name, value in figures.items() if np.isnan(value[0])} == undefined
