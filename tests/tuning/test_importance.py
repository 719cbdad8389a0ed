"""Shares of variance: of made figures, with conditions, and where nothing can be said."""

import itertools
import random

import pytest
from searches import description, trial

from mskray.tuning.importance import importance
from mskray.tuning.leaderboard import ranked


def judge(made, space=None, keys=("a", "b")):
    told = description(space=space or {})
    return importance(
        told, ranked(told, [trial(i, parameters, kappa) for i, (parameters, kappa) in enumerate(made)]), keys
    )


def test_what_decides_has_nearly_all_of_it():
    made = [({"a": a, "b": b}, 0.1 * a + 0.001 * b) for a, b in itertools.product(range(5), range(5))]
    found = judge(made)
    assert list(found.shares) == ["a", "b"]
    assert found.shares["a"] > 0.9
    assert found.shares["b"] < 0.05
    assert found.counted == {"a": 25, "b": 25}
    assert judge(made).shares == found.shares


def test_categories_are_told_apart_in_any_order():
    value = {"x": 0.9, "y": 0.1, "z": 0.8}
    found = judge([({"a": name, "b": b}, value[name]) for name, b in itertools.product("xyz", (True, False))])
    assert found.shares["a"] > 0.95


def test_a_range_drawn_in_the_logarithm_is_judged_there():
    """The figure rises evenly with the logarithm: all that a tree sees of it is the parameter's."""
    made = [({"a": 10.0**-k, "b": k % 2}, 0.1 * k) for k in range(2, 10)]
    found = judge(made, {"a": {"loguniform": [1e-9, 1e-2]}})
    assert found.shares["a"] > 0.8 > 0.2 > found.shares["b"]


def test_a_conditional_parameter_is_judged_among_the_trials_that_have_it():
    chance = random.Random(0)
    made = [({"a": "bayes"}, 0.2 + 0.01 * chance.random()) for _ in range(6)]
    made = [({**parameters, "n": i}, kappa) for i, (parameters, kappa) in enumerate(made)]
    made += [({"a": "svm", "n": i, "b": c}, 0.5 + 0.1 * c) for i, c in enumerate((1, 2, 3, 4) * 2)]
    found = judge(made, keys=("a", "b", "n"))
    assert found.counted["b"] == 8
    assert found.counted["a"] == 14
    assert found.shares["b"] > 0.8
    assert found.shares["a"] > found.shares["n"]


@pytest.mark.parametrize(
    ("made", "reasons"),
    [
        ([], {"a": "0 finished with it, 4 are needed", "b": "0 finished with it, 4 are needed"}),
        ([({"a": i, "b": i}, 0.1 * i) for i in range(3)], dict.fromkeys("ab", "3 finished with it, 4 are needed")),
        ([({"a": i, "b": 1}, 0.5) for i in range(6)], {"a": "the figure is always the same", "b": "always the same"}),
        ([({"a": i, "b": 1}, 0.1 * i) for i in range(6)], {"b": "always the same"}),
        ([({"a": [1, i % 3], "b": {"k": i % 2}}, 0.1 * i) for i in range(6)], {}),
        ([({"a": f"net{i}", "b": i}, 0.1 * i) for i in range(6)], {"a": "never twice the same"}),
    ],
    ids=["none", "three", "no variance", "one constant", "lists", "names"],
)
def test_where_there_is_no_share_there_is_a_reason(made, reasons):
    found = judge(made)
    assert found.reasons == reasons
    assert set(found.shares) == {"a", "b"} - set(reasons)
