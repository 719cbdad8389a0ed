"""A search's parameters from YAML: how each is written, whether conditions make sense, whether the config takes values.

optimizer.learning_rate: {loguniform: [1e-5, 1e-2]}
classifier.name: {choice: [svm, gaussian_nb]}
classifier.C: {grid: [1, 10, 100], when: {classifier.name: svm}}
"""

import json
import types
import typing
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

from mskray.config import Section, describe, merge, numbers, type_of, validate
from mskray.errors import UserError, did_you_mean
from mskray.space import Kind, Parameter, plain

KINDS: tuple[Kind, ...] = typing.get_args(Kind)
_FORMS = "{choice: […]}, {grid: […]}, {uniform: [low, high]} or {loguniform: [low, high]}"


def read_parameter(given: Any, where: str) -> Parameter:
    """Read `{choice: […]}` and its like. Raises UserError for what is not of that form, or empty."""
    if not isinstance(given, Mapping):
        raise UserError(f"{where}: {given!r} says not where its values come from: give {_FORMS}")
    kinds = [kind for kind in given if kind != "when"]
    for kind in kinds:
        if kind not in KINDS:
            raise UserError(f"{where}: unknown kind {kind!r}: {did_you_mean(str(kind), KINDS)}give {_FORMS}")
    if len(kinds) != 1:
        raise UserError(f"{where}: {' and '.join(kinds) or 'nothing'} is given: give one of {_FORMS}")
    kind, values = kinds[0], numbers(plain(given[kinds[0]]))
    if not isinstance(values, list):
        raise UserError(f"{where}: {kind} is {values!r}: give a list")
    if kind in ("choice", "grid"):
        if not values:
            raise UserError(f"{where}: {kind} is empty: give values, or null to leave the parameter out")
    else:
        _check_range(kind, values, where)
    return Parameter(kind, tuple(values), _read_conditions(given.get("when"), where))


def _check_range(kind: str, values: list[Any], where: str) -> None:
    if len(values) != 2 or not all(type(value) in (int, float) for value in values):
        raise UserError(f"{where}: {kind} is {values}: give two numbers, [low, high]")
    low, high = values
    if not low < high:
        raise UserError(f"{where}: the range {kind} {values} is empty: give [low, high] with low < high")
    if kind == "loguniform" and low <= 0:
        raise UserError(f"{where}: loguniform {values}: no logarithm of {low:g}: give a low above 0, or take uniform")


def _read_conditions(given: Any, where: str) -> dict[str, tuple[Any, ...]]:
    if given is None:
        return {}
    if not isinstance(given, Mapping) or not all(isinstance(key, str) for key in given):
        raise UserError(f"{where}: when is {given!r}: give {{other.key: value}} or {{other.key: [values]}}")
    read = numbers(plain(given))
    found = {key: tuple(value) if isinstance(value, list) else (value,) for key, value in read.items()}
    for key, values in found.items():
        if not values:
            raise UserError(f"{where}: when {key} has none of any values: give those with which the parameter is there")
    return found


def check_keys(keys: Collection[str], model: type[Section], where: str) -> None:
    """Raise UserError for a key that the config does not have, for a seed, and for one inside another."""
    known = [setting.key for setting in describe(model)]
    for key in keys:
        if type_of(model, key) is None:
            inside = [name for name in known if name.startswith(f"{key}.")]
            told = f"it is a section, of {', '.join(inside)}" if inside else f"there are {', '.join(known)}"
            raise UserError(f"{where}: no parameter {key!r}: {'' if inside else did_you_mean(key, known)}{told}")
        if key.endswith("seed"):
            raise UserError(f"{where}: {key} is no parameter: repeats vary seeds: leave it out, and set repeats")
        for other in keys:
            if key.startswith(f"{other}."):
                raise UserError(f"{where}: {key} is a part of {other}, which is a parameter too: leave one of them out")


def parents_first(parameters: Mapping[str, Parameter], where: str) -> dict[str, Parameter]:
    """Return them with parents before those that have a condition on them, else by name. Raises UserError: a circle."""
    left, ordered = dict(sorted(parameters.items())), dict[str, Parameter]()
    while left:
        ready = [key for key, each in left.items() if not any(parent in left for parent in each.when)]
        if not ready:
            raise UserError(f"{where}: conditions in a circle: {_circle(left)}: take one of them away")
        ordered.update((key, left.pop(key)) for key in ready)
    return ordered


def _circle(left: Mapping[str, Parameter]) -> str:
    path = [next(iter(left))]
    while path[-1] not in path[:-1]:
        path.append(next(parent for parent in left[path[-1]].when if parent in left))
    return " needs ".join(path[path.index(path[-1]) :])


