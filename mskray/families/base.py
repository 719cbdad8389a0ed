"""The family protocol and its registry."""

import importlib.util
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np

from mskray.bundles import Fitted
from mskray.cohorts import Cohort, Task
from mskray.config import Section
from mskray.errors import UserError, did_you_mean
from mskray.imaging.regions import FitMode, fit_to_format
from mskray.space import Space
from mskray.training.run import Run, Trained


@dataclass(frozen=True)
class Images:
    """A batch of radiographs of any sizes, or of stacks.

    Args:
        pixels: (rows, columns) arrays, uint8 or uint16, display-ready (see `mskray.imaging.decode`); for a family that
            reads stacks (slices, rows, columns), as a cohort's cells.
        body_parts: DICOM body part of each, or "" where it is not known.
        studies: a name of each one's study; images of one study stand together, in the order of their views. None
            where each is a study of its own.
    """

    pixels: Sequence[np.ndarray]
    body_parts: Sequence[str] = ()
    studies: Sequence[str] | None = None
    _canvases: dict[tuple[int, str, str], list[np.ndarray]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __len__(self) -> int:
        return len(self.pixels)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_canvases": {}}

    def canvases(self, size: int, fit: FitMode, dtype: str) -> list[np.ndarray]:
        """Return the radiographs as a cohort of this format stores them, (size, size) each; not to be written to.

        They are made once and kept: most members of an ensemble have one format, and shrinking a large picture takes
        longer than a small network's look at it.
        """
        key = size, fit, dtype
        if key not in self._canvases:
            self._canvases[key] = [fit_to_format(pixels, size, fit, dtype)[0] for pixels in self.pixels]
        return self._canvases[key]


@dataclass(frozen=True)
class Prediction:
    """What a predictor says of a batch.

    Args:
        probabilities: (n, classes) float32; each row sums to 1. Where a family judges studies, each of a study's
            images has its study's probabilities.
        parts: the same question answered by parts of the model, such as its local network; (n, classes) each. Where
            the bundle has `tasks`, each task's answers, (n, its classes).
        boxes: named boxes (n, 4), x, y, w, h in pixels of the cohort's canvas: where the model looked.
        errors: why some of the n could not be judged, by place; their probabilities are NaN.
        features: (n, channels) float32, the mean over the last spatial map of each whole image; None where the model
            has no network that takes one.
    """

    probabilities: np.ndarray
    parts: Mapping[str, np.ndarray] = field(default_factory=dict)
    boxes: Mapping[str, np.ndarray] = field(default_factory=dict)
    errors: Mapping[int, str] = field(default_factory=dict)
    features: np.ndarray | None = None

    def part(self, rows: slice) -> "Prediction":
        """What is said of some of the n, `rows` without a step."""
        start, end, _ = rows.indices(len(self.probabilities))
        return Prediction(
            self.probabilities[rows],
            {name: each[rows] for name, each in self.parts.items()},
            {name: each[rows] for name, each in self.boxes.items()},
            {place - start: reason for place, reason in self.errors.items() if start <= place < end},
            None if self.features is None else self.features[rows],
        )


class Predictor(Protocol):
    """A loaded model. Not thread-safe: each process holds its own, each of its threads a twin (`Voter.twin`).

    Its networks are attributes of its own; nothing else of it changes.
    """

    classes: tuple[str, ...]

    def __call__(self, images: Images) -> Prediction: ...


class Family(ABC):
    """A way to learn from a cohort: one file with one subclass."""

    name: ClassVar[str]
    summary: ClassVar[str]
    """One clause: what it learns."""
    kinds: ClassVar[tuple[str, ...]] = ("radiograph",)
    """Kinds of cohort that it reads."""
    sample: ClassVar[str] = "image"
    """What it learns from one at a time: the figures of a training count these."""
    Config: ClassVar[type[Section]]
    judged_by: ClassVar[str] = "study.kappa"
    """Level and figure by which a search compares its models, unless it is told otherwise."""
    tells_classes: ClassVar[bool] = True
    """Whether it answers with class probabilities, and not with boxes or corners."""
    learns: ClassVar[str] = ""
    """What it learns of an image beside one label of one task, such as boxes; "" where that is all."""
    needs_ray: ClassVar[bool] = False
    """Whether it spreads work of its own over Ray tasks, so that it cannot be trained in one process alone."""
    epoch_keys: ClassVar[Mapping[str, str]] = MappingProxyType({"": "loop.epochs"})
    """Where it learns in epochs: the config key of how many, for each of its trainings by its name in a history."""

    @abstractmethod
    def fit(self, cohort: Cohort, config: Any, run: Run) -> Fitted:
        """Learn `run.task` from the cohort's `train` split, choosing by its `validation` split.

        `config` is an instance of `Config`.
        """

    @abstractmethod
    def predictor(self, fitted: Fitted, device: str = "cpu") -> Predictor:
        """Make a fitted model ready to predict."""

    @abstractmethod
    def search_space(self) -> Space:
        """Return what is worth searching, by dotted config key."""

    def spaces(self) -> Mapping[str, Space]:
        """Return other spaces by name: presets, such as the grids of papers. "none" is no name."""
        return {}

    def task(self, cohort: Cohort, name: str) -> Task:
        """Return what is to be learned: the cohort's task `name`, its first where that is empty. Raises UserError."""
        if name:
            return cohort.task(name)
        if not cohort.tasks:
            raise UserError(f"cohort {cohort.location} has no task to learn: ingest it with labels")
        return cohort.tasks[0]

    def sees_whole_images(self, config: Mapping[str, Any]) -> bool:
        """Whether a bundle with this config holds a network that takes one whole image (`Recipe.explained`)."""
        return True

    def depends_on(self, config: Any) -> dict[str, str]:
        """Return hashes of what a fit reads beside the cohort; with them a job knows its own results again."""
        return {}

    def check(self, cohort: Cohort, config: Any, task: Task) -> None:
        """Raise UserError when this task of the cohort cannot be learned with this config; before any work."""
        self.check_kind(cohort)
        self.check_classes(cohort, task)

    def check_kind(self, cohort: Cohort) -> None:
        """Raise UserError when the cohort is of a kind that the family does not read."""
        kind = cohort.manifest.kind
        if kind not in self.kinds:
            raise UserError(
                f"family {self.name} reads {' or '.join(self.kinds)} cohorts, {cohort.location} holds {kind}s"
            )

    def check_classes(self, cohort: Cohort, task: Task, cure: str = "choose another task") -> None:
        """Raise UserError when the train or validation split is missing or lacks labels of two classes.

        Args:
            cure: what else to do than to ingest more.
        """
        for split in ("train", "validation"):
            if split not in cohort.splits:
                raise UserError(f"cohort {cohort.location} has no {split} split (it has {', '.join(cohort.splits)})")
            counts = cohort.manifest.counts.splits[split].labels.get(task.name, {})
            present = [name for name in task.classes if counts.get(name)]
            if len(present) < 2:
                raise UserError(
                    f"cohort {cohort.location}, split {split}: task {task.name} needs labelled images of at least two "
                    f"classes of {', '.join(task.classes)}; it has {', '.join(present) or 'none'}: ingest more "
                    f"patients, or {cure}"
                )

    def check_resolution(self, cohort: Cohort, size: int) -> None:
        """Raise UserError when the cohort is coarser than `data.image_size`, from which a closer look is cut."""
        if cohort.image.size < size:
            raise UserError(
                f"data.image_size = {size}: cohort {cohort.location} holds {cohort.image.size} px, nothing finer for "
                f"{self.name} to look closer at: lower it, or ingest with --size {size}"
            )

    def fitted(self, cohort: Cohort, config: Section, task: Task, trained: Trained) -> Fitted:
        """Put together what a bundle holds of a torch family's training."""
        return Fitted(
            family=self.name,
            config=config.model_dump(mode="json"),
            task=task.name,
            classes=task.classes,
            kind=cohort.manifest.kind,
            body_parts=tuple(sorted(set(cohort.metadata("train", ["body_part"])["body_part"].to_pylist()))),
            image=cohort.image.model_dump(mode="json", exclude_defaults=True),
            state=trained.state,
            history=trained.history,
            best=trained.best,
            labels=trained.labels,
            sample=self.sample,
            cohort={"uri": str(cohort.location), "content_hash": cohort.content_hash},
            learned=("train", "validation") if cohort.view.merged else ("train",),
        )


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
    """Return every family by name, in alphabetical order; without Ray those that need none."""
    package = importlib.import_module("mskray.families")
    for module in pkgutil.iter_modules(package.__path__, "mskray.families."):
        _load(module.name)
    return dict(sorted(_REGISTRY.items()))


def _load(module: str) -> bool:
    """Import a family's file; False where it needs Ray, which is not installed here."""
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "ray":
            raise
        return False
    return True


def family(name: str) -> Family:
    """Return a family by name, or raise UserError that lists the known ones."""
    if name not in _REGISTRY and name.isidentifier() and importlib.util.find_spec(f"mskray.families.{name}"):
        # A file is named after its family: what the others need is not loaded.
        loaded = _load(f"mskray.families.{name}")
        if not loaded:
            raise UserError(f"family {name} spreads its work over Ray tasks, and Ray is not installed here: install it")
    if name in _REGISTRY:
        return _REGISTRY[name]
    known = families()
    if name not in known:
        raise UserError(f"unknown family {name!r}: {did_you_mean(name, known)}known are {', '.join(known)}")
    return known[name]
