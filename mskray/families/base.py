"""The family protocol and its registry."""

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
from torch import Tensor

from mskray.cohorts import Cohort
from mskray.config import Section
from mskray.errors import UserError
from mskray.training.run import Run


@dataclass(frozen=True)
class Images:
    """A batch of radiographs of any sizes.

    Args:
        pixels: (rows, columns) arrays, uint8 or uint16, display-ready (see `mskray.imaging.decode`).
        body_parts: DICOM body part of each, or "" where it is not known.
    """

    pixels: Sequence[np.ndarray]
    body_parts: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.pixels)


@dataclass(frozen=True)
class Prediction:
    """What a predictor says of a batch.

    Args:
        probabilities: (n, classes) float32; each row sums to 1.
        explanation: named arrays with n as first dimension (maps, boxes), where the family gives any.
    """

    probabilities: np.ndarray
    explanation: Mapping[str, np.ndarray] = field(default_factory=dict)


class Predictor(Protocol):
    """A loaded model. Not thread-safe; each process holds its own."""

    classes: tuple[str, ...]

    def __call__(self, images: Images) -> Prediction: ...


@dataclass(frozen=True)
class Fitted:
    """A fitted model in memory: what `mskray.bundles` writes to files and reads back.

    Args:
        family: the registered name.
        config: the family's config as plain JSON values.
        task, classes: what it tells apart.
        kind: kind of cohort that it reads ("radiograph").
        body_parts: parts seen in training; another one is a reason for doubt.
        image: canvas of the cohort's images (`size`, `dtype`, `fit`), to which new images are brought.
        state: tensors of a torch family.
        history, best: training figures, an entry an epoch, and the chosen one.
        labels: training images of each class.
        cohort: `uri` and `content_hash` of the cohort.
    """

    family: str
    config: dict[str, Any]
    task: str
    classes: tuple[str, ...]
    kind: str
    body_parts: tuple[str, ...]
    image: dict[str, Any]
    state: dict[str, Tensor]
    history: list[dict[str, Any]]
    best: dict[str, Any]
    labels: dict[str, int]
    cohort: dict[str, str]


class Family(Protocol):
    """A way to learn from a cohort."""

    @property
    def name(self) -> str: ...

    @property
    def summary(self) -> str:
        """One clause: what it learns."""
        ...

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of cohort that it reads."""
        ...

    @property
    def Config(self) -> type[Section]: ...

    def fit(self, cohort: Cohort, config: Any, run: Run) -> Fitted:
        """Learn from the cohort's `train` split, choosing by its `validation` split.

        `config` is an instance of `Config`.
        """
        ...

    def predictor(self, fitted: Fitted, device: str = "cpu") -> Predictor:
        """Make a fitted model ready to predict."""
        ...

    def search_space(self) -> dict[str, Any]:
        """Return what is worth searching: dotted config keys to lists of values or (low, high) ranges."""
        ...


_REGISTRY: dict[str, Family] = {}
F = TypeVar("F", bound=Family)


def register(kind: type[F]) -> type[F]:
    """Class decorator: make a family known by its `name`."""
    made = kind()
    if made.name in _REGISTRY:
        raise ValueError(f"two families are called {made.name}")
    _REGISTRY[made.name] = made
    return kind


def families() -> dict[str, Family]:
    """Return every family by name, in alphabetical order."""
    package = importlib.import_module("mskray.families")
    for module in pkgutil.iter_modules(package.__path__, "mskray.families."):
        importlib.import_module(module.name)
    return dict(sorted(_REGISTRY.items()))


def family(name: str) -> Family:
    """Return a family by name, or raise UserError that lists the known ones."""
    known = families()
    if name not in known:
        raise UserError(f"unknown family {name!r}: known are {', '.join(known)}")
    return known[name]


def check_kind(chosen: Family, cohort: Cohort) -> None:
    """Raise UserError when the family cannot read this kind of cohort."""
    kind = cohort.manifest.kind
    if kind not in chosen.kinds:
        raise UserError(
            f"family {chosen.name} reads {' or '.join(chosen.kinds)} cohorts, {cohort.location} holds {kind}s"
        )
