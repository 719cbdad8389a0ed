"""Axes of a search's charts: ranges, logarithms and categories, whatever a space may hold.

axis = parameter_axis(description, "optimizer.learning_rate", values)
axis.share(0.001)                        # place between its ends, in 0–1
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10
from typing import Any

from mskray.evaluation.svg import nice_ticks
from mskray.tuning.ledger import Description
from mskray.tuning.wording import is_number, kind_of, value_text, values_of

MOST_CATEGORIES = 12
_NAME = 20
_PAD = 0.06


@dataclass(frozen=True)
class Axis:
    """An axis in its own unit: the value, its logarithm to base 10, or the number of its category.

    Args:
        ends: of the axis.
        ticks: places and what is written there.
        log: whether the unit is the logarithm.
        categories: as JSON, in their order; empty for numbers.
    """

    ends: tuple[float, float]
    ticks: tuple[tuple[float, str], ...]
    log: bool = False
    categories: tuple[str, ...] = ()

    def place(self, value: Any) -> float:
        """Where a value is, in the axis's unit."""
        if self.categories:
            return float(self.categories.index(_name(value)))
        return log10(value) if self.log else float(value)

    def share(self, value: Any) -> float:
        """Where a value is between the ends, in 0–1."""
        return (self.place(value) - self.ends[0]) / (self.ends[1] - self.ends[0])


def parameter_axis(description: Description, key: str, values: Sequence[Any]) -> Axis:
    """The axis of a parameter: over the space's range, or its listed values, and all that was tried.

    Args:
        values: of the trials that have it, at least one.
    """
    kind, listed = kind_of(description, key), values_of(description, key)
    numbers = all(is_number(value) for value in values)
    if numbers and kind in ("uniform", "loguniform"):
        whole = [*values, *(value for value in listed if is_number(value))]
        return _numbers(whole, log=kind == "loguniform" and min(whole) > 0)
    if numbers and len(set(values)) > MOST_CATEGORIES:
        return _numbers(values, log=min(values) > 0 and max(values) / min(values) > 100)
    there = {_name(value): value for value in (*listed, *values)}
    if len(there) > MOST_CATEGORIES:
        there = {_name(value): value for value in values}
    if all(is_number(value) for value in there.values()):
        there = dict(sorted(there.items(), key=lambda item: item[1]))
    ticks = [(float(index), value_text(value, _NAME)) for index, value in enumerate(there.values())]
    # Of very many names only some can be read.
    thinned = tuple(ticks[:: ceil(len(ticks) / (2 * MOST_CATEGORIES))])
    return Axis((-0.5, len(there) - 0.5), thinned, categories=tuple(there))


def figure_axis(values: Iterable[float]) -> Axis:
    """The axis of a figure: what came out, with a little room at both ends."""
    found = list(values)
    low, high = min(found), max(found)
    room = _PAD * (high - low) or 0.1 * abs(high) or 1.0
    ends = (low - room, high + room)
    return Axis(ends, _round(*ends))


def _numbers(values: Iterable[float], log: bool) -> Axis:
    low, high = min(values), max(values)
    if not log:
        room = 0.0 if high > low else 0.5 * abs(high) or 1.0
        return Axis((low - room, high + room), _round(low - room, high + room))
    room = 0.0 if high > low else 0.5
    ends = (log10(low) - room, log10(high) + room)
    return Axis(ends, _powers(*ends), log=True)


def _round(low: float, high: float) -> tuple[tuple[float, str], ...]:
    return tuple((tick, f"{tick:g}") for tick in nice_ticks(low, high))


def _powers(low: float, high: float) -> tuple[tuple[float, str], ...]:
    """Powers of ten, with 2 and 5 times these where there are few, else the ends."""
    span = range(floor(low), ceil(high) + 1)
    for factors, most in (((1,), 7), ((1, 2, 5), 7)):
        found = [log10(factor * 10.0**power) for power in span for factor in factors]
        inside = [each for each in found if low - 1e-9 <= each <= high + 1e-9]
        if len(inside) >= 3:
            return tuple((each, f"{10**each:g}") for each in inside[:: ceil(len(inside) / most)])
    return tuple((each, f"{10**each:.3g}") for each in (low, high))


def _name(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
