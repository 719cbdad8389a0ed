"""The one shape that everything is made of: a bent, tapered tube in three dimensions, and its shadow in a view.

A tube has a centreline, half-widths to its four sides along its length, and a wall. As a bone, the wall is the
cortex and the inside is spongy bone and marrow; as soft tissue, the wall is fat and the inside muscle. Its shadow
follows from the length of the ray inside each: for an ellipse of half-width h and half-depth d, a ray at distance u
from the centre crosses 2·d·√(1 − (u/h)²). The bright rim of a bone is nothing but a long way through its wall.

Body axes, in mm: x lateral (towards the thumb), y distal (towards the fingers), z anterior (palm side).
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

Array = NDArray[Any]
Point = tuple[float, float, float]

STATIONS = 257
_RELIEF_STATIONS = 65
_EPSILON = np.float32(1e-6)


@dataclass(frozen=True)
class Tube:
    """A bone or a stretch of soft tissue.

    Args:
        profile: rows (mm from the start, lateral, medial, front, back half-width in mm), the last at the far end.
        wall: thickness in mm at mid-length; thinner towards the ends, as cortex is.
        caps: how far in mm each end takes to reach its full width.
        relief: for each end, depths in mm from the medial to the lateral side by which its surface is recessed
            (negative: protrudes); () is flat.
        girth: factor on every half-width.
        density: relative attenuation.
        host: the stretch (fractions of the length) where an abnormality may lie; None for none.
        growth: fractions of the length where a child's growth plates lie.
    """

    name: str
    start: Point
    end: Point
    profile: tuple[tuple[float, float, float, float, float], ...]
    wall: float = 2.0
    caps: tuple[float, float] = (3.0, 3.0)
    relief: tuple[tuple[float, ...], tuple[float, ...]] = ((), ())
    girth: float = 1.0
    density: float = 1.0
    host: tuple[float, float] | None = None
    growth: tuple[float, ...] = ()

    @property
    def length(self) -> float:
        """mm."""
        return math.dist(self.start, self.end)

    def half_width(self, fraction: float) -> float:
        """Mean half-width (mm) at a fraction of the length."""
        sides = _dense(self.profile)[round(min(max(fraction, 0.0), 1.0) * (STATIONS - 1))]
        return float(sides.mean()) * self.girth

    def reach(self, low: float, high: float) -> float:
        """The farthest (mm) that the surface gets from the axis between two fractions of the length."""
        first, last = round(low * (STATIONS - 1)), round(high * (STATIONS - 1))
        return float(_dense(self.profile)[first : last + 1].max()) * self.girth


@dataclass(frozen=True)
class Camera:
    """One view: body axes → view axes (x right, y down, z away from the tube) → pixels."""

    rotation: Array  # (3, 3)
    plane: Array  # (2, 2): px per mm, in-plane rotation, mirrored for a left limb
    offset: Array  # (2,) px
    px_per_mm: float

    def resized(self, factor: float) -> "Camera":
        """The camera of the same image at `factor` times its size."""
        return Camera(self.rotation, self.plane * factor, (self.offset + 0.5) * factor - 0.5, self.px_per_mm * factor)

    def points(self, points: Array) -> Array:
        """(n, 3) mm → (n, 2) px as (x, y)."""
        return (np.asarray(points, float) @ self.rotation.T)[:, :2] @ self.plane.T + self.offset


@dataclass(frozen=True)
class Shadow:
    """A tube as one view sees it. Tables run over STATIONS points of its length."""

    tube: Tube
    origin: Array  # (2,) px
    axis: Array  # (2,) unit vector along the tube, in px space
    normal: Array  # (2,) unit vector across it, towards its lateral side
    length: float  # px
    px_per_mm: float
    table: Array  # (1, STATIONS, 4) float32: centre px, half-width px, inner half-width px, half-depth mm
    relief: tuple[Array | None, Array | None]  # (1, _RELIEF_STATIONS) float32 px
    side: tuple[float, float]  # share of the body's (lateral, front) direction that lies across the shadow
    depth: tuple[float, float]  # … and along the ray

    def station(self, fraction: float) -> tuple[float, float, float]:
        """(centre px, half-width px, half-depth mm) at a fraction of the length."""
        row = self.table[0, round(min(max(fraction, 0.0), 1.0) * (STATIONS - 1))]
        return float(row[0]), float(row[1]), float(row[3])


@dataclass
class Paint:
    """A shadow on the pixel grid of its bounding box (all arrays (rows, columns) float32)."""

    shadow: Shadow
    window: tuple[slice, slice]
    along: Array  # px from the start
    across: Array  # px from the axis
    outer: Array  # mm of ray inside the tube
    inner: Array  # mm of ray inside its wall


@lru_cache(maxsize=512)
def _dense(profile: tuple[tuple[float, ...], ...]) -> Array:
    """A profile at all stations: (STATIONS, 4) mm."""
    rows = np.asarray(profile, float)
    return np.asarray(PchipInterpolator(rows[:, 0] / rows[-1, 0], rows[:, 1:])(_stations()))


@lru_cache(maxsize=1)
def _stations() -> Array:
    return np.linspace(0, 1, STATIONS)


@lru_cache(maxsize=1)
def _bulge() -> Array:
    """How thick a wall is along its tube, relative to mid-length."""
    return 0.28 + 0.72 * np.sin(np.pi * _stations())


def cast(tube: Tube, camera: Camera, shape: tuple[int, int]) -> Shadow | None:
    """The shadow of a tube; None when it misses the (rows, columns) image, or the ray runs along the tube."""
    ends = camera.points(np.array((tube.start, tube.end)))
    length = math.dist(ends[0], ends[1])
    if length < 0.15 * tube.length * camera.px_per_mm or length < 1:
        return None
    margin = tube.reach(0, 1) * camera.px_per_mm + 8
    low, high = ends.min(axis=0) - margin, ends.max(axis=0) + margin
    if low[0] > shape[1] or low[1] > shape[0] or high[0] < 0 or high[1] < 0:
        return None
    seen, seen_lateral, seen_front = (camera.rotation @ _axes(tube.start, tube.end)).T
    flat_normal = _unit(np.array((seen[1], -seen[0])))
    side = float(flat_normal @ seen_lateral[:2]), float(flat_normal @ seen_front[:2])
    depth = float(seen_lateral[2]), float(seen_front[2])

    sides = _dense(tube.profile) * tube.girth
    wide = [np.hypot(sides[:, i] * side[0], sides[:, j] * side[1]) for i, j in _facing(side)]
    centre, half = (wide[0] - wide[1]) / 2, (wide[0] + wide[1]) / 2
    deep = np.hypot((sides[:, 0] + sides[:, 1]) / 2 * depth[0], (sides[:, 2] + sides[:, 3]) / 2 * depth[1])
    inner_half = half - np.minimum(tube.wall * _bulge(), 0.7 * half)
    scale = camera.px_per_mm
    table = np.empty((1, STATIONS, 4), np.float32)
    table[0, :, 0] = centre * scale
    table[0, :, 1] = half * scale * _capped(tube.length, tube.caps, 0.0)
    table[0, :, 2] = inner_half * scale * _capped(tube.length, tube.caps, round(0.5 * tube.wall, 1))
    table[0, :, 3] = deep
    return Shadow(
        tube=tube,
        origin=ends[0],
        axis=(ends[1] - ends[0]) / length,
        normal=_unit(camera.plane @ flat_normal),
        length=length,
        px_per_mm=scale,
        table=table,
        relief=(_relief(tube.relief[0], side[0] * scale), _relief(tube.relief[1], side[0] * scale)),
        side=side,
        depth=depth,
    )


def paint(shadow: Shadow, shape: tuple[int, int], warp: Any = None, room: float = 0.0) -> Paint | None:
    """Rasterise a shadow on a (rows, columns) grid; None when it lies outside.

    `warp(along, across) → (along, across)` moves the places where the tube is looked up: a displaced fracture.
    `room`: px to leave around the shadow, for what the warp moves out of it or what lies on it.
    """
    window = _window(shadow, shape, room)
    if window is None:
        return None
    rows, columns = window
    x = np.arange(columns.start, columns.stop, dtype=np.float32)[None] - np.float32(shadow.origin[0])
    y = np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] - np.float32(shadow.origin[1])
    along = x * np.float32(shadow.axis[0]) + y * np.float32(shadow.axis[1])
    across = x * np.float32(shadow.normal[0]) + y * np.float32(shadow.normal[1])
    seen_along, seen_across = warp(along, across) if warp else (along, across)
    seen_along = _with_relief(shadow, seen_along, seen_across)
    centre, half, inner_half, deep = cv2.split(look_up(shadow.table, seen_along * np.float32(1 / shadow.length)))
    across_centre = seen_across - centre
    outer = _chord(across_centre, half)
    inner = _chord(across_centre, inner_half)
    inner *= deep
    inner *= inner_half
    inner /= np.maximum(half, _EPSILON)
    outer *= deep
    return Paint(shadow, window, seen_along, across_centre, outer, inner)


def look_up(table: Array, fraction: Array) -> Array:
    """Values of a (1, n[, channels]) table at fractions of its length, linear between, 0 outside. Any 2-D shape."""
    position = fraction * np.float32(table.shape[1] - 1)
    return cv2.remap(table, position, np.zeros_like(position), cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)


def _chord(distance: Array, half: Array) -> Array:
    """2·√(1 − (distance/half)²), 0 outside."""
    ratio = distance / np.maximum(half, _EPSILON)
    ratio *= ratio
    np.subtract(1, ratio, out=ratio)
    np.maximum(ratio, 0, out=ratio)
    np.sqrt(ratio, out=ratio)
    ratio *= 2
    return ratio


def _facing(side: tuple[float, float]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Columns of the profile (lateral or medial, front or back) that face the normal, and those that face away."""
    first, second = (0, 1) if side[0] >= 0 else (1, 0), (2, 3) if side[1] >= 0 else (3, 2)
    return (first[0], second[0]), (first[1], second[1])


