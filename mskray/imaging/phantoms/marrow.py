"""Pairs of MR-like knees with a marrow lesion that improves, persists or regresses from one scan to the next.

    spec = MarrowSpec(patients=45, seed=1)
    for planned in marrow_pairs(spec):
        pair = render_pair(spec, planned)       # pair.pixels, pair.masks: (2, rows, columns)

A coronal slice as a fat-suppressed, fluid-sensitive sequence shows it, on which the lesions of CRMO are seen: marrow
and fat dark, muscle grey, growth plates, cartilage and fluid bright, a lesion bright and ill-defined in the metaphysis
beside a growth plate. What is the lesion's own (place, form) stays between the scans; its extent and brightness follow
its severity. What has nothing to do with it differs: where the leg lies and how it is turned, how thick its slice is
cut, joint fluid and vessels (bright as well), coil sensitivity, gain and contrast, blur, and Rician noise.

See them: `mskray ingest phantom-pairs --out URI`, then `mskray cohort show URI --sheet sheet.png`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from scipy.interpolate import PchipInterpolator

from mskray.imaging.phantoms.shapes import Array

CHANGES = ("regressed", "persisted", "improved")
SITES = ("femur", "tibia")
FIELD_MM = 150.0
"""Side of the square field of view."""
_EDGE_MM = 0.9
# Half-widths (mm) at heights (mm above (−) and below (+) the joint line) of the two bones and of the leg.
_FEMUR = ((-90, 14), (-60, 14.5), (-42, 20), (-26, 34), (-14, 39), (-3, 35), (2, 30))
_TIBIA = ((-2, 35), (6, 38), (14, 35), (28, 24), (46, 16), (90, 13))
_LEG = ((-90, 66), (-40, 59), (0, 54), (40, 56), (90, 50))


@dataclass(frozen=True)
class MarrowSpec:
    """What to draw.

    Args:
        patients: each has one to three pairs.
        seed: the same seed gives the same images.
        image_size: side, px.
        shares: of pairs that regressed, persisted and improved.
        noise: standard deviation of the noise in each channel, as a share of the brightest tissue: the most drawn.
    """

    patients: int
    seed: int = 0
    image_size: int = 256
    shares: tuple[float, float, float] = (0.35, 0.2, 0.45)
    noise: float = 0.06


@dataclass(frozen=True)
class PlannedPair:
    """One pair before it is drawn: its patient and its number there, its class (index into CHANGES)."""

    patient: int
    number: int
    change: int


@dataclass(frozen=True)
class MarrowPair:
    """A drawn pair.

    Args:
        pixels: (2, rows, columns) uint8, before and after.
        masks: (2, rows, columns) uint8, 1 where the lesion is, before and after.
        severities: of the lesion before and after, 0 to 1.
    """

    pixels: Array
    masks: Array
    severities: tuple[float, float]


@dataclass(frozen=True)
class _Leg:
    """One patient's anatomy: factors on widths, mm."""

    femur: float
    tibia: float
    leg: float
    plates: tuple[float, float]
    fibula_side: int
    grain: int


@dataclass(frozen=True)
class _Lesion:
    """Where a lesion lies (mm), how large it is at severity 1 (mm), and the seed of its form."""

    x: float
    y: float
    radii: tuple[float, float]
    form: int


def marrow_pairs(spec: MarrowSpec) -> Iterator[PlannedPair]:
    """Plan every pair, patient by patient."""
    for patient in range(spec.patients):
        rng = np.random.default_rng((spec.seed, patient))
        for number in range(int(rng.integers(1, 4))):
            yield PlannedPair(patient, number, int(rng.choice(3, p=np.array(spec.shares) / sum(spec.shares))))


def render_pair(spec: MarrowSpec, planned: PlannedPair) -> MarrowPair:
    """Draw a pair; a function of its arguments alone."""
    leg = _leg(np.random.default_rng((spec.seed, planned.patient, 1)))
    rng = np.random.default_rng((spec.seed, planned.patient, 2, planned.number, planned.change))
    lesion, severities = _lesion(rng, leg), _severities(rng, planned.change)
    pixels, masks = zip(*(_scan(spec, leg, lesion, severity, rng) for severity in severities), strict=True)
    return MarrowPair(np.stack(pixels), np.stack(masks), severities)


