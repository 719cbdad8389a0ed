"""Foreign layouts that can become a cohort: what a source is, and the registry that finds them.

A source is one file in this package: a subclass of `Source` under `@register`. Adding one edits no other file.

    mskray ingest SOURCE IN --out URI
"""

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Literal, TypeVar

import numpy as np

from mskray.cohorts.schema import Fractions, ImageFormat, Task
from mskray.config import Section
from mskray.errors import UserError, did_you_mean
from mskray.imaging.decode import DecodedImage, DecodeLimits, decode
from mskray.imaging.regions import Box, FitMode
from mskray.imaging.spine import Vertebra
from mskray.storage import FileEntry, Location

OptionsT = TypeVar("OptionsT", bound=Section)
SourceT = TypeVar("SourceT", bound="type[Source[Any]]")

UNKNOWN_PART = "UNKNOWN"
BURNED_IN = "take images whose DICOM header says that text is drawn into them (BurnedInAnnotation); it may be a name"


@dataclass(frozen=True, slots=True)
class Item:
    """One image that a source lists, before anything is decoded.

    Args:
        path: relative to the root of the source, or the name of a phantom; what quarantine shows.
        patient_id, study_id: raw, as the source writes them; a study belongs to one patient. Only their keyed
            hashes go further than the listing.
        fingerprint: changes when the bytes may have changed (size and modification time).
        labels: task → class index, None or absent where it is not known.
        body_part: upper case, "UNKNOWN" where the source does not say.
        view_index: 0-based place of the image in its study; None: its place among those listed of the study.
        laterality: "L", "R" or None.
        split: the source's own split ("train", "validation", "test"), or None.
        instance_id: raw and unique, where the source has one; else the path stands for it.
        row: line of the listing that named it, where there is one.
        findings: boxes that the listing knows, in the unit of `Source.relative_boxes`; `load` adds what the file knows.
        address: what `fetch` and `load` are given in place of `path`, where it does not say all that they need (several
            files, corners); never shown.
    """

    path: str
    patient_id: str
    study_id: str
    fingerprint: str
    labels: Mapping[str, int | None] = field(default_factory=dict)
    body_part: str = UNKNOWN_PART
    view: str | None = None
    view_index: int | None = 0
    laterality: str | None = None
    split: str | None = None
    instance_id: str | None = None
    row: int | None = None
    findings: "tuple[Finding, ...]" = ()
    address: str | None = None


@dataclass(frozen=True, slots=True)
class Rejected:
    """An input that the listing already shows to be unusable; it goes to quarantine."""

    path: str
    reason: str
    row: int | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """A true finding ("fracture", "implant", "lesion") or an L/R "flag"; box in pixels of the source image."""

    kind: str
    box: Box


@dataclass(frozen=True)
class Loaded:
    """A decoded image with the truth that its source knows.

    Args:
        mask: uint8 as large as the image, above 0 = abnormal; None where the source has no masks.
        vertebrae: bodies of a spine, corners in pixels of the image.
        notes: what is worth knowing of it, such as missing slices, in words that many images share: they are counted.
    """

    image: DecodedImage
    findings: tuple[Finding, ...] = ()
    mask: np.ndarray | None = None
    vertebrae: tuple[Vertebra, ...] = ()
    notes: tuple[str, ...] = ()


class Source(ABC, Generic[OptionsT]):
    """One foreign layout. Instances hold no state: workers make their own.

    Class attributes:
        name: how the command line calls it.
        summary: one clause for the list of sources.
        kind: kind of cohort that it makes.
        Options: its options, a `Section`.
        located: whether it reads from a location; a phantom needs none.
        size: side of its stored images, px, where the user gives none.
        masks: whether `load` gives masks.
        vertebrae: whether `load` gives vertebral bodies.
        relative_boxes: whether boxes of its items are shares of the image's sides, not pixels.
        split_note: what is worth knowing about its own splits; goes into cohort.json.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    kind: ClassVar[str] = "radiograph"
    Options: ClassVar[type[Section]]
    located: ClassVar[bool] = True
    size: ClassVar[int] = 224
    masks: ClassVar[bool] = False
    vertebrae: ClassVar[bool] = False
    relative_boxes: ClassVar[bool] = False
    split_note: ClassVar[str] = ""

    def root(self, location: Location, options: OptionsT) -> Location:
        """What paths of items are relative to. Raises UserError when the layout is not this source's."""
        return location

    @abstractmethod
    def tasks(self, location: Location | None, options: OptionsT) -> tuple[Task, ...]:
        """The label space; the first task stratifies the splits. Raises UserError."""

    @abstractmethod
    def items(self, location: Location | None, options: OptionsT) -> Iterator[Item | Rejected]:
        """List every input once, in a reproducible order, without decoding; paths are relative to `root`."""

    def format(self, size: int, dtype: Literal["uint8", "uint16"], fit: FitMode, options: OptionsT) -> ImageFormat:
        """How images are stored: square pictures, unless the source overrides it. Raises UserError."""
        return ImageFormat(size=size, dtype=dtype, fit=fit)

    def fractions(self, options: OptionsT) -> Fractions:
        """How to cut patients that have no split of their own, when the user does not say."""
        return (0.7, 0.15, 0.15)

    def allows_burned_in(self, options: OptionsT) -> bool:
        """Whether images are taken whose header says that text, often the patient's name, is drawn into them."""
        return False

    def fetch(self, root: Location | None, path: str) -> bytes:
        """Read one image's bytes; runs in several threads at once."""
        if root is None:
            raise ValueError(f"{self.name} reads no files")
        return root.join(path).read_bytes(max_bytes=DecodeLimits().max_bytes)

    def file(self, root: Location, path: str) -> Location:
        """The file to look at when `fetch` could not read `path`: one that is gone, if it needs several."""
        return root.join(path)

    def load(self, path: str, data: bytes, options: OptionsT) -> Loaded:
        """Turn bytes into an image. Raises mskray.imaging.decode.DecodeError with the reason."""
        return Loaded(decode(data))

    def load_as(self, image: ImageFormat, path: str, data: bytes, options: OptionsT) -> Loaded:
        """As `load`, for cells of this format: for sources that make their images as large as they are stored."""
        return self.load(path, data, options)


_SOURCES: dict[str, "Source[Any]"] = {}


def register(cls: SourceT) -> SourceT:
    """Make a source known by its name."""
    _SOURCES[cls.name] = cls()
    return cls


def source_names() -> list[str]:
    """Names of all sources, sorted."""
    for module in pkgutil.iter_modules(__path__):
        if not module.name.startswith("_"):
            importlib.import_module(f"{__name__}.{module.name}")
    return sorted(_SOURCES)


def get_source(name: str) -> "Source[Any]":
    """Find a source by name, or raise UserError that names those there are."""
    names = source_names()
    if name not in names:
        raise UserError(f"unknown source {name!r}: {did_you_mean(name, names)}use one of {', '.join(names)}")
    return _SOURCES[name]


def fingerprint(entry: FileEntry) -> str:
    """Size and modification time of a file, as one word."""
    return f"{entry.size}-{entry.mtime_ns}"


def child_folders(location: Location, names: tuple[str, ...]) -> list[str]:
    """Those of `names` that are folders directly under a location."""
    return [name for name in names if location.join(name).is_dir()]
