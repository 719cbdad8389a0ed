"""Typed configuration: every value has a type, bounds, a default, a unit and a source.

A config class stands beside the code that it configures (`class Config(Section)`), states its fields with
`setting(...)`, and is filled from a YAML file and `section.key=value` words:

    mskray train jobs/configs/knee-mobilenet.yaml optimizer.learning_rate=3e-4

What does not fit is named with what is allowed, before any work starts.
"""

import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo
from pydantic.fields import FieldInfo

from mskray.errors import UserError, did_you_mean

Model = TypeVar("Model", bound=BaseModel)


class Section(BaseModel):
    """Base of every config class: unknown keys are refused, values cannot change after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


def setting(default: Any, text: str, *, unit: str = "", source: str = "", **bounds: Any) -> Any:
    """Declare one config field.

    Args:
        default: the value when nothing is given; `...` makes the field required.
        text: what it does, one clause.
        unit: unit of the value ("px", "epochs", …).
        source: where the default comes from (paper and section), when it has one.
        bounds: pydantic bounds (`ge`, `gt`, `le`, `lt`, `min_length`, …).
    """
    return Field(default, description=text, json_schema_extra={"unit": unit, "source": source}, **bounds)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML mapping. Raises UserError when the file is missing, unreadable or not a mapping."""
    try:
        with open(path, encoding="utf-8") as file:  # a file, not its text: YAML then names it in an error
            content = yaml.safe_load(file)
    except FileNotFoundError:
        raise UserError(f"config {path} does not exist: give the path of a YAML file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"config {path} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise UserError(f"config {path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        what = "is empty" if content is None else "is no mapping of keys to values"
        raise UserError(f"config {path} {what}: jobs/configs and jobs/searches have examples")
    return content


def apply_overrides(data: Mapping[str, Any], words: Sequence[str]) -> dict[str, Any]:
    """Return `data` with `section.key=value` words applied; values are read as YAML (`1e-3` is a number)."""
    result = _copy(data)
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise UserError(f"override {word!r} is not of the form section.key=value")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise UserError(f"override {word!r}: the value is not valid YAML; quote it") from None
        _place(result, key, _number(value), f"override {word!r}")
    return result


def merge(data: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return `data` with the values of dotted keys in their sections; neither is changed.

    Raises:
        UserError: a key leads through a value that is no section.
    """
    result = _copy(data)
    for key, value in values.items():
        _place(result, key, _copy(value) if isinstance(value, Mapping) else value, f"key {key}")
    return result


def _place(data: dict[str, Any], key: str, value: Any, what: str) -> None:
    """Set a dotted key of nested sections in place; sections that are not there yet are made."""
    *sections, last = key.split(".")
    node = data
    for name in sections:
        node = node.setdefault(name, {})
        if not isinstance(node, dict):
            raise UserError(f"{what}: {name} is a value, not a section")
    node[last] = value


GIVEN = {"given": True}
"""Validation context of what a user writes; a finished bundle's config is read without."""


def is_given(info: ValidationInfo) -> bool:
    """Whether a config is one to be worked with, and not that of a finished bundle.

    Rules about how to train well hold for the former alone: a bundle that was trained otherwise is no worse to read.
    """
    return bool(info.context and info.context.get("given"))


def validate(model: type[Model], data: Mapping[str, Any], where: str) -> Model:
    """Build `model` from `data`, or raise one UserError that names every wrong key with what is allowed.

    Args:
        where: what the data came from (a file, a bundle), for the message.
    """
    try:
        return model.model_validate(numbers(data), context=GIVEN)
    except ValidationError as error:
        problems = [_problem(model, detail) for detail in error.errors()]
        raise UserError(f"{where}: " + "; ".join(problems)) from None


@dataclass(frozen=True)
class Setting:
    """One leaf of a config class, as `mskray families NAME` prints it."""

    key: str
    type: str
    bounds: str
    default: Any
    required: bool
    unit: str
    source: str
    text: str


def describe(model: type[BaseModel], prefix: str = "") -> Iterator[Setting]:
    """Yield every leaf field of a config class, nested sections first-to-last, with dotted keys."""
    for name, field in model.model_fields.items():
        section = _section_of(field.annotation)
        if section is not None:
            yield from describe(section, f"{prefix}{name}.")
            continue
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        yield Setting(
            key=prefix + name,
            type=_type_name(field.annotation),
            bounds=_bounds(field),
            default=None if field.is_required() else field.get_default(call_default_factory=True),
            required=field.is_required(),
            unit=str(extra.get("unit", "")),
            source=str(extra.get("source", "")),
            text=field.description or "",
        )


def type_of(model: type[BaseModel], key: str) -> Any:
    """Return the annotation of a leaf field by its dotted key, or of the values of a mapping that is one.

    None where there is no such leaf: of a section, and of a key that the config does not have.
    """
    name, _, rest = key.partition(".")
    field = model.model_fields.get(name)
    if field is None:
        return None
    section = _section_of(field.annotation)
    if section is not None:
        return type_of(section, rest)
    if rest:
        inside = typing.get_origin(field.annotation) is dict and "." not in rest
        return typing.get_args(field.annotation)[1] if inside else None
    return None if key.endswith(".") else field.annotation


def _problem(model: type[BaseModel], detail: Any) -> str:
    location = [part for part in detail["loc"] if isinstance(part, str)]
    key = ".".join(location)
    parent, field = _resolve(model, location)
    if detail["type"] == "extra_forbidden" and parent is not None:
        known = list(parent.model_fields)
        hint = did_you_mean(location[-1], known, "".join(f"{part}." for part in location[:-1]))
        return f"unknown key {key} ({hint}{'allowed: ' + ', '.join(known) if known else 'there are none'})"
    if detail["type"] == "missing":
        return f"{key} is required"
    allowed = ""
    if field is not None:
        words = ", ".join(word for word in (_type_name(field.annotation), _bounds(field)) if word)
        allowed = f" (allowed: {words})"
    if detail["type"] == "value_error":
        return f"{key or 'configuration'}: {detail['ctx']['error']!s}"
    return f"{key} = {detail['input']!r} is not allowed{allowed}"


def _resolve(model: type[BaseModel], location: Sequence[str]) -> tuple[type[BaseModel] | None, FieldInfo | None]:
    parent: type[BaseModel] | None = model
    field: FieldInfo | None = None
    for index, name in enumerate(location):
        if parent is None:
            return None, field
        if name not in parent.model_fields:
            return parent, None
        field = parent.model_fields[name]
        if index < len(location) - 1:
            parent = _section_of(field.annotation)
    return parent, field


def _section_of(annotation: Any) -> type[BaseModel] | None:
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _type_name(annotation: Any) -> str:
    origin = typing.get_origin(annotation)
    if origin is Literal:
        return " | ".join(str(value) for value in typing.get_args(annotation))
    if origin is Annotated:
        inner, *notes = typing.get_args(annotation)
        bounds = [_bounds(note) for note in notes if isinstance(note, FieldInfo)]
        return " ".join(word for word in (_type_name(inner), *bounds) if word)
    if origin in (types.UnionType, typing.Union):
        return " | ".join(_type_name(part) for part in typing.get_args(annotation))
    if origin in (tuple, list):
        inner = [part for part in typing.get_args(annotation) if part is not Ellipsis]
        return "list of " + " × ".join(_type_name(part) for part in inner)
    if annotation is type(None):
        return "null"
    return getattr(annotation, "__name__", str(annotation))


_SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<", "min_length": "length ≥", "max_length": "length ≤"}


def _bounds(field: FieldInfo) -> str:
    found = [
        f"{sign} {getattr(item, name):g}"
        for item in field.metadata
        for name, sign in _SIGNS.items()
        if getattr(item, name, None) is not None
    ]
    return " and ".join(found)


def _number(value: Any) -> Any:
    """YAML 1.1 reads `1e-3` as text; take it as the number it is."""
    if isinstance(value, str):
        try:
            return float(value) if any(sign in value for sign in "eE") and value[:1] in "+-.0123456789" else value
        except ValueError:
            return value
    return value


def numbers(value: Any) -> Any:
    """Return the value, or the mapping or list of values, with what YAML took for text as the numbers they are."""
    if isinstance(value, Mapping):
        return {key: numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [numbers(item) for item in value]
    return _number(value)


def _copy(value: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _copy(item) if isinstance(item, Mapping) else item for key, item in value.items()}
