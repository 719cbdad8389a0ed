"""Patients and splits: shares, strata, reproducibility, and what a growing source may move."""

from collections import Counter

import pytest

from mskray.cohorts.splits import assign, check_fractions, own_split
from mskray.errors import UserError

PATIENTS = [f"{number:016x}" for number in range(400)]
STRATA = [(number % 2, ("ELBOW", "HAND")[number % 4 // 2]) for number in range(400)]


@pytest.mark.parametrize(
    ("fractions", "expected"),
    [
        ((0.7, 0.15, 0.15), {"train": 280, "validation": 60, "test": 60}),
        ((0.9, 0.1, 0.0), {"train": 360, "validation": 40}),
        ((0.0, 0.0, 1.0), {"test": 400}),
        ((1.0, 0.0, 0.0), {"train": 400}),
        ((0.0, 0.5, 0.5), {"validation": 200, "test": 200}),
    ],
)
def test_shares_hold_in_every_stratum(fractions, expected):
    splits = assign(PATIENTS, STRATA, fractions, seed=1)
    assert Counter(splits) == {split: pytest.approx(count, abs=4) for split, count in expected.items()}
    for stratum in set(STRATA):
        inside = Counter(split for split, its in zip(splits, STRATA, strict=True) if its == stratum)
        for split, count in expected.items():
            assert inside[split] == pytest.approx(count / 4, abs=1)


@pytest.mark.parametrize("fractions", [(0.5, 0.3, 0.1), (1.2, -0.1, -0.1), (0.5, 0.5), (float("nan"), 0.5, 0.5)])
def test_fractions_that_do_not_fit_are_refused(fractions):
    with pytest.raises(UserError, match="fractions"):
        check_fractions(fractions)


def test_same_seed_same_split_other_seed_other_split():
    first = assign(PATIENTS, STRATA, (0.7, 0.15, 0.15), seed=1)
    assert assign(PATIENTS, STRATA, (0.7, 0.15, 0.15), seed=1) == first
    assert assign(PATIENTS, STRATA, (0.7, 0.15, 0.15), seed=2) != first


def test_order_of_patients_does_not_matter():
    forward = dict(zip(PATIENTS, assign(PATIENTS, STRATA, (0.7, 0.15, 0.15), seed=3), strict=True))
    backward = dict(zip(PATIENTS[::-1], assign(PATIENTS[::-1], STRATA[::-1], (0.7, 0.15, 0.15), seed=3), strict=True))
    assert forward == backward


def test_a_new_patient_moves_at_most_one_per_border():
    before = assign(PATIENTS, STRATA, (0.7, 0.15, 0.15), seed=4)
    after = assign([*PATIENTS, "f" * 16], [*STRATA, (0, "HAND")], (0.7, 0.15, 0.15), seed=4)
    assert sum(old != new for old, new in zip(before, after, strict=False)) <= 2


@pytest.mark.parametrize("patients", [3, 4, 7, 20])
def test_few_patients_of_many_strata_still_fill_every_split(patients):
    names = PATIENTS[:patients]
    splits = assign(names, [(0, f"PART{number}") for number in range(patients)], (0.7, 0.15, 0.15), seed=0)
    assert set(splits) == {"train", "validation", "test"}


@pytest.mark.parametrize(
    ("images", "kept"),
    [
        ({"train": 3, "test": 1}, "train"),
        ({"train": 1, "test": 2}, "test"),
        ({"train": 2, "test": 2}, "test"),
        ({"train": 2, "validation": 2}, "validation"),
        ({"validation": 1, "test": 1}, "test"),
    ],
)
def test_a_patient_in_two_splits_of_the_source_keeps_one(images, kept):
    assert own_split(images) == kept
