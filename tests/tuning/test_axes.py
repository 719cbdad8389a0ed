"""Axes of whatever a space holds: ends, ticks and places."""

import pytest
from searches import description

from mskray.tuning.axes import figure_axis, parameter_axis
from mskray.tuning.wording import short_names, value_text


@pytest.mark.parametrize(
    ("space", "values", "labels", "shares"),
    [
        ({"loguniform": [1e-5, 1e-2]}, [1e-4], ["1e-05", "0.0001", "0.001", "0.01"], [1 / 3]),
        ({"loguniform": [0.01, 0.05]}, [0.02], ["0.01", "0.02", "0.05"], [0.4306766]),
        ({"loguniform": [0.011, 0.019]}, [0.011], ["0.011", "0.019"], [0.0]),
        ({"uniform": [0, 1]}, [0.25, 0.5], ["0", "0.2", "0.4", "0.6", "0.8", "1"], [0.25, 0.5]),
        ({"uniform": [0, 1]}, [2], ["0", "0.5", "1", "1.5", "2"], [1.0]),
        ({"choice": [500, 50, 100]}, [50, 500], ["50", "100", "500"], [1 / 6, 5 / 6]),
        ({"grid": ["b", "a"]}, ["a", "b"], ["b", "a"], [3 / 4, 1 / 4]),
        ({"choice": [True, None, [1, 2]]}, [[1, 2]], ["true", "null", "1 2"], [5 / 6]),
        ({"choice": [{"x": 1, "y": 2}]}, [{"y": 2, "x": 1}], ["x=1 y=2"], [0.5]),
        ({}, [3], ["3"], [0.5]),
        ({"uniform": [2, 2]}, [2], ["1", "1.5", "2", "2.5", "3"], [0.5]),
        ({"choice": list(range(100))}, [0, 50, 99], ["0", "50", "99"], [1 / 6, 1 / 2, 5 / 6]),
    ],
)
def test_parameter_axis(space, values, labels, shares):
    axis = parameter_axis(description({"key": space} if space else {}), "key", values)
    assert [label for _, label in axis.ticks] == labels
    assert [axis.share(value) for value in values] == pytest.approx(shares)
    assert all(axis.ends[0] - 1e-9 <= place <= axis.ends[1] + 1e-9 for place, _ in axis.ticks)


def test_many_categories_have_few_ticks():
    names = [f"net{index}" for index in range(60)]
    axis = parameter_axis(description({"key": {"choice": names}}), "key", names)
    assert len(axis.ticks) == 20
    assert axis.share("net59") == pytest.approx(59.5 / 60)


@pytest.mark.parametrize("values", [[0.5], [0.5, 0.5], [0.0], [-1.0, 2.0], [1e-9, 2e-9]])
def test_a_figure_axis_has_room_at_both_ends(values):
    axis = figure_axis(values)
    assert axis.ends[0] < min(values) <= max(values) < axis.ends[1]
    assert axis.ticks


@pytest.mark.parametrize(
    ("keys", "short"),
    [
        (["optimizer.learning_rate", "vocabulary"], ["learning_rate", "vocabulary"]),
        (["optimizer.name", "network.width"], ["optimizer.name", "width"]),
        (["head.optimizer.rate", "body.optimizer.rate"], ["head.optimizer.rate", "body.optimizer.rate"]),
        (["name", "rate", "loop.rate"], ["name", "rate", "loop.rate"]),
    ],
)
def test_short_names(keys, short):
    assert list(short_names(keys).values()) == short


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.00012346, "0.0001235"),
        (7, "7"),
        (True, "true"),
        (None, "null"),
        ("", '""'),
        ([], "none"),
        ("a\nb\x00", "a·b·"),
    ],
)
def test_value_text(value, text):
    assert value_text(value) == text
    assert len(value_text(["abc"] * 99, 40)) == 40
