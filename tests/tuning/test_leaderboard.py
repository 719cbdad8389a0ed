"""Trials in order: by mean over seeds, and what cannot be ranked after what can."""

import subprocess
import sys

import pytest
from searches import KAPPA, description, trial

from mskray.errors import UserError
from mskray.tuning.leaderboard import Summary, pareto, ranked, winner

LATENCY = "latency_ms"


def numbers(rows):
    return [[each.number for each in row.trials] for row in rows]


def test_finished_trials_come_by_the_metric_and_the_others_after_them():
    records = [
        trial(0, state="refused"),
        trial(1, kappa=0.2),
        trial(2, state="failed"),
        trial(3, kappa=0.9, state="stopped"),
        trial(4),
        trial(5, kappa=0.6),
        trial(6, kappa=0.6),
        trial(7, kappa=0.1, state="stopped"),
        trial(8, state="finished", more={"validation.study.auroc": 0.99}),
    ]
    rows = ranked(description(), records)
    assert numbers(rows) == [[5], [6], [1], [8], [4], [3], [7], [2], [0]]
    assert [row.rank for row in rows] == [1, 2, 3, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("metric", "first"), [(LATENCY, 1), ("validation.study.ece", 1), ("size_mb", 1), ("validation.image.auroc", 0)]
)
def test_the_better_way_is_the_metrics(metric, first):
    records = [trial(index, state="finished", more={metric: value}) for index, value in enumerate((0.9, 0.3))]
    assert ranked(description(metrics=(metric,)), records)[0].trials[0].number == first


def test_seeds_of_the_same_parameters_are_one_row_and_beat_luck():
    same = {"lr": 0.1, "net": "a"}
    records = [
        trial(0, {"lr": 0.5}, 0.95),
        trial(1, same, 0.9),
        trial(2, {"net": "a", "lr": 0.1}, 0.5, seed=1),
        trial(3, same, 0.7, seed=2),
        trial(4, {"lr": 0.3}, 0.8),
        trial(5, {"lr": 0.3}, 0.7, seed=1),
    ]
    rows = ranked(description(), records)
    assert numbers(rows) == [[4, 5], [1, 2, 3], [0]]
    # (0.9, 0.5, 0.7): mean 0.7, deviations 0.2, -0.2, 0 -> sqrt(0.08 / 2) = 0.2
    mean, sd = rows[1].figures[KAPPA].mean, rows[1].figures[KAPPA].sd
    assert (mean, sd) == (pytest.approx(0.7), pytest.approx(0.2))
    assert (rows[1].figures[KAPPA].over, rows[1].figures[KAPPA].n, rows[1].seeds) == ("seeds", 3, 3)
    assert winner(description(), records).id == records[4].id


def test_a_repeat_that_failed_counts_for_nothing():
    records = [trial(0, {"a": 1}, 0.5), trial(1, {"a": 1}, seed=1, state="failed"), trial(2, {"a": 2}, 0.6)]
    rows = ranked(description(), records)
    assert numbers(rows) == [[2], [0, 1]]
    assert (rows[1].seeds, rows[1].figures[KAPPA]) == (1, Summary(0.5))


def test_with_one_seed_the_spread_is_that_of_the_folds():
    folds = ({KAPPA: 0.4}, {KAPPA: 0.6})
    one = trial(0, {"a": 1}, 0.5, folds=folds, spread={KAPPA: 0.1})
    rows = ranked(description(), [one])
    assert rows[0].figures[KAPPA] == Summary(0.5, 0.1, "folds", 2)
    assert rows[0].folds == 2
    two = trial(1, {"a": 1}, 0.7, folds=folds, spread={KAPPA: 0.1}, seed=1)
    assert ranked(description(), [one, two])[0].figures[KAPPA].over == "seeds"


@pytest.mark.parametrize(
    ("points", "front"),
    [
        ([(0.9, 20), (0.8, 10), (0.7, 15)], [0, 1]),
        ([(0.9, 20), (0.9, 20), (0.9, 21)], [0, 1]),
        ([(0.9, 20), (0.9, 10)], [1]),
        ([(0.9, 20), (0.8, 20)], [0]),
        ([(0.5, 1)], [0]),
        ([(0.9, 20), (0.95, None)], [0]),
    ],
)
def test_the_front_is_of_what_nothing_else_beats(points, front):
    records = [
        trial(index, kappa=kappa, more={} if latency is None else {LATENCY: latency})
        for index, (kappa, latency) in enumerate(points)
    ]
    assert pareto(description(metrics=(KAPPA, LATENCY)), records) == {records[index].id for index in front}


def test_the_front_is_of_means_and_holds_all_seeds():
    records = [
        trial(0, {"a": 1}, 0.9, more={LATENCY: 10}),
        trial(1, {"a": 1}, 0.5, seed=1, more={LATENCY: 10}),
        trial(2, {"a": 2}, 0.8, more={LATENCY: 10}),
    ]
    both = description(metrics=(KAPPA, LATENCY))
    assert pareto(both, records) == {records[2].id}
    assert pareto(both, records[:2]) == {records[0].id, records[1].id}


def test_a_metric_that_was_never_reported_is_named_with_what_was():
    records = [trial(0, kappa=0.5), trial(1, state="finished", more={"validation.image.auroc": 0.8})]
    with pytest.raises(UserError) as error:
        ranked(description(metrics=("validation.study.kapa",)), records)
    message = str(error.value)
    assert message.startswith("metric validation.study.kapa was never reported: did you mean validation.study.kappa? ")
    assert message.endswith("reported validation.image.auroc, validation.study.kappa")
    # Of a trial that was stopped, failed or still runs nothing is expected.
    assert len(ranked(description(metrics=("validation.study.kapa",)), [trial(0), trial(1, state="failed")])) == 2


def test_without_a_finished_trial_nobody_wins():
    failed = [trial(0, state="failed", reason="CUDA out of memory"), trial(1, state="stopped")]
    with pytest.raises(UserError, match=r"1 stopped, 1 failed; the first: CUDA out of memory"):
        winner(description(), failed)
    with pytest.raises(UserError, match="there is none"):
        winner(description(), [])


def test_it_needs_neither_torch_nor_ray():
    code = "import sys, mskray.tuning.leaderboard; sys.exit(any(m in sys.modules for m in ('torch', 'ray')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_members_of_a_population_that_came_to_equal_values_are_rows_of_their_own():
    same = {"lr": 0.1}
    population = description(scheduler={"name": "pbt"})
    records = [trial(0, same, 0.5), trial(1, same, 0.9).model_copy(update={"id": "f" * 12})]
    assert numbers(ranked(population, records)) == [[1], [0]]
    assert winner(population, records).figures[KAPPA].mean == 0.9
