"""What a search may change: read, checked against the family's config, drawn from and counted.

    space:                                                   over the family's own, or a preset (`mskray families NAME`)
      vocabulary: {grid: [50, 500]}
      classifier.C: {loguniform: [0.1, 1000], when: {classifier.name: svm}}
      classifier.gamma: null                                 left out

Parameters stand in an order of their own, parents first and else by name, so that the same draws give the same trials
however the YAML is sorted.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import reduce
from math import prod
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from mskray.config import Section
from mskray.errors import UserError, did_you_mean
from mskray.space import Parameter, Space, plain, to_data
from mskray.tuning.parameters import Values, check_conditions, check_keys, parents_first, read_parameter
from mskray.tuning.subject import Subject

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

NO_PRESET = "none"
_MOST = 10**6


@dataclass(frozen=True)
class SearchSpace:
    """Parameters by dotted key, parents first; those that `when` names are among them.

    Values are as JSON has them. A range whose ends are both int is one of whole numbers.
    """

    parameters: Mapping[str, Parameter]

    def draw(self, suggest: Callable[[str, Parameter], Any]) -> dict[str, Any]:
        """Return a value for each parameter that is there, by dotted key; each is asked for once, parents first."""
        values: dict[str, Any] = {}
        for key, parameter in self.parameters.items():
            if _there(parameter, values, self.parameters):
                values[key] = suggest(key, parameter)
        return values

    def combinations(self) -> Iterator[dict[str, Any]]:
        """Yield every combination of values, each once. Raises UserError where a parameter is a range."""
        self._check_finite()
        return self._assignments(list(self.parameters))

    def count(self) -> int:
        """Return the number of combinations, however many.

        Raises:
            UserError: a parameter is a range, or more than a million combinations decide on conditions.
        """
        self._check_finite()
        deciding = [key for key in self.parameters if any(key in each.when for each in self.parameters.values())]
        others = [each for key, each in self.parameters.items() if key not in deciding]
        return sum(
            prod(len(each.values) for each in others if _there(each, values, deciding))
            for values in self._few(deciding)
        )

    def infinite(self) -> list[str]:
        """Return the names of the ranges, which have no combinations: grid search needs values."""
        return [key for key, each in self.parameters.items() if not each.finite]

    def grids(self) -> list[dict[str, Any]]:
        """Return every combination of the parameters of kind "grid" alone, one without values where there are none.

        Where it depends on other parameters whether one is there, it has a value, to be used if it is.

        Raises:
            UserError: they are more than a million.
        """
        return list(self._few([key for key, each in self.parameters.items() if each.kind == "grid"]))

    def to_data(self) -> dict[str, Any]:
        """Return {key: {kind: values, "when": {key: values}}}, for YAML and JSON."""
        return to_data(self.parameters)

    @classmethod
    def of_data(cls, data: Mapping[str, Any], where: str) -> "SearchSpace":
        """Read what `to_data` gave. Raises UserError where it is not that."""
        return cls(parents_first({key: read_parameter(each, f"{where}, {key}") for key, each in data.items()}, where))

    def distribution(self, key: str) -> "BaseDistribution":
        """Return the parameter for Optuna: values by their places from 0, since they may be lists and mappings."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        parameter = self.parameters[key]
        if parameter.finite:
            return CategoricalDistribution(tuple(range(len(parameter.values))))
        low, high = parameter.values
        log = parameter.kind == "loguniform"
        return IntDistribution(low, high, log) if _whole(parameter) else FloatDistribution(low, high, log)

    def value(self, key: str, internal: Any) -> Any:
        """Return the config's value of what Optuna drew from `distribution`."""
        parameter = self.parameters[key]
        if parameter.finite:
            return parameter.values[int(internal)]
        return int(internal) if _whole(parameter) else float(internal)

    def internal(self, key: str, value: Any) -> Any:
        """Return what Optuna has of a config's value. Raises ValueError where the space does not hold it."""
        if key not in self.parameters:
            raise ValueError(f"{key} is no parameter")
        parameter, given = self.parameters[key], plain(value)
        if parameter.finite:
            return parameter.values.index(given)
        low, high = parameter.values
        if type(given) not in ((int,) if _whole(parameter) else (int, float)) or not low <= given <= high:
            raise ValueError(f"{key} = {value!r} is not within {low} and {high}")
        return given

    def held_of(self, config: Section) -> dict[str, Any]:
        """Return what Optuna has of a config's values, of those that the space holds."""
        found = {}
        for key in self.parameters:
            with suppress(AttributeError, ValueError):  # a section that is null, a value beyond the space
                found[key] = self.internal(key, reduce(getattr, key.split("."), config))
        return found

    def _check_finite(self) -> None:
        if ranges := self.infinite():
            raise UserError(f"grid search needs values, {', '.join(ranges)} is drawn from a range: give a grid of each")

    def _few(self, keys: Sequence[str]) -> Iterator[dict[str, Any]]:
        for number, values in enumerate(self._assignments(keys)):
            if number == _MOST:
                raise UserError(f"{', '.join(keys)} have more than {_MOST:,} combinations: give fewer values")
            yield values

    def _assignments(
        self, keys: Sequence[str], place: int = 0, values: Mapping[str, Any] = MappingProxyType({})
    ) -> Iterator[dict[str, Any]]:
        """Yield what these parameters, parents first, can be from `place` on; conditions on others count as met."""
        if place == len(keys):
            yield dict(values)
            return
        parameter = self.parameters[keys[place]]
        there = _there(parameter, values, keys)
        for each in [{**values, keys[place]: value} for value in parameter.values] if there else [values]:
            yield from self._assignments(keys, place + 1, each)


