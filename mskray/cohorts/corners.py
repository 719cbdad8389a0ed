"""`corners.json`: vertebral bodies that were found in volumes, with their corners; what sources of discs read.

    {"schema_version": 1, "volumes": {"p1/t2.nii.gz": [{"level": "L5", "slice": 7.0, "corners": [[x, y] × 4], …}]}}

`mskray find-vertebrae` writes it. A volume's name is its path, or that of its DICOM series' folder, relative to where
it was searched for; a series or file that was itself the place searched goes by its name, as seen from the folder
above. Corners are in pixels of the volume in the order of `mskray.imaging.volumes.to_sagittal`: upper anterior,
upper posterior, lower posterior, lower anterior.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, field_validator

from mskray.errors import UserError
from mskray.imaging.spine import LEVELS, Vertebra
from mskray.storage import Location

CORNERS_VERSION = 1
# A volume takes some 3 KB.
_MOST_BYTES = 256 * 2**20

_Point = tuple[FiniteFloat, FiniteFloat]


class Body(BaseModel):
    """One body. `score` is the detector's, 0–1; None where a person drew it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    level: Literal["T12", "L1", "L2", "L3", "L4", "L5", "S1"]
    slice: FiniteFloat
    corners: tuple[_Point, _Point, _Point, _Point]
    score: Annotated[float, Field(ge=0, le=1)] | None = None

    @property
    def vertebra(self) -> Vertebra:
        return Vertebra(self.level, self.slice, np.array(self.corners, float))

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
    searched: Searched | None = None

    @field_validator("volumes")
    @classmethod
    def _once(cls, volumes: dict[str, tuple[Body, ...]]) -> dict[str, tuple[Body, ...]]:
        for name, bodies in volumes.items():
            if len({body.level for body in bodies}) < len(bodies):
                raise ValueError(f"a level is there more than once in {name}")
        return volumes


def read_corners(location: Location) -> dict[str, dict[str, Vertebra]]:
    """Volume → level → body.

    Raises:
        UserError: no such file, one of more than 256 MiB, or one that is not laid out as above.
    """
    volumes = _read(location).volumes
    return {name: {body.level: body.vertebra for body in bodies} for name, bodies in volumes.items()}


def read_search(location: Location, detector: str) -> tuple[dict[str, tuple[Body, ...]], dict[str, str]]:
    """Bodies of each volume that this detector searched, and hashes of these volumes' contents; none of other files."""
    try:
        file = _read(location)
    except UserError:
        return {}, {}
    if file.searched is None or file.searched.detector != detector:
        return {}, {}
    contents = {name: digest for name, digest in file.searched.contents.items() if name in file.volumes}
    return {name: file.volumes[name] for name in contents}, contents


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
            f"{location} is no corners.json ({where}: {first['msg']}): write it with find-vertebrae"
        ) from None


def write_corners(location: Location, volumes: Mapping[str, Sequence[Body]], searched: Searched | None = None) -> None:
    """Write the bodies of each volume, from above. Raises ValueError where a level is there twice."""
    ordered = {
        name: tuple(sorted(bodies, key=lambda body: LEVELS.index(body.level))) for name, bodies in volumes.items()
    }
    file = _File(schema_version=1, volumes=ordered, searched=searched)
    location.write_json(file.model_dump(mode="json", exclude=None if searched else {"searched"}))
