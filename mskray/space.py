"""What a search may change in a config: parameters by dotted key.

    {"optimizer.learning_rate": loguniform(1e-5, 1e-2), "network.backbone": choice("resnet18", "vgg16")}

Families state theirs with these words; `mskray.tuning.space` reads the same from YAML, checks it and draws from it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

Kind = Literal["choice", "grid", "uniform", "loguniform"]


@dataclass(frozen=True)
class Parameter:
    """One key's values.

    Args:
        kind: "choice" of values, "grid" of values each of which is tried, or a range to draw from evenly ("uniform")
            or evenly in the logarithm ("loguniform"); whole numbers where the config's field is one.
        values: of choice and grid the values, any that the config takes; of a range its ends.
        when: the parameter is there only where each of these keys has one of these values.
    """

    kind: Kind
    values: tuple[Any, ...]
    when: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    @property
    def finite(self) -> bool:
        """Whether its values can be counted."""
        return self.kind in ("choice", "grid")

    def to_data(self) -> dict[str, Any]:
        """Return what YAML and JSON have of it: {kind: values, "when": {key: values}}."""
        conditions = {"when": plain(self.when)} if self.when else {}
        return {self.kind: plain(self.values), **conditions}


def plain(value: Any) -> Any:
    """Return a value as JSON has it: lists for tuples, also inside."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


Space = Mapping[str, Parameter]


def to_data(space: Space) -> dict[str, Any]:
    """Return {key: {kind: values, "when": {key: values}}}, as YAML and JSON have it."""
    return {key: parameter.to_data() for key, parameter in space.items()}


def choice(*values: Any) -> Parameter:
    return Parameter("choice", values)


def grid(*values: Any) -> Parameter:
    return Parameter("grid", values)


def uniform(low: float, high: float) -> Parameter:
    return Parameter("uniform", (low, high))


def loguniform(low: float, high: float) -> Parameter:
    return Parameter("loguniform", (low, high))


def only(parameter: Parameter, **when: Any) -> Parameter:
    """The parameter under a condition; `__` stands for the dot of a key: `only(p, classifier__name=("svm",))`."""
    named = {key.replace("__", "."): value if isinstance(value, tuple) else (value,) for key, value in when.items()}
    return replace(parameter, when=named)