def parse_space(
    data: Mapping[str, Any] | None, chosen: Subject, base: Mapping[str, Any], preset: str, where: str
) -> SearchSpace:
    """Read what is to be searched.

    Args:
        data: by dotted key, parameters that are added to the preset's or replace one, or null for one to leave out.
        base: the family's sections as the job gives them; parameters that no preset names stay as they are there.
        preset: "" for what the family says is worth searching, "none" for nothing, or the name of one of its presets.
        where: what the data came from, for messages.
    Raises:
        UserError: an unknown preset or key, values that are of no known form, empty, given twice or not what the
            config takes, conditions that cannot be met, or no parameter at all.
    """
    own = data or {}
    if not isinstance(own, Mapping) or not all(isinstance(key, str) for key in own):
        raise UserError(f"{where}: {own!r} is no search space: give a mapping of keys to values")
    given = to_data(_preset(chosen, preset, where))
    for key, each in own.items():
        if each is None and key not in given:
            there = f"there are {', '.join(given)}" if given else "there is none"
            raise UserError(f"{where}: no parameter {key!r} to leave out: {did_you_mean(key, given)}{there}")
        if each is None:
            del given[key]
        else:
            given[key] = each
    check_keys(given, chosen.Config, where)
    read = {key: read_parameter(each, f"{where}, parameter {key}") for key, each in given.items()}
    kept = check_conditions(read, own, chosen.Config, base, where)
    if not kept:
        raise UserError(f"{where}: no parameter is left to search: give one, or another preset")
    return SearchSpace(Values(kept, chosen.Config, base, where).checked())


def _preset(chosen: Subject, name: str, where: str) -> Space:
    presets: dict[str, Space] = {"": chosen.search_space(), NO_PRESET: {}, **chosen.spaces()}
    if name not in presets:
        known = [each for each in presets if each]
        raise UserError(
            f"{where}: family {chosen.name} has no preset {name!r}: {did_you_mean(name, known)}there are "
            f"{', '.join(known)}, and what it searches without one"
        )
    return presets[name]


def _there(parameter: Parameter, values: Mapping[str, Any], among: Collection[str]) -> bool:
    """Whether what `values` have of those `among` which conditions are on lets the parameter be there."""
    return all(
        parent not in among or (parent in values and values[parent] in wanted)
        for parent, wanted in parameter.when.items()
    )


def _whole(parameter: Parameter) -> bool:
    return all(type(value) is int for value in parameter.values)
