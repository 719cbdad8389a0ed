"""One digest for equal values, in every process: it names what several trainings share. No torch, no Ray."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
from pydantic import BaseModel


def digest(value: Any) -> str:
    """Return a SHA-256 over what a value is made of: dataclasses, sections, mappings, sequences, arrays, JSON values.

    Equal values have one digest in every process, which pickled bytes do not promise.

    Raises:
        TypeError: something else is in it.
    """
    return hashlib.sha256(json.dumps(_plain(value), sort_keys=True).encode()).hexdigest()


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, BaseModel):
        return [_name(value), value.model_dump(mode="json")]
    if is_dataclass(value) and not isinstance(value, type):
        return [_name(value), {each.name: _plain(getattr(value, each.name)) for each in fields(value)}]
    if isinstance(value, np.ndarray) and value.dtype != object:
        return [value.dtype.str, value.shape, hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()]
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    raise TypeError(f"{_name(value)} has no digest")


def _name(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"
