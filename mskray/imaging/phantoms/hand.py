"""Wrist and hand of a phantom: carpals, metacarpals and phalanges as tubes, in mm (axes: see `shapes`).

The origin is the elbow joint, as in `arm`; the wrist joint lies at y = 245.5. Digits count from 1, the thumb.
"""

from zlib import crc32

import numpy as np

from mskray.imaging.phantoms.shapes import Point, Tube

_WRIST = 245.5

# name: (start x, y, z), (end x, y, z), widest half-width, all relative to the wrist joint.
_CARPALS: dict[str, tuple[Point, Point, float]] = {
    "scaphoid": ((5, 0, 0), (20, 21, 3), 6.3),
    "lunate": ((-5, 0, 0), (-5, 14, 1), 8.2),
    "triquetrum": ((-11, 4, -1), (-21, 18, 0), 7.0),
    "pisiform": ((-18, 8, 10), (-18, 17, 11), 4.8),
    "trapezium": ((18, 19, 4), (27, 34, 6), 8.2),
    "trapezoid": ((11, 20, 0), (13, 35, 0), 6.6),
    "capitate": ((1, 11, 0), (2, 37, 0), 7.6),
    "hamate": ((-9, 14, 1), (-11, 37, 1), 8.4),
}

# digit: metacarpal base (relative to the wrist joint), its end, the digit's slant in degrees towards the thumb's side,
# then length, base, middle and head width of metacarpal (its length follows from its ends) and phalanges.
_METACARPALS: dict[int, tuple[Point, Point, float, tuple[float, float, float]]] = {
    1: ((28, 31, 8), (48, 68, 18), 24.0, (14.5, 9.5, 13.5)),
    2: ((13, 34, 0), (23, 100, 1), 7.0, (15.0, 8.6, 14.0)),
    3: ((2, 37, -1), (4, 102, -1), 1.0, (14.0, 8.6, 14.0)),
    4: ((-8, 37, -1), (-12, 94, 0), -4.0, (12.0, 7.4, 12.5)),
    5: ((-17, 36, 0), (-28, 88, 2), -11.0, (13.0, 7.6, 12.0)),
}
_PHALANGES: dict[int, tuple[tuple[float, float, float, float], ...]] = {
    1: ((31, 14.0, 9.5, 11.5), (22, 12.5, 6.5, 8.5)),
    2: ((40, 15.0, 9.6, 11.6), (23, 13.0, 8.6, 10.2), (17, 11.0, 5.5, 7.5)),
    3: ((45, 15.5, 10.0, 12.0), (27, 13.5, 8.8, 10.6), (18, 11.5, 5.8, 8.0)),
    4: ((41, 14.5, 9.4, 11.2), (26, 12.8, 8.2, 10.0), (18, 11.0, 5.4, 7.6)),
    5: ((33, 13.0, 8.2, 9.8), (19, 11.0, 7.2, 8.8), (16, 9.5, 4.8, 6.6)),
}
NAMES = ("proximal", "middle", "distal")


def carpals() -> tuple[Tube, ...]:
    """The eight carpal bones."""
    return tuple(_pebble(name, _lowered(start), _lowered(end), half) for name, (start, end, half) in _CARPALS.items())


def metacarpal(digit: int) -> Tube:
    """`metacarpal 1` to `metacarpal 5`."""
    start, end, _, (base, middle, head) = _METACARPALS[digit]
    growth = (0.12,) if digit == 1 else (0.87,)
    return _strut(f"metacarpal {digit}", _lowered(start), _lowered(end), base, middle, head, True, growth)


def phalanges(digit: int, flexion: tuple[float, float, float] = (0, 0, 0)) -> tuple[Tube, ...]:
    """The phalanges of a digit, its joints flexed by so many degrees each, from the knuckle outwards."""
    _, knuckle, slant, _ = _METACARPALS[digit]
    names = (NAMES[0], NAMES[2]) if digit == 1 else NAMES
    at = np.array(_lowered(knuckle), float)
    bent = 25.0 if digit == 1 else 0.0
    tubes: list[Tube] = []
    for name, (length, base, middle, head), joint in zip(names, _PHALANGES[digit], flexion, strict=False):
        bent += joint
        direction = _direction(slant, bent)
        start = at + 1.7 * direction
        at = start + length * direction
        label = f"{name} phalanx {digit}"
        tubes.append(_strut(label, _point(start), _point(at), base, middle, head, name == "distal", (0.1,)))
    return tuple(tubes)