@lru_cache(maxsize=1024)
def _axes(start: Point, end: Point) -> Array:
    """A tube's own axes as columns: along it, to its lateral side, to its front."""
    axis = _unit(np.subtract(end, start))
    lateral = np.array((1.0, 0, 0)) if abs(axis[0]) < 0.8 else np.array((0, -1.0, 0))
    lateral = _unit(lateral - axis * (lateral @ axis))
    return np.stack((axis, lateral, np.cross(lateral, axis)), axis=1)


@lru_cache(maxsize=4096)
def _capped(length: float, caps: tuple[float, float], inset: float) -> Array:
    """0 at the ends of a tube (`inset` mm within), 1 from its caps on, along a quarter ellipse."""
    station = _stations()
    cap = np.ones_like(station)
    for distance, size in zip((station * length, (1 - station) * length), caps, strict=True):
        near = 1 - np.clip((distance - inset) / max(min(size, 0.5 * length), 1e-3), 0, 1)
        cap *= np.sqrt(np.maximum(1 - near * near, 0))
    return cap


def _relief(depths: tuple[float, ...], scale: float) -> Array | None:
    if not depths or abs(scale) < 1e-3:
        return None
    return np.asarray(_surface(depths if scale > 0 else depths[::-1]) * np.float32(abs(scale)))


