"""The anatomy of a study: a patient's build, the skeleton of a body part in a view, and where the tube looks.

Every body part is put together from the tubes of `arm` and `hand`. The bones that may bear an abnormality (the
hosts) decide the framing, so an abnormality is always inside the image and the framing never tells the label.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from zlib import crc32

import numpy as np

from mskray.imaging.phantoms import arm, hand
from mskray.imaging.phantoms.plan import PATIENT, STUDY, PhantomSpec, PhantomStudy, stream
from mskray.imaging.phantoms.shapes import Array, Camera, Tube

_TURN = {"AP": 0.0, "PA": 0.0, "OBLIQUE": 42.0, "LATERAL": 88.0}
_FINGERS_UP = ("FINGER", "HAND", "WRIST")
_ELBOW: tuple[float, float, float] = (0.0, -9.0, 4.0)
_JITTERS = 61


@dataclass(frozen=True)
class Build:
    """What a patient's studies share. Factors are relative to an average adult."""

    size: float
    bone: float
    cortex: float
    density: float
    flesh: float
    child: bool
    jitter: tuple[float, ...]

    def of(self, name: str) -> float:
        """The patient's own girth of one bone."""
        return self.bone * self.jitter[crc32(name.encode()) % _JITTERS]


@dataclass(frozen=True)
class Skeleton:
    """What lies in the beam: bones, soft tissue, air."""

    bones: tuple[Tube, ...]
    tissues: tuple[Tube, ...]
    air: tuple[Tube, ...] = ()

    def hosts(self) -> tuple[Tube, ...]:
        """Bones that may bear an abnormality."""
        return tuple(bone for bone in self.bones if bone.host)


def build_of(spec: PhantomSpec, patient: int) -> Build:
    """The patient's build: age, frame, bone density, soft tissue."""
    rng = stream(spec.seed, PATIENT, patient)
    child = bool(rng.random() < 0.22)
    return Build(
        size=float(rng.uniform(0.62, 0.85) if child else np.clip(rng.normal(1.0, 0.06), 0.86, 1.16)),
        bone=float(rng.uniform(0.9, 1.12)),
        cortex=float(rng.uniform(0.65, 1.2)),
        density=float(rng.uniform(0.72, 1.15)),
        flesh=float(rng.uniform(0.85, 1.3)),
        child=child,
        jitter=tuple(rng.normal(1, 0.04, _JITTERS).clip(0.9, 1.1).tolist()),
    )


@dataclass(frozen=True)
class Request:
    """What a study's views are to show: a FINGER study one digit, a study of a long bone a stretch of it."""

    digit: int
    stretch: tuple[float, float]


def request_of(spec: PhantomSpec, study: PhantomStudy) -> Request:
    """Drawn once per study, so that its views agree."""
    rng = stream(spec.seed, STUDY, study.index, 1)
    digit = int(rng.choice(5, p=(0.16, 0.24, 0.24, 0.18, 0.18))) + 1
    share = rng.uniform(0.4, 0.8) if study.body_part in ("FOREARM", "HUMERUS") else 1.0
    start = rng.uniform(0, 1 - share)
    return Request(digit, (float(start), float(start + share)))


def skeleton_of(body_part: str, view: str, request: Request, build: Build) -> Skeleton:
    """The skeleton of a body part posed for a view, in the patient's build (reference mm: times `build.size`)."""
    plain = _plain(body_part, view, request.digit)
    low, high = request.stretch
    bones = tuple(
        replace(
            bone,
            girth=build.of(bone.name),
            wall=bone.wall * build.cortex,
            density=bone.density * build.density,
            host=(max(bone.host[0], low), min(bone.host[1], high)) if bone.host else None,
            growth=bone.growth if build.child else (),
        )
        for bone in plain.bones
    )
    tissues = tuple(replace(tissue, girth=build.flesh, wall=tissue.wall * build.flesh) for tissue in plain.tissues)
    return Skeleton(bones, tissues, plain.air)


@dataclass(frozen=True)
class Framing:
    """A camera, its image's (rows, columns), and the part of it (x0, y0, x1, y1) that hosts may occupy."""

    camera: Camera
    shape: tuple[int, int]
    focus: tuple[float, float, float, float]


def frame(skeleton: Skeleton, study: PhantomStudy, view: str, long_side: int, rng: np.random.Generator) -> Framing:
    """Places the tube and the detector: projection, in-plane rotation, scale, translation, image shape."""
    turn = _TURN[view] * (0.78 if study.body_part == "SHOULDER" else 1.0) + rng.normal(0, 4)
    tilt = rng.normal(0, 3)
    plane = rng.normal(0, 7) + (180 if study.body_part in _FINGERS_UP else 0)
    # Fingers up, the right thumb is on the left; arm hanging and seen from the front, the right side is as well.
    mirror = -1.0 if (study.laterality == "L") == (study.body_part in _FINGERS_UP) else 1.0
    rotation = _about(0, tilt) @ _about(1, turn)
    flat = _about(2, plane)[:2, :2] @ np.diag((mirror, 1.0))

    unit = Camera(rotation, flat, np.zeros(2), 1.0)
    points = np.concatenate([_extent(bone, unit) for bone in skeleton.hosts()])
    low, high = points.min(axis=0), points.max(axis=0)
    width, height = np.maximum(high - low, 45.0)
    short = round(long_side * float(rng.uniform(0.72, 1.0)))
    columns, rows = (long_side, short) if width > height else (short, long_side)
    margin = rng.uniform(0.05, 0.12)
    scale = (1 - 2 * margin) * min(columns / width, rows / height)
    free = np.array((columns, rows)) - scale * (high - low)
    corner = free / 2 + rng.uniform(-0.5, 0.5, 2) * (free - 2 * 0.05 * long_side).clip(0)
    offset = corner - scale * low
    ends = np.concatenate((scale * low + offset, scale * high + offset))
    return Framing(
        Camera(rotation, flat * scale, offset, float(scale)),
        (rows, columns),
        (float(ends[0]), float(ends[1]), float(ends[2]), float(ends[3])),
    )