def _leg(rng: np.random.Generator) -> _Leg:
    return _Leg(
        femur=float(rng.uniform(0.86, 1.1)),
        tibia=float(rng.uniform(0.86, 1.1)),
        leg=float(rng.uniform(0.92, 1.15)),
        plates=(float(rng.uniform(-25, -20)), float(rng.uniform(14, 18))),
        fibula_side=int(rng.choice((-1, 1))),
        grain=int(rng.integers(2**31)),
    )


def _lesion(rng: np.random.Generator, leg: _Leg) -> _Lesion:
    site = int(rng.integers(len(SITES)))
    away = float(rng.uniform(6, 13))  # from the growth plate into the metaphysis
    y = leg.plates[0] - away if site == 0 else leg.plates[1] + away
    half = _half_width((_FEMUR, _TIBIA)[site], y) * (leg.femur, leg.tibia)[site]
    x = float(rng.uniform(-0.55, 0.55)) * float(half)
    return _Lesion(x, y, (float(rng.uniform(12, 18)), float(rng.uniform(10, 15))), int(rng.integers(2**31)))


def _severities(rng: np.random.Generator, change: int) -> tuple[float, float]:
    """Before and after: less than 60 % is left of what improved, what persisted keeps its severity within 6 %."""
    high = float(rng.uniform(0.6, 1.0))
    if CHANGES[change] == "persisted":
        severity = float(rng.uniform(0.35, 0.95))
        return severity, severity * float(rng.uniform(0.94, 1.06))
    low = high * float(rng.uniform(0.15, 0.6))
    return (high, low) if CHANGES[change] == "improved" else (low, high)


def _scan(
    spec: MarrowSpec, leg: _Leg, lesion: _Lesion, severity: float, rng: np.random.Generator
) -> tuple[Array, Array]:
    """One scan as (rows, columns) uint8, and its lesion's mask."""
    x, y = _places(spec.image_size, rng)
    cut = rng.uniform(0.96, 1.04)  # another slice through the same leg
    signal, marrow = _anatomy(leg, x / cut, y, rng)
    bright = _blob(lesion, severity, x / cut, y) * marrow
    signal += (0.22 + 0.38 * severity) * bright
    signal = cv2.GaussianBlur(signal, (0, 0), rng.uniform(0.5, 1.1) * spec.image_size / 256)
    signal *= _coil(spec.image_size, rng)
    sigma = spec.noise * rng.uniform(0.35, 1.0)
    real, imaginary = rng.standard_normal((2, *signal.shape), dtype=np.float32) * np.float32(sigma)
    magnitude = np.hypot(signal + real, imaginary)
    top = np.percentile(magnitude, 99.8) * rng.uniform(0.9, 1.15)
    shown = np.clip(magnitude / top, 0, 1) ** rng.uniform(0.85, 1.15)
    return np.rint(255 * shown).astype(np.uint8), (bright > 0.5).astype(np.uint8)


