"""Spines: vertebral bodies, and the grades of the discs between them.

Coordinates are those of the volume in the order of `to_sagittal`: slices run right to left, rows down, columns
backwards. Pixel i covers i to i + 1 along rows and columns; slices count from 0 at their centres.
"""

from dataclasses import dataclass, field

import numpy as np
from pydantic import Field

from mskray.serving.schemas.common import Answer, Doubt, Probabilities


class VolumeInfo(Answer):
    """The volume as it was read."""

    slices: int = Field(description="Sagittal slices.", examples=[17])
    rows: int = Field(description="Rows of a slice, px.", examples=[512])
    columns: int = Field(description="Columns of a slice, px.", examples=[512])
    spacing_mm: tuple[float, float, float] = Field(
        description="Between slices, rows and columns, mm.", examples=[(4.4, 0.6, 0.6)]
    )


class BodyResult(Answer):
    """A vertebral body."""

    level: str = Field(description="T12, L1 to L5 or S1.", examples=["L4"])
    slice: float = Field(description="The slice through its middle, from 0.", examples=[8.2])
    corners: list[tuple[float, float]] = Field(
        description="Upper anterior, upper posterior, lower posterior, lower anterior as (column, row), px.",
        examples=[[(210.0, 250.0), (262.0, 247.0), (265.0, 290.0), (212.0, 294.0)]],
    )
    score: float | None = Field(description="How sure the detector is, 0 to 1.", examples=[0.93])


class Placement(Answer):
    """How pictures of a disc lie in the volume."""

    slices: list[float] = Field(description="The volume's slice of each picture.", examples=[[6.0, 7.0, 8.0]])
    matrix: tuple[float, float, float, float, float, float] = Field(
        description="a, b, c, d, e, f as in CSS: pixel (x, y) of a picture lies at column a x + c y + e, row b x + d y "
        "+ f of the slice.",
        examples=[(0.5, 0.02, -0.02, 0.5, 180.0, 200.0)],
    )
    rows: int = Field(description="Rows of a picture, px.", examples=[112])
    columns: int = Field(description="Columns of a picture, px.", examples=[224])


class Grade(Answer):
    """One task of one disc."""

    label: str = Field(description="The class that is called.", examples=["III"])
    probabilities: Probabilities = Field(description="By class.", examples=[{"I": 0.1, "II": 0.2, "III": 0.7}])
    hotspots: list[str] | None = Field(
        description="With `explain`, where the grader holds reasons for this class: a greyscale PNG a slice of "
        "`placement`, 0 for no evidence to 255 for the most in this disc and task; kept for a day.",
        examples=[["/v1/results/0b5e9c3ad3c94a0fa8c0b6e3c9f0e1d2/L4-L5-pfirrmann-0.png"]],
    )


class DiscResult(Answer):
    """One disc."""

    level: str = Field(description="From T12/L1 to L5/S1.", examples=["L4/L5"])
    grades: dict[str, Grade] = Field(description="By task; empty where it could not be graded.")
    placement: Placement | None = Field(description="How its pictures lie; null where it could not be graded.")
    note: str | None = Field(
        description="Why it could not be graded.", examples=["the disc lies outside the field of view"]
    )


class SpineAnswer(Answer):
    """What is said of a spine."""

    request_id: str | None = Field(description="The X-Request-Id of the request that sent it.")
    volume: VolumeInfo = Field(description="The volume as it was read.")
    bodies: list[BodyResult] = Field(description="The vertebral bodies that were found, from above.")
    discs: list[DiscResult] = Field(description="The discs between neighbouring bodies, from above.")
    warnings: list[Doubt] = Field(description="What a reader must know to trust levels and grades.")
    model: str = Field(description="Hash of what read it, see `GET /v1/models`.")


@dataclass(frozen=True)
class Hotspots:
    """Where the grader holds reasons for a disc's grade: (slices, rows, columns) uint8 as `Placement` places them."""

    level: str
    task: str
    pixels: np.ndarray


@dataclass(frozen=True)
class SpineReading:
    """A spine on its way to the answer: `hotspots` have no place to lie yet."""

    volume: VolumeInfo
    bodies: list[BodyResult]
    discs: list[DiscResult]
    warnings: list[Doubt]
    model: str
    hotspots: list[Hotspots] = field(default_factory=list)


@dataclass(frozen=True)
class Reached:
    """How far the reading of a spine is: `done` of `total` discs and their tasks, and what is done now."""

    done: int
    total: int
    what: str