def _extent(bone: Tube, camera: Camera) -> Array:
    """Corners (px) around the stretch of a bone where an abnormality may lie."""
    assert bone.host is not None
    start, along = np.array(bone.start), np.subtract(bone.end, bone.start)
    ends = camera.points(start + np.array(bone.host)[:, None] * along)
    reach = bone.reach(*bone.host) * camera.px_per_mm
    return np.concatenate((ends - reach, ends + reach))


def _about(axis: int, degrees: float) -> Array:
    """Rotation matrix about body axis 0, 1 or 2."""
    angle = np.deg2rad(degrees)
    first, second = [i for i in range(3) if i != axis]
    turn = np.eye(3)
    turn[first, first] = turn[second, second] = np.cos(angle)
    turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
    return turn


def _hosting(tube: Tube, low: float, high: float) -> Tube:
    return replace(tube, host=(low, high))


@lru_cache(maxsize=64)
def _plain(body_part: str, view: str, digit: int) -> Skeleton:
    lateral = view == "LATERAL"
    if body_part == "SHOULDER":
        girdle = (_hosting(arm.HUMERUS, 0.05, 0.34), _hosting(arm.CLAVICLE, 0.35, 0.88), *arm.SCAPULA)
        chest = () if lateral else arm.ribs()
        return Skeleton((*girdle, *chest), (arm.UPPER_ARM, *arm.TORSO), (arm.LUNG,))
    if body_part == "HUMERUS":
        whole = (_hosting(arm.HUMERUS, 0.1, 0.9), arm.RADIUS, arm.ULNA)
        limb = (arm.UPPER_ARM, arm.FOREARM)
        if lateral:  # the arm held off the chest
            return Skeleton(whole, limb)
        return Skeleton((*whole, *arm.SCAPULA, arm.CLAVICLE, *arm.ribs()), (*limb, *arm.TORSO), (arm.LUNG,))
    if body_part == "ELBOW":
        below = (_hosting(arm.RADIUS, 0.04, 0.32), _hosting(arm.ULNA, 0.06, 0.34))
        flexion = {"LATERAL": 86.0, "OBLIQUE": 18.0}.get(view, 4.0)
        joint = (_hosting(arm.HUMERUS, 0.76, 0.95), *arm.bend(below, _ELBOW, flexion))
        return Skeleton(joint, (arm.UPPER_ARM, *arm.bend((arm.FOREARM,), _ELBOW, flexion)))
    if body_part == "FOREARM":
        below = (_hosting(arm.RADIUS, 0.08, 0.94), _hosting(arm.ULNA, 0.12, 0.95))
        wrist = (*hand.carpals(), *(hand.metacarpal(i) for i in range(1, 6)))
        return Skeleton((arm.HUMERUS, *below, *wrist), (arm.UPPER_ARM, arm.FOREARM, *hand.palm()))
    if body_part == "WRIST":
        return _wrist()
    return _hand(lateral) if body_part == "HAND" else _finger(digit, lateral)


def _wrist() -> Skeleton:
    bones = [_hosting(arm.RADIUS, 0.8, 0.96), _hosting(arm.ULNA, 0.8, 0.96)]
    bones += [_hosting(bone, 0.25, 0.75) if bone.name == "scaphoid" else bone for bone in hand.carpals()]
    bones += [_hosting(hand.metacarpal(i), 0.1, 0.6) if i > 1 else hand.metacarpal(i) for i in range(1, 6)]
    fingers = [tube for i in range(1, 6) for tube in hand.phalanges(i)[:1]]
    return Skeleton((*bones, *fingers), (arm.FOREARM, *hand.palm(), *hand.flesh(tuple(fingers))))


def _hand(lateral: bool) -> Skeleton:
    bones = [arm.RADIUS, arm.ULNA, *hand.carpals(), *hand.sesamoids()]
    tissues = [arm.FOREARM, *hand.palm()]
    for digit in range(1, 6):
        # The fan of the lateral hand: without it the digits hide one another.
        fan = (4.0 + 14 * (digit - 2), 6.0, 4.0) if lateral and digit > 1 else (3.0, 4.0, 3.0)
        rays = hand.phalanges(digit, fan)
        bones.append(_hosting(hand.metacarpal(digit), 0.1, 0.9))
        bones += [_hosting(rays[0], 0.1, 0.9), *rays[1:]]
        tissues += hand.flesh(rays)
    return Skeleton(tuple(bones), tuple(tissues))


def _finger(digit: int, lateral: bool) -> Skeleton:
    bones, tissues = [], list(hand.palm())
    for other in range(1, 6):
        if lateral and other != digit and other > 1:
            continue
        rays = hand.phalanges(other, (8.0, 14.0, 8.0) if lateral else (3.0, 5.0, 4.0))
        if other == digit:
            rays = tuple(_hosting(ray, 0.1, 0.88) for ray in rays)
        bones += [hand.metacarpal(other), *rays]
        tissues += hand.flesh(rays)
    return Skeleton((*bones, *hand.sesamoids()), tuple(tissues))