@lru_cache(maxsize=512)
def _surface(depths: tuple[float, ...]) -> Array:
    dense = PchipInterpolator(np.linspace(0, 1, len(depths)), depths)(np.linspace(0, 1, _RELIEF_STATIONS))
    return np.ascontiguousarray(dense[None], np.float32)


def _with_relief(shadow: Shadow, along: Array, across: Array) -> Array:
    """Shifts the lookup near the ends so that they take the form of their joint surfaces."""
    for end, relief in enumerate(shadow.relief):
        if relief is None:
            continue
        centre, half, _ = shadow.station((0.1, 0.9)[end])
        reach = 4 * float(np.abs(relief).max()) + 1e-3
        place = np.clip((across - np.float32(centre)) * np.float32(0.5 / half) + np.float32(0.5), 0, 1)
        depth = look_up(relief, place)
        distance = along if end == 0 else np.float32(shadow.length) - along
        depth *= np.clip(1 - distance * np.float32(1 / reach), 0, 1)
        along = along - depth if end == 0 else along + depth
    return along


def _window(shadow: Shadow, shape: tuple[int, int], room: float) -> tuple[slice, slice] | None:
    centre, half = shadow.table[0, ::4, 0], shadow.table[0, ::4, 1]
    margin = 1.5 + room + 0.02 * float(half.max())
    lift = max((float(np.abs(relief).max()) for relief in shadow.relief if relief is not None), default=0.0)
    along = _stations()[::4] * shadow.length
    along[0] -= lift
    along[-1] += lift
    edges = np.stack((centre - half, centre + half))
    x = shadow.origin[0] + along * shadow.axis[0] + edges * shadow.normal[0]
    y = shadow.origin[1] + along * shadow.axis[1] + edges * shadow.normal[1]
    low = math.floor(x.min() - margin), math.floor(y.min() - margin)
    high = math.ceil(x.max() + margin) + 1, math.ceil(y.max() + margin) + 1
    rows = slice(max(low[1], 0), min(high[1], shape[0]))
    columns = slice(max(low[0], 0), min(high[0], shape[1]))
    return (rows, columns) if rows.start < rows.stop and columns.start < columns.stop else None


def _unit(vector: Array) -> Array:
    return np.asarray(vector / math.sqrt(float(vector @ vector)))
