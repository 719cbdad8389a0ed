"""From attenuation to grey values: scatter, quantum noise, display window, collimation.

The signal behind an attenuation A is e^(−A) plus scatter, a blurred share of it; its noise is that of the photons
that arrive, √(signal / dose), so it depends on dose and on the area of a pixel. Displayed is −log(signal) between
limits taken from the anatomy alone: metal and flags never change how the rest looks.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from mskray.imaging.phantoms.shapes import Array

_SCATTER_SIDE = 96
_PROBES = 64


@dataclass(frozen=True)
class Technique:
    """How one image is taken and shown."""

    dose: float  # photons per mm² that reach the bare detector
    scatter: float  # ratio to primary, on average
    low: float  # grey value (0–1) of air
    high: float  # … of the densest bone
    gamma: float
    headroom: float  # how far above the densest bone the window ends, in attenuation
    sharpen: float
    shutter: float  # grey value outside the field
    electronic: float  # noise of the electronics, relative to full signal


def technique(rng: np.random.Generator) -> Technique:
    """Draws how the image is taken: from crisp and well windowed to noisy, flat, dark or bright."""
    return Technique(
        dose=float(np.exp(rng.uniform(np.log(1.2e4), np.log(2e5)))),
        scatter=float(rng.uniform(0.08, 0.45)),
        low=float(rng.uniform(0.0, 0.12)),
        high=float(rng.uniform(0.75, 1.0)),
        gamma=float(np.exp(rng.normal(-0.15, 0.15))),
        headroom=float(rng.uniform(0.05, 0.45)),
        sharpen=float(rng.uniform(0.0, 0.8)) if rng.random() < 0.5 else 0.0,
        shutter=float(rng.choice((0.0, 0.02, 0.06))),
        electronic=float(rng.uniform(0.0005, 0.003)),
    )


def expose(
    attenuation: Array,
    anatomy: Array,
    cover: tuple[tuple[slice, slice], Array] | None,
    mm_per_px: float,
    shown: Technique,
    rng: np.random.Generator,
) -> Array:
    """Grey values 0–1 (rows, columns) float32.

    Args:
        attenuation: of everything between tube and detector, (rows, columns).
        anatomy: of the patient alone, same shape: sets the display window.
        cover: (window, attenuation there) of what lies on the detector and so stops scatter as well: a flag.
        mm_per_px: side of a pixel at the detector.
    """
    signal: Array = np.exp(-attenuation)
    signal += shown.scatter * _scatter(signal)
    if cover is not None:
        signal[cover[0]] *= np.exp(-cover[1])
    photons = shown.dose * mm_per_px**2
    noise = rng.standard_normal(signal.shape, dtype=np.float32)
    noise *= np.sqrt(signal * np.float32(1 / photons) + np.float32(shown.electronic**2))
    signal += noise
    np.maximum(signal, np.float32(3e-4), out=signal)
    film: Array = cv2.log(signal)
    np.negative(film, out=film)
    if shown.sharpen:
        film += np.float32(shown.sharpen) * (film - cv2.GaussianBlur(film, (0, 0), 1.2))

    bare, dense = _extremes(anatomy, shown.scatter)
    top = max(dense + shown.headroom * (dense - bare), bare + 0.3)
    film -= np.float32(bare)
    film *= np.float32(1 / (top - bare))
    np.clip(film, 0, 1.15, out=film)
    film **= np.float32(shown.gamma)
    film *= np.float32(shown.high - shown.low)
    film += np.float32(shown.low)
    return np.asarray(np.clip(film, 0, 1, out=film))


def field_corners(focus: tuple[float, float, float, float], shape: tuple[int, int], rng: np.random.Generator) -> Array:
    """Corners (4, 2) px of the collimated field: the whole image, or a slightly turned rectangle around the focus."""
    rows, columns = shape
    if rng.random() < 0.4:
        return np.array(((0, 0), (columns, 0), (columns, rows), (0, rows)), float)
    closeness = rng.uniform(0.1, 0.75, 4)
    pad = 0.06 * max(shape)
    x0 = closeness[0] * max(focus[0] - pad, 0)
    y0 = closeness[1] * max(focus[1] - pad, 0)
    x1 = columns - closeness[2] * max(columns - focus[2] - pad, 0)
    y1 = rows - closeness[3] * max(rows - focus[3] - pad, 0)
    corners = np.array(((x0, y0), (x1, y0), (x1, y1), (x0, y1)), float)
    angle = np.deg2rad(rng.normal(0, 1.2))
    turn = np.array(((np.cos(angle), -np.sin(angle)), (np.sin(angle), np.cos(angle))))
    middle = corners.mean(axis=0)
    return (corners - middle) @ turn.T + middle


def upright(corners: Array, shape: tuple[int, int]) -> tuple[float, float, float, float]:
    """The upright rectangle (x0, y0, x1, y1) within the field and the image."""
    (ax, ay), (bx, by), (cx, cy), (dx, dy) = corners.tolist()
    return max(ax, dx, 0.0), max(ay, by, 0.0), min(bx, cx, float(shape[1])), min(cy, dy, float(shape[0]))


def collimate(film: Array, corners: Array, shown: Technique) -> Array:
    """Darkens what lies outside the field, in place, and returns the field as a mask (rows, columns) bool."""
    rows, columns = film.shape
    if np.allclose(corners, ((0, 0), (columns, 0), (columns, rows), (0, rows))):
        return np.ones((rows, columns), bool)
    inside = np.zeros((rows, columns), np.uint8)
    cv2.fillConvexPoly(inside, np.round(corners * 16).astype(np.int32), 255, cv2.LINE_AA, 4)
    share = inside.astype(np.float32)
    share *= np.float32(1 / 255)
    film -= np.float32(shown.shutter)
    film *= share
    film += np.float32(shown.shutter)
    return np.asarray(inside > 127)


def _extremes(anatomy: Array, scatter: float) -> tuple[float, float]:
    """−log of the signal in air and behind the densest bone, from a sparse sample of the image."""
    step = max(1, min(anatomy.shape) // _PROBES)
    probes = np.exp(-anatomy[::step, ::step])
    veil = scatter * _scatter(probes)
    dense = float(np.percentile(-np.log(probes + veil), 99.3))
    return float(-np.log(1.0 + veil.max())), dense


def _scatter(signal: Array) -> Array:
    """The signal blurred over a fifth of the image, computed on a coarse grid: scatter has no detail."""
    rows, columns = signal.shape
    factor = _SCATTER_SIDE / max(rows, columns)
    small = (max(2, round(columns * factor)), max(2, round(rows * factor)))
    coarse = cv2.resize(signal, small, interpolation=cv2.INTER_AREA)
    coarse = cv2.GaussianBlur(coarse, (0, 0), 0.16 * _SCATTER_SIDE)
    return np.asarray(cv2.resize(coarse, (columns, rows), interpolation=cv2.INTER_LINEAR))