def sesamoids() -> tuple[Tube, ...]:
    """The pair under the knuckle of the thumb: small, bright, round and normal."""
    _, (x, y, z), _, _ = _METACARPALS[1]
    places = ((x - 4, y - 3, z + 8), (x + 4, y - 2, z + 8))
    return tuple(
        _pebble(f"sesamoid {i}", _lowered(place), _lowered((place[0], place[1] + 5, place[2])), 2.4)
        for i, place in enumerate(places)
    )


def flesh(tubes: tuple[Tube, ...]) -> tuple[Tube, ...]:
    """Soft tissue around the phalanges of one digit: one tube per phalanx, overlapping its neighbours."""
    covers = []
    for tube in tubes:
        half = max(row[1] for row in tube.profile) + 3.0
        axis = np.subtract(tube.end, tube.start) / tube.length
        before, after = 7.0, 5.0 if tube.name.startswith("distal") else 7.0
        start, end = np.array(tube.start) - before * axis, np.array(tube.end) + after * axis
        length = tube.length + before + after
        row = (half, half, 0.95 * half, 0.8 * half)
        slim = (0.9 * half, 0.9 * half, 0.86 * half, 0.72 * half)
        rows = tuple((s * length, *sides) for s, sides in ((0, row), (0.3, row), (0.6, slim), (1, slim)))
        last = tube.name.startswith("distal")
        covers.append(
            Tube(f"flesh of {tube.name}", _point(start), _point(end), rows, wall=2.0, caps=(6, 8 if last else 4))
        )
    return tuple(covers)


def palm() -> tuple[Tube, ...]:
    """Soft tissue of the palm and the ball of the thumb."""
    hollow = ((0, 30, 30, 19, 17), (55, 36, 34, 18, 14), (95, 40, 38, 15, 10), (138, 37, 38, 11, 9))
    ball = ((0, 14, 14, 12, 10), (30, 17, 18, 16, 11), (62, 12, 13, 12, 10))
    return (
        Tube("palm", (1, _WRIST - 28, 2), (-2, _WRIST + 110, 2), hollow, wall=4.0, caps=(40, 26)),
        Tube("ball of the thumb", (22, _WRIST + 18, 8), (50, _WRIST + 74, 20), ball, wall=3.0, caps=(10, 8)),
    )


def _strut(
    name: str, start: Point, end: Point, base: float, middle: float, head: float, rounded: bool, growth: tuple[float]
) -> Tube:
    """A metacarpal or phalanx: broad base with a hollow face, slim waist, head rounded or with two condyles."""
    length = float(np.linalg.norm(np.subtract(end, start)))
    widths = (
        (0.0, 0.88 * base),
        (0.06, base),
        (0.2, 0.84 * base),
        (0.5, middle),
        (0.78, 0.86 * head),
        (0.92, head),
        (1.0, 0.86 * head),
    )
    rows = tuple((s * length, w / 2, w / 2, 0.36 * w, 0.44 * w) for s, w in widths)
    face = (0.2, 0.9, 1.1, 0.9, 0.2)
    knuckle = () if rounded else (0.9, -0.2, 0.5, -0.2, 0.9)
    wall = 0.27 * middle
    caps = (1.4, 0.45 * head if rounded else 2.0)
    return Tube(name, start, end, rows, wall=wall, caps=caps, relief=(face, knuckle), growth=growth)


def _pebble(name: str, start: Point, end: Point, half: float) -> Tube:
    length = float(np.linalg.norm(np.subtract(end, start)))
    # Each carpal has facets of its own, the same in every hand: waves drawn from its name.
    first, second = (crc32(name.encode()) % 7 - 3) * 0.05, (crc32(name.encode()) // 7 % 7 - 3) * 0.05
    rows = tuple(
        (s * length, (w + first * a) * half, (v + second * a) * half, 0.85 * half, 0.85 * half)
        for s, w, v, a in ((0, 0.9, 0.84, 1), (0.3, 1.0, 0.94, -1), (0.65, 0.94, 1.0, 1), (1, 0.84, 0.92, -1))
    )
    facet = (0.1 * half * (1 + 4 * first), 0.0, 0.06 * half, 0.0, 0.1 * half * (1 - 4 * second))
    cap = 0.3 * length
    return Tube(name, start, end, rows, wall=1.2, caps=(cap, cap), relief=(facet, facet[::-1]))


def _direction(slant: float, bent: float) -> np.ndarray:
    a, b = np.deg2rad(slant), np.deg2rad(bent)
    return np.array((np.sin(a) * np.cos(b), np.cos(a) * np.cos(b), np.sin(b)))


def _lowered(point: Point) -> Point:
    return point[0], point[1] + _WRIST, point[2]


def _point(vector: np.ndarray) -> Point:
    return float(vector[0]), float(vector[1]), float(vector[2])