def check_conditions(
    parameters: Mapping[str, Parameter], own: Collection[str], model: type[Section], base: Mapping[str, Any], where: str
) -> dict[str, Parameter]:
    """Return the parameters that can be there, parents first, with conditions on each other alone.

    What a condition asks of a key that is no parameter is decided here, by `base` or the config's default.

    Args:
        own: keys that the user wrote, whose conditions must be possible; others that can never be there are left out.
    Raises:
        UserError: a condition on an unknown key or on a range, one that cannot be met, or conditions in a circle.
    """
    kept: dict[str, Parameter] = {}
    for key, each in parents_first(parameters, where).items():
        at, conditions, possible = f"{where}, parameter {key}", {}, True
        for parent, wanted in each.when.items():
            there = _values_of(parent, parameters, model, base, f"{at}: when {parent}")
            strange = [value for value in wanted if value not in there]
            if key in own and strange:
                raise UserError(
                    f"{at}: when {parent} is {strange[0]!r}: it never is, but {' or '.join(map(repr, there))}: mend "
                    "the condition, or leave the parameter out"
                )
            possible = possible and len(strange) < len(wanted) and (parent in kept or parent not in parameters)
            if parent in parameters:
                conditions[parent] = tuple(value for value in wanted if value in there)
        if possible:
            kept[key] = replace(each, when=conditions)
        elif key in own:
            raise UserError(f"{at}: it can never be there, as {', '.join(each.when)} cannot: leave it out")
    return kept


def _values_of(
    key: str, parameters: Mapping[str, Parameter], model: type[Section], base: Mapping[str, Any], at: str
) -> tuple[Any, ...]:
    """Return what a key that a condition names can be: a parameter's values, or what `base` or the config has."""
    if key in parameters:
        if not parameters[key].finite:
            raise UserError(f"{at}: it is drawn from a range: a condition needs a choice or grid")
        return parameters[key].values
    defaults = {setting.key: setting.default for setting in describe(model)}
    if type_of(model, key) is None:
        raise UserError(
            f"{at}: neither a parameter nor a key of the config: {did_you_mean(key, defaults)}there are "
            f"{', '.join(defaults)}"
        )
    node: Any = base
    for name in key.split("."):
        if not isinstance(node, Mapping) or name not in node:
            return (plain(defaults.get(key)),)
        node = node[name]
    return (numbers(plain(node)),)


@dataclass(frozen=True)
class Values:
    """What a config takes.

    Args:
        parameters: parents first.
        base: the sections that the parameters' values are put into.
    """

    parameters: Mapping[str, Parameter]
    model: type[Section]
    base: Mapping[str, Any]
    where: str

    def checked(self) -> dict[str, Parameter]:
        """Return the parameters with their values as the config holds them (500 of "500", 0.0 of 0).

        Raises:
            UserError: a value that the config does not take, a range of what is no number, or a value twice.
        """
        found: dict[str, Parameter] = {}
        for key, each in self.parameters.items():
            taken = tuple(self._taken(key, value) for value in each.values)
            if each.finite:
                written = [json.dumps(value, sort_keys=True) for value in taken]
                twice = next((value for value in written if written.count(value) > 1), None)
                if twice is not None:
                    raise UserError(f"{self.where}, parameter {key}: {twice} is given twice: leave it out once")
            else:
                self._check_inside(key, taken)
            # Parents come first: theirs are as the config holds them by now.
            when = {parent: self._same(parent, found[parent], wanted) for parent, wanted in each.when.items()}
            found[key] = replace(each, values=taken, when=when)
        return found

    def _same(self, parent: str, read: Parameter, wanted: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(read.values[self.parameters[parent].values.index(value)] for value in wanted)

    def _check_inside(self, key: str, taken: tuple[Any, ...]) -> None:
        kind = _number_type(type_of(self.model, key))
        if kind is None:
            raise UserError(f"{self.where}, parameter {key}: it takes no range of numbers: give a choice or a grid")
        if kind is int and taken[0] + 1 < taken[1]:
            self._taken(key, taken[0] + 1)  # not so where only even numbers, or multiples, are taken

    def _taken(self, key: str, value: Any) -> Any:
        """Return the value as the config holds it, where its conditions are met.

        A value that the config does not take alone may be taken together with one of another parameter.
        """
        own = {**self._conditions(key), key: value}
        try:
            return self._held(own, key)
        except UserError as error:
            for more in self._others(key):
                try:
                    return self._held({**more, **own}, key)
                except UserError:
                    continue
            raise error

    def _held(self, values: Mapping[str, Any], key: str) -> Any:
        where = f"{self.where}, parameter {key} = {values[key]!r}"
        node: Any = validate(self.model, merge(self.base, values), where).model_dump(mode="json")
        for name in key.split("."):
            node = node[name]
        return node

    def _conditions(self, key: str) -> dict[str, Any]:
        """The first values with which a parameter is there."""
        found: dict[str, Any] = {}
        for parent, wanted in self.parameters[key].when.items():
            found.update({**self._conditions(parent), parent: wanted[0]})
        return found

    def _others(self, key: str) -> Iterator[dict[str, Any]]:
        for other, each in self.parameters.items():
            if other != key:
                yield from ({**self._conditions(other), other: value} for value in each.values)


def _number_type(annotation: Any) -> type | None:
    """int or float where a field takes such numbers, or they or nothing; else None."""
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        return _number_type(typing.get_args(annotation)[0])
    if origin in (types.UnionType, typing.Union):
        found = [_number_type(part) for part in typing.get_args(annotation) if part is not type(None)]
        return found[0] if len(found) == 1 else None
    return annotation if annotation in (int, float) else None
