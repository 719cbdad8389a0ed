"""The figures of gradings, worked out by hand."""

import numpy as np
import pytest

from mskray.errors import UserError
from mskray.evaluation.bootstrap import MINIMUM_PATIENTS
from mskray.evaluation.grading import (
    MAIN,
    average_per_class_accuracy,
    grade,
    intra_rater,
    mean_and_sd,
    weighted_grading,
)

# Ten discs: grade 0 four times, three of them right; 1 three times, two right; 2 once, wrong; 3 twice, one right.
TRUTH = np.array([0, 0, 0, 0, 1, 1, 1, 2, 3, 3])
CALLED = np.array([0, 0, 0, 1, 1, 1, 3, 1, 3, 1])
GRADES = ("none", "slight", "moderate", "severe")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (MAIN, (3 / 4 + 2 / 3 + 0 + 1 / 2) / 4),
        ("accuracy", 6 / 10),
        ("within_one", 8 / 10),  # wrong by two: 1 called 3, 3 called 1
        ("normal_abnormal", 9 / 10),  # one normal disc was called slight
        ("kappa", (0.6 - 0.31) / (1 - 0.31)),  # by chance (4 · 3 + 3 · 5 + 1 · 0 + 2 · 2) / 100
    ],
)
def test_figures_by_hand(name: str, expected: float) -> None:
    assert weighted_grading(TRUTH, CALLED, np.ones((1, 10)), 4)[name][0] == pytest.approx(expected)


def test_quadratic_kappa_by_hand() -> None:
    # Squared distances seen: 1 (0→1), 4 (1→3), 1 (2→1), 4 (3→1) = 10. Expected: Σ rᵢ cⱼ (i−j)² / 10.
    rows, columns, grades = np.array([4, 3, 1, 2]), np.array([3, 5, 0, 2]), np.arange(4)
    expected = (rows[:, None] * columns * (grades[:, None] - grades) ** 2).sum() / 10
    found = weighted_grading(TRUTH, CALLED, np.ones((1, 10)), 4)["quadratic_kappa"][0]
    assert found == pytest.approx(1 - 10 / expected)


def test_a_class_that_does_not_occur_is_not_averaged() -> None:
    assert average_per_class_accuracy(np.array([0, 0, 2]), np.array([0, 1, 2]), 3) == pytest.approx((0.5 + 1) / 2)


def test_two_classes_and_unordered_ones_have_no_grades_apart() -> None:
    ones = np.ones((1, 4))
    binary = weighted_grading(np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1]), ones, 2)
    assert binary[MAIN][0] == pytest.approx((2 / 3 + 1) / 2)
    assert set(binary) == {MAIN, "accuracy", "kappa", "normal_abnormal"}
    assert binary["normal_abnormal"][0] == binary["accuracy"][0] == 3 / 4
    unordered = weighted_grading(np.array([0, 1, 2, 2]), np.array([0, 1, 2, 2]), ones, 3, ordinal=False)
    assert set(unordered) == {MAIN, "accuracy", "kappa"}


def test_weights_count_samples_as_often_as_they_were_drawn() -> None:
    doubled = np.r_[np.arange(10), 0, 3]
    weights = np.bincount(doubled, minlength=10)[None].astype(float)
    found = weighted_grading(TRUTH, CALLED, weights, 4)
    expected = weighted_grading(TRUTH[doubled], CALLED[doubled], np.ones((1, 12)), 4)
    assert {name: values[0] for name, values in found.items()} == pytest.approx(
        {name: values[0] for name, values in expected.items()}
    )


def test_missing_labels_count_in_no_figure() -> None:
    people = np.repeat([f"p{n}" for n in range(20)], 10)
    truth, called = np.tile(TRUTH, 20), np.tile(CALLED, 20)
    whole = grade("narrowing", GRADES, truth, called, people, resamples=100)
    more = np.full(7, -1)
    found = grade(
        "narrowing", GRADES, np.r_[truth, more], np.r_[called, more + 1], np.r_[people, ["p0"] * 7], resamples=100
    )
    assert (found.n, found.unlabelled, found.patients) == (200, 7, 20)
    assert found.figures == whole.figures
    assert found.confusion == [[60, 20, 0, 0], [0, 40, 0, 20], [0, 20, 0, 0], [0, 20, 0, 20]]
    assert {name: each.value for name, each in found.per_class.items()} == pytest.approx(
        {"none": 0.75, "slight": 0.666667, "moderate": 0.0, "severe": 0.5}
    )
    assert found.per_class["moderate"].n == 20


def test_intervals_resample_patients_as_wholes() -> None:
    # Every patient is all right or all wrong: by disc the interval would be a tenth as wide as by patient.
    right = np.repeat(np.arange(40) % 2 == 0, 100)
    truth = np.tile(np.arange(100) % 2, 40)
    called = np.where(right, truth, 1 - truth)
    figure = grade("task", ("no", "yes"), truth, called, np.repeat(np.arange(40), 100), resamples=500).figures[MAIN]
    assert figure.value == 0.5
    assert figure.low is not None
    assert figure.high is not None
    assert 0.25 < figure.high - figure.low < 0.4  # 2 · 1.96 · √(0.25 / 40) = 0.31


def test_what_cannot_be_told_has_a_reason() -> None:
    people = np.arange(10)
    absent = grade("narrowing", (*GRADES, "fused"), TRUTH, CALLED, people, resamples=100)
    assert absent.per_class["fused"].value is None
    assert absent.per_class["fused"].reason == "no sample is fused"
    few = grade("narrowing", GRADES, TRUTH, CALLED, people % (MINIMUM_PATIENTS - 1), resamples=100)
    assert "at least" in (few.figures[MAIN].reason or "")
    assert few.to_dict()["figures"][MAIN]["value"] is None
    with pytest.raises(UserError, match="none of the 2 samples has a label"):
        grade("narrowing", GRADES, np.array([-1, -1]), np.array([0, 1]), np.arange(2))


def test_intra_rater_agreement_is_where_both_readings_are() -> None:
    first = np.array([0, 0, 0, 1, 1, -1, 0])
    second = np.array([0, 0, 1, 1, 0, 1, -1])
    assert intra_rater(first, second, 2) == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert intra_rater(first, np.full(7, -1), 2) is None


def test_the_deviation_of_two_models_is_that_of_a_sample() -> None:
    mean, deviation = mean_and_sd([0.70, 0.72])
    assert mean == pytest.approx(0.71)
    assert deviation == pytest.approx(0.02 / np.sqrt(2))
    assert np.isnan(mean_and_sd([0.7])[1])
