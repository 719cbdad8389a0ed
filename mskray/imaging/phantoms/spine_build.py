"""The bones of a phantom spine in one patient: bodies as four corners each, put one on another from the sacrum up.

Lengths are in mm on the patient's own axes: across (x, the patient's right to left), back (column) and down (row). The
upper endplate of S1 has its middle at the origin; whoever frames a volume moves it.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mskray.imaging.spine import LEVELS

Array = NDArray[Any]

#: Bodies from below. Those beside the named ones are cut by the field of view, or fused in the sacrum.
BELOW = ("S4", "S3", "S2")
ABOVE = ("T11", "T10")
CHAIN = (*BELOW, *reversed(LEVELS), *ABOVE)

#: Height of a disc over its natural height, by grade of narrowing.
HEIGHTS = (1.0, 0.74, 0.49, 0.26)

# From S1 up to T10: mean height and wedge (mm, degrees; a positive wedge opens to the front) of the disc below a body
# and of the body. Lordosis comes from the lower ones, and ends at the chest.
_DISC_HEIGHT = (10.2, 11.0, 10.2, 9.3, 8.4, 7.4, 6.6, 6.0)
_DISC_WEDGE = (13.0, 10.0, 8.0, 6.0, 4.0, 1.5, 0.0, -1.0)
_BODY_WEDGE = (6.5, 1.5, 0.0, -1.5, -2.5, -3.5, -4.0, -4.0)
_BODY_HEIGHT = (27.0, 27.5, 27.5, 27.0, 26.0, 25.0, 23.5, 22.5)
_BODY_WIDTH = (34.5, 34.5, 34.0, 33.0, 32.0, 31.0, 30.5, 30.0)
#: From S1 down: height (mm), wedge (degrees), the rudiment of a disc below (mm).
_SACRUM = (("S1", 28.0, 0.0, 3.2), ("S2", 22.0, -10.0, 2.0), ("S3", 18.0, -14.0, 1.5), ("S4", 15.0, -16.0, 1.0))


@dataclass(frozen=True)
class Body:
    """A vertebral body.

    corners: (4, 2) mm as (column, row): upper anterior, upper posterior, lower posterior, lower anterior.
    lateral: x of its middle; half_lateral: half of its breadth.
    concave: how deep its upper and lower endplates are, mm; waist: how deep its front and back walls are.
    rounding: radius of its corners; marrow: its signal, that of cerebrospinal fluid being 1.
    island: a bright spot in it: (along, down) of the half sides, mm from the middle across, radius.
    """

    name: str
    corners: Array
    lateral: float = 0.0
    half_lateral: float = 23.0
    concave: tuple[float, float] = (1.5, 1.8)
    waist: tuple[float, float] = (1.5, 0.8)
    rounding: float = 2.5
    marrow: float = 0.4
    island: tuple[float, float, float, float] | None = None

    @property
    def middle(self) -> Array:
        """(column, row)."""
        return np.asarray(self.corners.mean(axis=0))


def build(rng: np.random.Generator, narrowing: tuple[int, ...]) -> tuple[Body, ...]:
    """A patient's bodies from S4 up to T10; `narrowing` is the grade of the discs T12/L1 … L5/S1."""
    frame = float(rng.uniform(0.9, 1.1))
    tall = frame * float(rng.uniform(0.95, 1.06))
    discs = frame * float(rng.uniform(0.88, 1.15))
    curve = float(rng.uniform(0.7, 1.4))
    grades = (*reversed(narrowing), 0, 0)
    kept = np.array([HEIGHTS[grade] for grade in grades]) * rng.normal(1, 0.03, len(grades))
    heights = np.maximum(np.array(_DISC_HEIGHT) * discs * kept, 2.2)
    opens = np.deg2rad(np.array(_DISC_WEDGE) * curve * kept + rng.normal(0, 0.8, len(grades)))
    wedges = np.deg2rad(np.array(_BODY_WEDGE) * (0.4 + 0.6 * curve) + rng.normal(0, 1.2, len(grades)))
    # The patient lies so that L3 is about level; the slope of the sacrum follows from the lordosis below it.
    angle = float(opens[:3].sum() + wedges[:2].sum() + np.deg2rad(rng.normal(-2, 4.5)))
    centre = np.zeros(2)
    bodies = list(_sacrum(rng, centre, angle, frame))
    for place, name in enumerate(CHAIN[len(BELOW) + 1 :]):
        slip = float(rng.normal(0, 0.5) + (rng.random() < 0.04) * rng.uniform(2.5, 5))
        centre = _shift(centre, angle - opens[place] / 2, heights[place]) - slip * _along(angle)
        angle -= opens[place]
        width = _BODY_WIDTH[place] * frame * rng.normal(1, 0.02)
        lower = _ends(centre, angle, width)
        centre = _shift(centre, angle - wedges[place] / 2, _BODY_HEIGHT[place] * tall * rng.normal(1, 0.025))
        angle -= wedges[place]
        upper = _ends(centre, angle, width * rng.normal(0.96, 0.015))
        bodies.append(Body(name, np.stack((upper[0], upper[1], lower[1], lower[0]))))
    return _drifted(rng, tuple(_looks(rng, body, frame) for body in bodies))


