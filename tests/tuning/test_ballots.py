"""Votes by hand: who counts how much, and figures as the evaluation has them of the same mean."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from mskray.evaluation.result import evaluate
from mskray.storage import locate
from mskray.training.run import Resources
from mskray.tuning.ballots import Ballots, weights_of
from mskray.tuning.ledger import Ledger, TrialRecord
from mskray.tuning.ray_trial import Plan

CLASSES = ("lying", "standing")
# Of six images, two a study: the first member is right of the first four, the second of the last four.
LABELS = [0, 0, 1, 1, 1, 1]
SURE = {"a": [0.1, 0.2, 0.9, 0.8, 0.3, 0.4], "b": [0.7, 0.6, 0.9, 0.6, 0.9, 0.9], "c": [0.5] * 6}
COSTS = {"a": (1.0, 10.0), "b": (2.0, 20.0), "c": (4.0, 40.0)}


def ballots(kind: str = "radiograph") -> Ballots:
    studies = [f"s{number // 2}" for number in range(6)]
    rows = {"instance_id": [f"i{number}" for number in range(6)], "study_id": studies, "patient_id": studies}
    standing = np.array(list(SURE.values()), np.float32)
    return Ballots(
        names=tuple(SURE),
        rows=pa.table({**rows, "body_part": ["HAND"] * 6, "label": pa.array(LABELS, pa.int32())}),
        prob=np.stack([1 - standing, standing], axis=2),
        costs=tuple({"latency_ms": latency, "size_mb": size} for latency, size in COSTS.values()),
        classes=CLASSES,
        ordinal=False,
        kind=kind,
    )


@pytest.mark.parametrize(
    ("weights", "standing"),
    [
        ({"a": 1.0}, SURE["a"]),
        ({"a": 0.5, "b": 0.5}, [0.4, 0.4, 0.9, 0.7, 0.6, 0.65]),
        ({"b": 3.0, "a": 1.0}, [0.55, 0.5, 0.9, 0.65, 0.75, 0.775]),
        ({"a": 2.0, "b": 1.0, "c": 1.0}, [0.35, 0.375, 0.8, 0.675, 0.5, 0.55]),
    ],
)
def test_a_vote_is_the_weighted_mean(weights: dict[str, float], standing: list[float]) -> None:
    given = ballots()
    vote = given.vote(weights)
    np.testing.assert_allclose(vote[:, 1], standing, rtol=1e-6)
    np.testing.assert_allclose(vote.sum(axis=1), 1, rtol=1e-6)
    figures = given.judged(weights)
    assert figures["latency_ms"] == sum(COSTS[name][0] for name in weights)
    assert figures["size_mb"] == sum(COSTS[name][1] for name in weights)


@pytest.mark.parametrize("weights", [{"a": 1.0}, {"b": 0.2, "a": 0.7}, {"c": 3.0, "a": 2.0, "b": 1.0}])
def test_figures_are_those_of_the_evaluation_of_the_mean(weights: dict[str, float]) -> None:
    random = np.random.default_rng(5)
    labels = random.integers(0, 2, 80)
    standing = np.clip(labels * 0.4 + random.normal(0.3, 0.25, (3, 80)), 0.01, 0.99).astype(np.float32)
    studies = [f"s{number // 2}" for number in range(80)]
    rows = {"instance_id": [f"i{number:02}" for number in range(80)], "study_id": studies, "patient_id": studies}
    given = replace(
        ballots(), rows=pa.table({**rows, "label": labels}), prob=np.stack([1 - standing, standing], axis=2)
    )
    mean = sum(weight * standing["abc".index(name)].astype(float) for name, weight in weights.items())
    mean = mean / sum(weights.values())
    result = evaluate(
        pa.table({**rows, "label": labels, "prob_lying": 1 - mean, "prob_standing": mean}), CLASSES, resamples=100
    )
    figures = given.judged(weights)
    for level, there in (("study", result.study), ("image", result.image)):
        expected = {name: each.value for name, each in there.overall.figures.items() if each.value is not None}
        assert {"accuracy", "auroc", "kappa", "brier"} < set(expected)
        for name, value in expected.items():
            assert figures[f"validation.{level}.{name}"] == pytest.approx(value, abs=1e-5), name


def test_two_who_err_on_different_images_are_right_together() -> None:
    given = ballots()
    accuracy = "validation.image.accuracy"
    assert given.judged({"a": 1.0})[accuracy] == pytest.approx(4 / 6)
    assert given.judged({"b": 1.0})[accuracy] == pytest.approx(4 / 6)
    assert given.judged({"a": 0.5, "b": 0.5})[accuracy] == 1.0


def test_a_disc_is_judged_for_itself() -> None:
    figures = ballots("disc").judged({"a": 1.0})
    assert figures["validation.study.accuracy"] == figures["validation.image.accuracy"] == pytest.approx(4 / 6)
    assert ballots().judged({"a": 1.0})["validation.study.accuracy"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((0.5, True), (0.25, True), {"a": 0.5, "b": 0.25}),
        ((0.5, True), (0.25, False), {"a": 0.5}),
        ((0.0, True), (1, True), {"b": 1.0}),
        ((0.0, True), (1.0, False), {}),
    ],
)
def test_who_is_out_or_weighs_nothing_does_not_vote(
    a: tuple[float, bool], b: tuple[float, bool], expected: dict[str, float]
) -> None:
    members = {name: {"weight": weight, "member": member} for name, (weight, member) in (("a", a), ("b", b))}
    assert weights_of(members) == expected


@pytest.mark.parametrize("metric", ["validation.study.kappa", "validation.study.quadratic_kappa"])
def test_as_a_trial_a_vote_writes_its_record(tmp_path: Path, metric: str) -> None:
    ledger = Ledger(locate(tmp_path))
    base = {"members": {name: {"weight": 1.0, "member": True} for name in SURE}}
    plan = Plan(ledger, "ensemble", "", "type", base, Resources(), 1, 0, metric)
    values = {"members.b.weight": 0.5, "members.c.member": False}
    ended = ballots()(plan, TrialRecord(id="ab", number=3, parameters=values), lambda event: None)
    assert ledger.trial("ab") == ended
    if metric.endswith("quadratic_kappa"):  # two classes are no grades
        assert (ended.state, ended.figures) == ("failed", {})
        assert "metric validation.study.quadratic_kappa is never reported by family ensemble" in ended.reason
    else:
        assert (ended.state, ended.number, ended.parameters) == ("finished", 3, values)
        assert ended.figures == ballots().judged({"a": 1.0, "b": 0.5})
        assert ended.started
        assert ended.ended


def test_grades_have_a_quadratic_kappa() -> None:
    three = replace(ballots(), classes=("none", "some", "much"), ordinal=True)
    prob = np.zeros((3, 6, 3), np.float32)
    prob[:, np.arange(6), [0, 0, 1, 1, 2, 2]] = 1
    graded = replace(three, prob=prob, rows=three.rows.set_column(4, "label", pa.array([0, 0, 1, 1, 2, 2], pa.int32())))
    assert graded.judged({"a": 1.0})["validation.image.quadratic_kappa"] == 1.0