def _places(size: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Where each pixel lies in the leg: x across and y along (mm), from the middle of the joint."""
    scale = FIELD_MM / size / rng.uniform(0.95, 1.05)
    angle, shift = np.deg2rad(rng.uniform(-6, 6)), rng.uniform(-9, 9, 2)
    column, row = np.meshgrid(np.arange(size) - (size - 1) / 2, np.arange(size) - (size - 1) / 2)
    across, along = column * scale - shift[0], row * scale - shift[1]
    x, y = np.cos(angle) * across + np.sin(angle) * along, np.cos(angle) * along - np.sin(angle) * across
    return np.asarray(x, np.float32), np.asarray(y, np.float32)


def _anatomy(leg: _Leg, x: Array, y: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """The signal (rows, columns) without a lesion, and how much of each pixel is marrow."""
    skin = _inside(_half_width(_LEG, y) * leg.leg - abs(x))
    muscle = _inside(_half_width(_LEG, y) * leg.leg - 7 - abs(x))
    streaks = _texture(leg.grain, x * 0.30, y * 0.05)
    signal = 0.02 + 0.11 * skin + muscle * (0.17 + 0.05 * streaks)
    for _ in range(int(rng.integers(2, 6))):  # vessels cut across, elsewhere in each slice
        side, height = rng.choice((-1, 1)) * rng.uniform(40, 52), rng.uniform(-65, 65)
        signal += 0.5 * muscle * np.exp(-((x - side) ** 2 + (y - height) ** 2) / rng.uniform(1.5, 5.0))

    lower = -2.5 - 9 * np.exp(-((x / 7) ** 2)) - 0.010 * (abs(x) - 20) ** 2
    upper = 2.5 + 0.006 * (abs(x) - 20) ** 2 - 5 * np.exp(-((x / 6) ** 2))
    space = _inside(np.minimum(np.minimum(y - lower, upper - y), 38 - abs(x)))
    signal += space * (0.45 - signal)
    fluid = rng.uniform(0, 7)
    pouch = _inside(fluid - np.hypot((abs(x) - 41) / 1.0, (y + 4) / 2.2))
    signal += pouch * (0.8 - signal)

    depths = {
        "femur": np.minimum(_half_width(_FEMUR, y) * leg.femur - abs(x), lower - y),
        "tibia": np.minimum(_half_width(_TIBIA, y) * leg.tibia - abs(x), y - upper),
        "fibula": np.minimum(6.5 - abs(x - leg.fibula_side * (31 - 0.06 * y)), y - 17),
    }
    spongy = 0.15 + 0.035 * _texture(leg.grain + 1, x * 0.35, y * 0.35)
    marrow = np.zeros_like(signal)
    for name, depth in depths.items():
        bone, inner = _inside(depth), _inside(depth - 1.9)
        signal += bone * (0.05 - signal) + inner * (spongy - 0.05)
        if name != "fibula":
            wave = 1.2 * np.sin(x / 5) + 0.0025 * x**2
            plate = leg.plates[name == "tibia"] + (wave if name == "femur" else -wave)
            signal += inner * 0.28 * np.exp(-(((y - plate) / 1.3) ** 2))
            marrow = np.maximum(marrow, inner)
    return signal.astype(np.float32), marrow


def _blob(lesion: _Lesion, severity: float, x: Array, y: Array) -> Array:
    """How much of each pixel is lesion, 0 to 1: an ellipse with a rough, soft edge, its area ∝ severity."""
    across, along = lesion.radii
    distance = np.hypot((x - lesion.x) / across, (y - lesion.y) / along)
    rough = distance + 0.22 * _texture(lesion.form, x * 0.22, y * 0.22)
    return np.asarray(1 / (1 + np.exp((rough - np.sqrt(severity)) / 0.13)), np.float32)


def _coil(size: int, rng: np.random.Generator) -> Array:
    """Sensitivity (rows, columns), smooth: ±25 % over the field."""
    coarse = rng.normal(0, 1, (4, 4)).astype(np.float32)
    smooth = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
    return np.asarray(np.exp(np.float32(rng.uniform(0.04, 0.14)) * smooth))


def _texture(seed: int, x: Array, y: Array) -> Array:
    """A fixed random field (standard deviation near 1) looked up at x, y: it moves with the leg."""
    table = np.random.default_rng(seed).standard_normal((64, 64)).astype(np.float32)
    grid = cv2.GaussianBlur(np.tile(table, (2, 2)), (0, 0), 1.0)[32:96, 32:96] * np.float32(3.5)
    column, row = (np.asarray(np.mod(axis, 63), np.float32) for axis in (x + 31, y + 31))
    return cv2.remap(grid, column, row, cv2.INTER_LINEAR)


def _half_width(profile: tuple[tuple[float, float], ...], y: Array | float) -> Array:
    return np.asarray(np.interp(y, *_dense(profile)), np.float32)


@lru_cache(maxsize=8)
def _dense(profile: tuple[tuple[float, float], ...]) -> tuple[Array, Array]:
    heights, widths = np.array(profile, float).T
    many = np.linspace(heights[0], heights[-1], 361)
    return many, np.asarray(PchipInterpolator(heights, widths)(many))


def _inside(depth: Array) -> Array:
    """1 inside a surface, 0 outside, over an edge of about a millimetre; depth in mm."""
    return np.asarray(1 / (1 + np.exp(-np.clip(depth / (_EDGE_MM / 2), -30, 30))), np.float32)