def _sacrum(rng: np.random.Generator, centre: Array, angle: float, frame: float) -> tuple[Body, ...]:
    """S4 … S1 from S1's upper endplate down: wedges that narrow, with rudiments of discs between them."""
    bodies = []
    upper = _ends(centre, angle, 33.5 * frame * rng.normal(1, 0.03))
    taper = float(rng.uniform(0.66, 0.8))
    for name, height, bend, gap in _SACRUM:
        bend_by = np.deg2rad(bend + rng.normal(0, 3))
        angle += bend_by
        width = float(np.hypot(*(upper[1] - upper[0]))) * taper
        centre = _shift(upper.mean(axis=0), angle - bend_by / 2, -height * frame * rng.normal(1, 0.04))
        lower = _ends(centre, angle, width)
        bodies.append(Body(name, np.stack((upper[0], upper[1], lower[1], lower[0]))))
        upper = _ends(_shift(centre, angle, -gap * rng.uniform(0.6, 1.3)), angle, width * 0.97)
    return tuple(reversed(bodies))


def _looks(rng: np.random.Generator, body: Body, frame: float) -> Body:
    """A body with its own relief; the sacrum is straight."""
    fused = body.name in BELOW
    hollow = 0.3 if fused else 1.0
    lower_hollow = 0.3 if body.name.startswith("S") else 1.0
    place = float(rng.uniform(-0.5, 0.5)), float(rng.uniform(-0.35, 0.35)), float(rng.uniform(-9, 9))
    return replace(
        body,
        half_lateral=float(rng.uniform(21, 25) * frame * (0.8 if fused else 1)),
        concave=(float(hollow * rng.uniform(0.6, 1.8)), float(lower_hollow * rng.uniform(0.8, 2.1))),
        waist=(float(rng.uniform(1.2, 3.6)), float(rng.uniform(0.3, 1.6))),
        rounding=float(rng.uniform(1.5, 2.8)),
        # A haemangioma or an island of fat: bright, and no change of the marrow beside an endplate.
        island=(*place, float(rng.uniform(2.5, 5.5))) if rng.random() < 0.08 and not fused else None,
    )


def _drifted(rng: np.random.Generator, bodies: tuple[Body, ...]) -> tuple[Body, ...]:
    """Moves bodies sideways along a smooth curve: a mild scoliosis, and a spine not parallel to the slices."""
    heights = np.array([body.middle[1] for body in bodies])
    place = (heights - heights.mean()) / 120
    drift = rng.normal(0, 2.0) * place + rng.normal(0, 2.2) * np.sin(np.pi * (place + rng.uniform(-1, 1)))
    drift = np.clip(drift - np.median(drift), -6.5, 6.5)
    return tuple(replace(body, lateral=float(x)) for body, x in zip(bodies, drift, strict=True))


def _along(angle: float) -> Array:
    """Unit vector from the front to the back of an endplate whose back is raised by `angle`."""
    return np.array((np.cos(angle), -np.sin(angle)))


def _shift(point: Array, angle: float, up: float) -> Array:
    """A point moved up, across an endplate."""
    return np.asarray(point + up * np.array((-np.sin(angle), -np.cos(angle))))


def _ends(centre: Array, angle: float, width: float) -> Array:
    """Front and back end of an endplate, (2, 2)."""
    return np.stack((centre - width / 2 * _along(angle), centre + width / 2 * _along(angle)))
