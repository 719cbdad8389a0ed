"""Draws vertebral bodies and discs of a phantom spine over all slices at once, with their defects and true masks.

The two endplates of a disc are surfaces above their straight edges: a hollow, and the notches of endplate defects. Body
and disc meet at the same surface, so that a notch in the bone is filled with disc. Signals are relative to
cerebrospinal fluid = 1; arrays over a window are (slices, rows, columns) float32.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from mskray.imaging.phantoms.spine_build import Array, Body
from mskray.imaging.phantoms.spine_grades import Change, DiscGrades
from mskray.imaging.phantoms.spine_paint import Grid, ramp

# By Pfirrmann grade (Pfirrmann 2001, table 1): signal of the nucleus, of the annulus, and how sharp their border is.
NUCLEUS = (0.97, 0.80, 0.52, 0.27, 0.11)
_ANNULUS = (0.30, 0.17, 0.17, 0.13, 0.08)
_BORDER = (0.45, 0.35, 0.9, 1.4, 1.6)
#: Grade II has a horizontal grey band in its nucleus, grade III an uneven one.
_CLEFT = (0.0, 0.28, 0.15, 0.0, 0.0)
_UNEVEN = (0.03, 0.05, 0.14, 0.10, 0.05)

_CORTEX = 0.06
_BASIVERTEBRAL = 0.72


@dataclass(frozen=True)
class Endplate:
    """One end of a body: a straight edge and its relief.

    `start`, `end`: its front and back corner; `inward`: unit normal into the body.
    """

    start: Array
    end: Array
    inward: Array
    hollow: float
    lateral: float
    half_lateral: float
    notch: Change | None

    @property
    def length(self) -> float:
        return float(np.hypot(*(self.end - self.start)))

    def place(self, rows: Array, columns: Array) -> tuple[Array, Array]:
        """(−1 at the front … 1 at the back, mm from the straight edge into the body)."""
        tangent = (self.end - self.start) / self.length
        middle = (self.start + self.end) / 2
        across = columns[None] - np.float32(middle[0])
        down = rows[:, None] - np.float32(middle[1])
        along = (across * np.float32(tangent[0]) + down * np.float32(tangent[1])) * np.float32(2 / self.length)
        return along, across * np.float32(self.inward[0]) + down * np.float32(self.inward[1])

    def relief(self, along: Array, x: Array, notched: bool = True) -> Array:
        """How far (mm) the surface lies inside the straight edge; x (slices, 1, 1) mm."""
        side = np.clip(1 - ((x - np.float32(self.lateral)) / np.float32(self.half_lateral)) ** 2, 0, 1)
        relief = np.float32(self.hollow) * np.maximum(1 - along**2, 0) * side
        if self.notch is None or not notched:
            return np.asarray(relief)
        centre = np.float32(self.notch.along)
        width = np.float32(2 * self.notch.half / self.length)
        near = 1 - ((along - centre) / width) ** 2 - self.sideways(self.notch, x) ** 2
        return np.asarray(relief + np.float32(self.notch.depth) * np.sqrt(np.maximum(near, 0)))

    def sideways(self, change: Change, x: Array) -> Array:
        """Lateral distance from the middle of a change, 1 at its rim."""
        return np.asarray((x - np.float32(self.lateral + change.lateral)) / np.float32(change.half_lateral))


def endplates(body: Body, notches: tuple[Change | None, Change | None] = (None, None)) -> tuple[Endplate, Endplate]:
    """The upper and the lower endplate of a body, with the notch of each."""
    front_up, back_up, back_down, front_down = body.corners
    ends = []
    pairs = ((front_up, back_up), (front_down, back_down))
    for (start, end), hollow, notch, sign in zip(pairs, body.concave, notches, (1, -1), strict=True):
        tangent = (end - start) / np.hypot(*(end - start))
        inward = sign * np.array((-tangent[1], tangent[0]))
        ends.append(Endplate(start, end, inward, hollow, body.lateral, body.half_lateral, notch))
    return ends[0], ends[1]


@dataclass(frozen=True)
class Bone:
    """A body as drawn: what its neighbours and its defects need to know."""

    body: Body
    upper: Endplate
    lower: Endplate


def draw_body(
    signal: Array, masks: Array, grid: Grid, bone: Bone, number: int, grain: Array, patches: dict[str, Change]
) -> dict[str, Array]:
    """Draws a body over `signal` and its number into `masks`, both (slices, rows, columns), in place.

    grain: texture of marrow in standard deviations, (slices, rows, columns).
    patches: marrow changes beside its "upper" and "lower" endplate.

    Returns the masks (slices, rows, columns) bool of those changes.
    """
    body = bone.body
    window = grid.window(body.corners, 3.0)
    if window is None:
        return {}
    rows, columns = grid.rows[window[0]], grid.columns[window[1]]
    x = grid.x[:, None, None]
    along_up, from_up = bone.upper.place(rows, columns)
    along_down, from_down = bone.lower.place(rows, columns)
    down = from_up / np.maximum(from_up + from_down, 1) * 2 - 1
    along = along_up + (along_down - along_up) * (down + 1) / 2
    depth_up = from_up - bone.upper.relief(along_up, x)
    depth_down = from_down - bone.lower.relief(along_down, x)

    # Off the middle the front wall recedes, as on an axial slice; the back wall does so only at the sides.
    side = np.clip(np.abs(x - np.float32(body.lateral)) / np.float32(body.half_lateral), 0, 1)
    half = np.float32(bone.upper.length / 2) * (
        1 + (np.float32(bone.lower.length / bone.upper.length) - 1) * (down + 1) / 2
    )
    recede = (1 - np.sqrt(1 - side**2)) * half
    waist = np.maximum(1 - down**2, 0)
    front = (along + 1) * half - np.float32(body.waist[0]) * waist - recede
    back = (1 - along) * half - np.float32(body.waist[1]) * waist - np.float32(0.3) * recede
    lateral = (1 - side) * np.float32(body.half_lateral) + 0 * front
    inside = _rounded(np.minimum(front, back), np.minimum(depth_up, depth_down), body.rounding)
    inside = np.minimum(inside, lateral)

    soft = np.float32(max(grid.pixel, 0.5))
    marrow = np.float32(body.marrow) * (1 + np.float32(0.09) * grain[:, window[0], window[1]])
    vein = (
        np.exp(-((down / 0.16) ** 2)) * ramp(along - 0.25, 0.7) * np.exp(-(((x - np.float32(body.lateral)) / 6) ** 2))
    )
    marrow += np.float32(_BASIVERTEBRAL - body.marrow) * vein * np.float32(0.75)
    if body.island:
        at, sunk, across, radius = body.island
        far = ((along - at) * half) ** 2 + ((down - sunk) * 12) ** 2 + (x - np.float32(body.lateral + across)) ** 2
        marrow += np.float32(0.4) * np.exp(-far / np.float32(radius**2))
    truth = {}
    for name, change in patches.items():
        plate, deep, place = (
            (bone.upper, depth_up, along_up) if name == "upper" else (bone.lower, depth_down, along_down)
        )
        weight = _patch(plate, change, place, deep, x)
        marrow += (np.float32(_patch_signal(body.marrow, change.bright)) - marrow) * weight
        whole = np.zeros(grid.shape, bool)
        whole[:, window[0], window[1]] = (weight > 0.5) & (inside > 0)
        truth[name] = whole
    # Compact bone: thin at the walls, thicker at the endplates.
    rim = np.where(np.minimum(depth_up, depth_down) < np.minimum(front, back), np.float32(1.3), np.float32(0.8))
    marrow = np.float32(_CORTEX) + (marrow - np.float32(_CORTEX)) * ramp(inside - rim, soft)
    cover = ramp(inside + np.float32(0.4), soft)
    part = signal[:, window[0], window[1]]
    part += (marrow - part) * cover
    masks[:, window[0], window[1]][inside > 0] = number
    return truth


def draw_disc(
    signal: Array, masks: Array, grid: Grid, upper: Bone, lower: Bone, number: int, look: "DiscLook", grain: Array
) -> dict[str, Array]:
    """Draws the disc between two bodies, before the bodies, and returns the masks of its endplates' notches."""
    above, below = upper.lower, lower.upper
    corners = np.stack((above.start, above.end, below.start, below.end))
    window = grid.window(corners, 8.0)
    if window is None:
        return {}
    rows, columns = grid.rows[window[0]], grid.columns[window[1]]
    x = grid.x[:, None, None]
    along_up, into_up = above.place(rows, columns)
    along_down, into_down = below.place(rows, columns)
    from_up = above.relief(along_up, x) - into_up
    from_down = below.relief(along_down, x) - into_down
    height = np.maximum(from_up + from_down, 0.5)
    level = np.clip((from_up - from_down) / height, -1.5, 1.5)
    along = (along_up + along_down) / 2
    body = upper.body
    half = np.float32((above.length + below.length) / 4)
    side = np.clip(
        np.abs(x - np.float32((body.lateral + lower.body.lateral) / 2)) / np.float32(body.half_lateral), 0, 1
    )
    recede = (1 - np.sqrt(1 - side**2)) * half
    bow = np.maximum(1 - level**2, 0)
    front = (along + 1) * half + np.float32(look.bulge_front) * bow - recede
    back = (1 - along) * half + np.float32(look.bulge_back) * bow - np.float32(0.3) * recede
    inside = np.minimum(np.minimum(front, back), np.minimum(from_up, from_down) + np.float32(0.6))
    inside = np.minimum(inside, (1 - side) * np.float32(body.half_lateral))

    # The nucleus: a flat superellipse, nearer to the back, that ends before the sides do.
    far = np.abs((along - np.float32(look.shift)) / np.float32(0.74)) ** 2 + np.abs(level / np.float32(0.98)) ** 2
    core = ramp(1 - far - (side / np.float32(0.85)) ** 4, look.border)
    nucleus = look.nucleus * (1 + np.float32(look.uneven) * grain[:, window[0], window[1]])
    nucleus *= 1 - np.float32(look.cleft) * np.exp(-(((level - np.float32(look.cleft_at)) / np.float32(0.22)) ** 2))
    value = look.annulus + (nucleus - look.annulus) * core
    cover = ramp(inside, np.float32(max(grid.pixel, 0.5)))
    part = signal[:, window[0], window[1]]
    part += (value - part) * cover
    masks[:, window[0], window[1]][(inside > 0) & (np.minimum(from_up, from_down) > 0)] = number

    truth = {}
    for name, plate, place, into in (("upper", above, along_up, into_up), ("lower", below, along_down, into_down)):
        if plate.notch is not None:
            whole = np.zeros(grid.shape, bool)
            smooth = plate.relief(place, x, notched=False)
            notched = plate.relief(place, x)
            whole[:, window[0], window[1]] = (into > smooth) & (into <= notched) & (front > 0) & (back > 0)
            truth[name] = whole
    return truth


