"""Temperatures and thresholds: recovered where the truth is known, refused where there is none."""

import numpy as np
import pytest

from mskray.errors import UserError
from mskray.evaluation.calibration import (
    TEMPERATURES,
    apply_temperature,
    decision,
    fit_temperature,
    negative_log_likelihood,
    reliability,
    youden_threshold,
)


def calibrated(classes: int, n: int = 20_000, seed: int = 0):
    """Probabilities (n, C) and labels drawn from them, so that the probabilities are true."""
    rng = np.random.default_rng(seed)
    prob = rng.dirichlet(np.ones(classes), n)
    label = (rng.random((n, 1)) > prob.cumsum(axis=1)).sum(axis=1)
    return prob, np.minimum(label, classes - 1)


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_that_spoilt_the_probabilities_is_found(classes, temperature):
    prob, label = calibrated(classes)
    spoilt = apply_temperature(prob, 1 / temperature)
    found = fit_temperature(spoilt, label)
    assert found == pytest.approx(temperature, rel=0.05)
    mended = apply_temperature(spoilt, found)
    assert negative_log_likelihood(mended, label) <= negative_log_likelihood(spoilt, label)
    assert (mended.argmax(axis=1) == prob.argmax(axis=1)).all()


def test_temperature_is_that_of_the_logits():
    logit = np.array([[2.0, -1.0, 0.5], [0.0, 3.0, 3.0]])
    prob = np.exp(logit) / np.exp(logit).sum(axis=1, keepdims=True)
    cooled = np.exp(logit / 3) / np.exp(logit / 3).sum(axis=1, keepdims=True)
    assert apply_temperature(prob, 3.0) == pytest.approx(cooled)


def test_saturated_probabilities_stay_finite():
    prob = np.array([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]], np.float32)
    label = np.array([1, 0, 0, 0])
    found = fit_temperature(prob, label)
    assert TEMPERATURES[0] <= found <= TEMPERATURES[1]
    assert np.isfinite(apply_temperature(prob, found)).all()


@pytest.mark.parametrize(
    ("score", "label", "low", "high"),
    [
        ([0.1, 0.2, 0.7, 0.9], [0, 0, 1, 1], 0.45, 0.45),  # halfway between the classes
        ([0.1, 0.3, 0.2, 0.9], [0, 0, 1, 1], 0.15, 0.15),  # of equally good ones, the one that misses least
        ([0.9, 0.8, 0.1, 0.2], [0, 0, 1, 1], 0.1, 0.1),  # worse than chance: call everything
    ],
)
def test_youden_threshold(score, label, low, high):
    found = youden_threshold(np.array(label), np.array(score))
    assert low - 1e-9 <= found <= high + 1e-9


def test_youden_is_the_best_of_all_thresholds():
    rng = np.random.default_rng(0)
    label = rng.integers(2, size=300)
    score = np.clip(0.3 + 0.2 * label + rng.normal(0, 0.2, 300), 0, 1)

    def youden(threshold):
        called = score >= threshold
        return called[label == 1].mean() - called[label == 0].mean()

    assert youden(youden_threshold(label, score)) == pytest.approx(max(youden(value) for value in score))


@pytest.mark.parametrize("label", [[], [0, 0, 0], [1]])
def test_one_class_fits_nothing(label):
    labels = np.array(label, int)
    prob = np.full((labels.size, 2), 0.5)
    with pytest.raises(UserError, match="fewer than two classes"):
        fit_temperature(prob, labels)
    with pytest.raises(UserError, match="fewer than two classes"):
        youden_threshold(labels, prob[:, 1])


def test_reliability_bins_hold_every_sample_once():
    confidence = np.array([0.0, 0.05, 0.1, 0.55, 0.95, 1.0])
    bins = reliability(confidence, np.array([0, 1, 1, 0, 1, 1.0]))
    assert [b.n for b in bins] == [2, 1, 0, 0, 0, 1, 0, 0, 0, 2]
    assert (bins[0].stated, bins[0].observed) == pytest.approx((0.025, 0.5))
    assert (bins[2].stated, bins[2].observed) == (None, None)
    assert (bins[9].low, bins[9].high) == (0.9, 1.0)


@pytest.mark.parametrize(
    ("prob", "threshold", "called"),
    [
        ([[0.6, 0.4], [0.5, 0.5], [0.2, 0.8]], 0.5, [0, 1, 1]),
        ([[0.6, 0.4], [0.5, 0.5], [0.2, 0.8]], 0.6, [0, 0, 1]),
        ([[0.6, 0.3, 0.1], [0.2, 0.3, 0.5]], 0.9, [0, 2]),  # the threshold is for two classes only
    ],
)
def test_decision(prob, threshold, called):
    assert decision(np.array(prob), threshold).tolist() == called
