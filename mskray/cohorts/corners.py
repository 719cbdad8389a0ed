"""`corners.json`: vertebral bodies that were found in volumes, with their corners; what sources of discs read.

    {"schema_version": 1, "volumes": {"p1/t2.nii.gz": [{"level": "L5", "slice": 7.0, "corners": [[x, y] × 4], …}]},
     "notes": {"p1/t2.nii.gz": ["no sacrum in view: the lowest body is taken for L5"]}}

`mskray find-vertebrae` writes it. A volume's name is its path, or that of its DICOM series' folder, relative to where
it was searched for, with "#2" and so on where a folder holds several; a series or file that was itself the place
searched goes by its name, as seen from the folder above. Corners are in pixels of the volume in the order of
`mskray.imaging.volumes.to_sagittal`: upper anterior, upper posterior, lower posterior, lower anterior. `notes` say what
a reader must know to trust a volume's bodies; older files have none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, field_validator

from mskray.errors import UserError
from mskray.imaging.spine import LEVELS, FoundVertebra, Vertebra
from mskray.imaging.spine_levels import ASSUMED
from mskray.storage import Location

CORNERS_VERSION = 1
# A volume takes some 3 KB.
_MOST_BYTES = 256 * 2**20

_Point = tuple[FiniteFloat, FiniteFloat]


class Body(BaseModel):
    """One body. `score` is the detector's, 0–1; None or absent where a person drew it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    level: Literal["T12", "L1", "L2", "L3", "L4", "L5", "S1"]
    slice: FiniteFloat
    corners: tuple[_Point, _Point, _Point, _Point]
    score: Annotated[float, Field(ge=0, le=1)] | None = None

    @property
    def vertebra(self) -> FoundVertebra:
        return FoundVertebra(self.level, self.slice, np.array(self.corners, float), self.score)

    @classmethod
    def of(cls, vertebra: Vertebra, score: float | None = None) -> "Body":
        corners = [(float(x), float(y)) for x, y in vertebra.corners]
        return cls.model_validate(
            {"level": vertebra.level, "slice": vertebra.slice, "corners": corners, "score": score}
        )


class Searched(BaseModel):
    """By what these bodies were found: hash of the detector, and of each volume's content; what may be kept."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    detector: str
    contents: dict[str, str]


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: Literal[1]
    volumes: dict[str, tuple[Body, ...]]
    notes: dict[str, tuple[str, ...]] = {}
    searched: Searched | None = None

    @field_validator("volumes")
    @classmethod
    def _once(cls, volumes: dict[str, tuple[Body, ...]]) -> dict[str, tuple[Body, ...]]:
        for name, bodies in volumes.items():
            if len({body.level for body in bodies}) < len(bodies):
                raise ValueError(f"a level is there more than once in {name}")
        return volumes


@dataclass(frozen=True)
class VolumeCorners:
    """The bodies of a volume by level, and what a reader must know to trust their names."""

    bodies: Mapping[str, Vertebra]
    notes: tuple[str, ...] = ()

    @property
    def assumed(self) -> tuple[str, ...]:
        """What to tell of a disc between these bodies: that its level is a guess, where it is one."""
        return tuple(f"its level is a guess ({note})" for note in self.notes if note == ASSUMED)


def read_corners(location: Location) -> dict[str, VolumeCorners]:
    """Volume → its bodies.

    Raises:
        UserError: no such file, one of more than 256 MiB, or one that is not laid out as above.
    """
    file = _read(location)
    found = {name: Entry(bodies, file.notes.get(name, ())) for name, bodies in file.volumes.items()}
    return {
        name: VolumeCorners(
            {body.level: body.vertebra for body in entry.bodies}, () if entry.all_drawn else entry.notes
        )
        for name, entry in found.items()
    }


@dataclass(frozen=True)
class Entry:
    """What is known of a volume: bodies, notes, and a hash of the content that was searched; None where it was not."""

    bodies: tuple[Body, ...]
    notes: tuple[str, ...] = ()
    content: str | None = None

    @property
    def drawn(self) -> bool:
        """Whether a person drew a body of it: then no search takes its place."""
        return any(body.score is None for body in self.bodies)

    @property
    def all_drawn(self) -> bool:
        """Whether a person drew every body: what a search noted is of others."""
        return bool(self.bodies) and all(body.score is None for body in self.bodies)


@dataclass(frozen=True)
class Search:
    """What was found in volumes, and the hash of the detector, where one found them."""

    entries: Mapping[str, Entry]
    detector: str | None = None

    def known_to(self, detector: str) -> dict[str, Entry]:
        """What this detector would find again, with its notes, and what a person drew."""
        return {
            name: entry
            for name, entry in self.entries.items()
            if entry.drawn or (self.detector == detector and entry.content)
        }


def read_search(location: Location) -> Search:
    """Return what is there of an earlier search; nothing where there is no file. Raises UserError for another file."""
    if not location.is_file():
        return Search({})
    try:
        file = _read(location)
    except UserError as error:
        raise UserError(f"{error}; nothing is written over it: give another --out") from None
    contents, detector = ({}, None) if file.searched is None else (file.searched.contents, file.searched.detector)
    entries = {
        # Without notes it was written before there were any: it is searched again.
        name: Entry(bodies, file.notes.get(name, ()), contents.get(name) if name in file.notes else None)
        for name, bodies in file.volumes.items()
    }
    return Search(entries, detector)


def _read(location: Location) -> _File:
    if not location.is_file():
        raise UserError(f"corners {location} are not a file: give a corners.json that `mskray find-vertebrae` wrote")
    content = location.read_json(_MOST_BYTES)
    version = content.get("schema_version") if isinstance(content, dict) else None
    if isinstance(version, int) and version > CORNERS_VERSION:
        raise UserError(f"{location} has version {version}, newer than this mskray reads: update mskray")
    try:
        return _File.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise UserError(
            f"{location} is no corners.json ({where}: {first['msg']}): `mskray find-vertebrae` writes one"
        ) from None


def write_search(location: Location, entries: Mapping[str, Entry], detector: str) -> None:
    """Write what a detector found."""
    write_corners(
        location,
        {name: entry.bodies for name, entry in entries.items()},
        {name: entry.notes for name, entry in entries.items()},
        Searched(detector=detector, contents={name: each.content for name, each in entries.items() if each.content}),
    )


def write_corners(
    location: Location,
    volumes: Mapping[str, Sequence[Body]],
    notes: Mapping[str, tuple[str, ...]] | None = None,
    searched: Searched | None = None,
) -> None:
    """Write the bodies of each volume, from above. Raises ValueError where a level is there twice."""
    ordered = {
        name: tuple(sorted(bodies, key=lambda body: LEVELS.index(body.level))) for name, bodies in volumes.items()
    }
    file = _File(schema_version=1, volumes=ordered, notes=dict(notes or {}), searched=searched)
    location.write_json(file.model_dump(mode="json", exclude=None if searched else {"searched"}))