@dataclass(frozen=True)
class DiscLook:
    """How a disc looks. Signals relative to fluid; `shift`: of the nucleus along the disc; bulges in mm."""

    nucleus: Any
    annulus: Any
    border: float
    cleft: float
    cleft_at: float
    uneven: float
    shift: float
    bulge_front: float
    bulge_back: float


def disc_look(rng: np.random.Generator, given: DiscGrades) -> DiscLook:
    """Draws a disc's look for its grades."""
    grade = given.grades["pfirrmann"]
    worn = (grade + given.grades["narrowing"]) / 7
    return DiscLook(
        nucleus=np.float32(NUCLEUS[grade] * rng.normal(1, 0.045)),
        annulus=np.float32(_ANNULUS[grade] * rng.normal(1, 0.08)),
        border=_BORDER[grade] * float(rng.uniform(0.85, 1.15)),
        cleft=_CLEFT[grade] * float(rng.uniform(0.7, 1.3)),
        cleft_at=float(rng.normal(0, 0.12)),
        uneven=_UNEVEN[grade],
        shift=float(rng.uniform(0.0, 0.16)),
        bulge_front=float(rng.uniform(0.3, 1.2) + 1.2 * worn * rng.random()),
        bulge_back=float(rng.uniform(0.0, 0.8) + 3.2 * worn * rng.random() ** 1.5),
    )


def _patch(plate: Endplate, change: Change, along: Array, depth: Array, x: Array) -> Array:
    """Weight 0 … 1 of a marrow change: half an ellipsoid on the endplate's surface."""
    width = np.float32(2 * change.half / plate.length)
    far = ((along - np.float32(change.along)) / width) ** 2 + (depth / np.float32(change.depth)) ** 2
    return ramp(1 - far - plate.sideways(change, x) ** 2, 0.5)


def _patch_signal(marrow: float, bright: bool) -> float:
    return marrow * 1.75 + 0.04 if bright else marrow * 0.42


def _rounded(across: Array, along: Array, radius: float) -> Array:
    """Depth (mm) inside a rectangle with rounded corners, from the depths within its two pairs of sides."""
    r = np.float32(radius)
    return np.asarray(
        np.where(
            (across < r) & (along < r),
            r - np.hypot(np.maximum(r - across, 0), np.maximum(r - along, 0)),
            np.minimum(across, along),
        )
    )
