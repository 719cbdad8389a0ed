"""What can be wrong with a phantom's bone: a fracture, a lytic lesion, a plate with screws, each with its exact mask.

An abnormality is held in the bone's own coordinates and drawn into each view from there; so its size, place and
obliquity agree between views as they do on a patient. Lengths are in reference mm. `diagnosis` draws the values.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from mskray.imaging.phantoms.shapes import Array, Paint, Shadow, look_up


@dataclass(frozen=True)
class Fracture:
    """A break across the bone: a jagged gap, the ends set off sideways and bent; small ones are cracks from one side.

    `slope`: how oblique the plane of the break is, in mm along the bone per mm towards (lateral, front).
    """

    bone: str
    occult: frozenset[int]
    place: float
    reach: float  # share of the width that is broken, 1 = through and through
    gap: float
    slope: tuple[float, float]
    shift: tuple[float, float]
    bow: tuple[float, float]
    jagged: tuple[float, ...]
    side: float
    kind: str = "fracture"

    def room(self, shadow: Shadow) -> float:
        """How far (px) the broken ends stand out of the bone."""
        return 1.2 * (abs(_across(shadow, self.shift)) / 2 + abs(_across(shadow, self.bow))) * shadow.px_per_mm

    def warp(self, shadow: Shadow) -> Any:
        """Moves the fragments: their far ends stay in their joints, their broken ends part."""
        offset = _across(shadow, self.shift) * shadow.px_per_mm / 2
        bow = _across(shadow, self.bow) * shadow.px_per_mm
        if abs(offset) + abs(bow) < 0.05:
            return None
        place = np.float32(self.place)

        def moved(along: Array, across: Array) -> tuple[Array, Array]:
            station = along * np.float32(1 / shadow.length)
            beyond = self._distance(shadow, along, across) > 0
            lever = np.where(beyond, (1 - station) / (1 - place), station / place).clip(0, 1.2)
            return along, across - lever * np.where(beyond, np.float32(bow + offset), np.float32(bow - offset))

        return moved

    def _distance(self, shadow: Shadow, along: Array, across: Array) -> Array:
        """Signed px along the bone from the break."""
        centre, half, _ = shadow.station(self.place)
        slope = _across(shadow, self.slope)
        place = np.clip((across - np.float32(centre)) * np.float32(0.5 / half) + np.float32(0.5), 0, 1)
        teeth = look_up(np.array([self.jagged], np.float32) * np.float32(shadow.px_per_mm), place)
        teeth += (across - np.float32(centre)) * np.float32(slope)
        return along - np.float32(self.place * shadow.length) - teeth

    def draw(self, paint: Paint, bone: Array) -> Array:
        """Takes the gap out of a bone's attenuation, in place, and returns its mask (rows, columns) bool.

        Where the plane of the break is oblique to the ray, the gap is smeared and correspondingly faint.
        """
        shadow = paint.shadow
        centre, half, deep = shadow.station(self.place)
        gap = self.gap * shadow.px_per_mm
        smear = 0.45 * abs(_along_ray(shadow, self.slope)) * 2 * deep * shadow.px_per_mm
        wide = gap + smear
        distance = np.abs(self._distance(shadow, paint.along, paint.across + np.float32(centre)))
        edge = max(0.35 * wide, 0.7)
        broken = np.clip((np.float32(wide / 2 + edge / 2) - distance) / np.float32(edge), 0, 1)
        side = self.side if _across(shadow, (self.side, self.side)) >= 0 else -self.side
        if self.reach < 1:
            end = (2 * self.reach - 1) * half
            broken *= np.clip((np.float32(end + 1) - side * paint.across) * np.float32(0.5), 0, 1)
        loss = 0.95 * max(gap / wide, 0.3) * min(1.0, 0.35 + wide / 2.0)
        # The broken rim is compacted: a faint bright line on both sides of the gap.
        rim = np.clip(1 - np.abs(distance - np.float32(wide / 2 + edge)) / np.float32(edge), 0, 1) * (broken < 0.5)
        inside = paint.outer > 0
        bone *= 1 - np.float32(loss) * broken + np.float32(0.25 if self.reach == 1 else 0.1) * rim
        overhang = 0.3 * abs(_across(shadow, self.shift)) * shadow.px_per_mm
        mask = distance <= max(wide / 2 + edge / 2 + overhang, 0.75)
        if self.reach < 1:
            mask &= side * paint.across <= end + 1
        return np.asarray(mask & inside)


@dataclass(frozen=True)
class Lesion:
    """A lytic lesion: bone is lost from a lobed region, with or without a dense rim."""

    bone: str
    occult: frozenset[int]
    place: float
    offset: tuple[float, float]  # of the half-width, towards (lateral, front)
    radius: float
    stretch: float  # along the bone
    lobes: tuple[float, ...]
    loss: float
    soft: float  # width of the margin relative to the radius
    rim: float
    kind: str = "lesion"

    def _swell(self, shadow: Shadow) -> float:
        half = shadow.station(self.place)[1]
        return min(max(1.15 * self.radius * shadow.px_per_mm / half - 0.8, 0.0), 0.6)

    def room(self, shadow: Shadow) -> float:
        """How far (px) the bone is blown up."""
        return 2 * self._swell(shadow) * shadow.station(self.place)[1]

    def warp(self, shadow: Shadow) -> Any:
        """A lesion wider than its bone blows it up."""
        swell = self._swell(shadow)
        if self.room(shadow) < 0.6:
            return None
        length = self.stretch * self.radius * shadow.px_per_mm

        def moved(along: Array, across: Array) -> tuple[Array, Array]:
            centre = np.float32(shadow.station(self.place)[0])
            distance = (along - np.float32(self.place * shadow.length)) * np.float32(1 / length)
            return along, centre + (across - centre) / (1 + np.float32(swell) * np.exp(-(distance**2)))

        return moved

    def draw(self, paint: Paint, bone: Array) -> Array:
        """Takes the lesion out of a bone's attenuation, in place, and returns its mask."""
        shadow = paint.shadow
        half = shadow.station(self.place)[1]
        radius = max(self.radius * shadow.px_per_mm, 0.9)
        along = (paint.along - np.float32(self.place * shadow.length)) * np.float32(1 / (self.stretch * radius))
        across = (paint.across - np.float32(_across(shadow, self.offset) * half)) * np.float32(1 / radius)
        angle = np.arctan2(across, along) * np.float32(0.5 / np.pi) + np.float32(0.5)
        edge = look_up(_lobed(self.lobes), angle)
        depth = 1 - np.hypot(along, across) / edge
        soft = max(self.soft, 1.2 / radius)
        lost = np.clip(depth * np.float32(1 / soft) + np.float32(0.5), 0, 1)
        rim = np.exp(-(((depth + np.float32(0.08)) * np.float32(1 / max(0.1, 0.8 / radius))) ** 2))
        bone *= 1 - np.float32(self.loss) * lost + np.float32(self.rim) * rim * (lost < 0.9)
        return np.asarray((depth >= 0) & (paint.outer > 0))


@dataclass(frozen=True)
class Implant:
    """A plate on the surface of the bone with screws through it, or, when small, screws alone."""

    bone: str
    place: float
    towards: tuple[float, float]  # the side of the bone it lies on: unit (lateral, front)
    length: float
    width: float
    thickness: float
    screws: tuple[float, ...]  # along the plate, −0.5 … 0.5
    bite: float  # the screws' length over the bone's diameter
    occult: frozenset[int] = frozenset()
    kind: str = "implant"

    def room(self, shadow: Shadow) -> float:
        """How far (px) metal stands out of the bone."""
        beyond = 2 * (self.bite - 1) * shadow.station(self.place)[1]
        return 2 + (self.thickness + self.width) * shadow.px_per_mm + max(beyond, 0.0)

    def draw_metal(self, paint: Paint) -> tuple[tuple[slice, slice], Array, Array]:
        """(window, ray length in metal in mm, its mask), the window a part of the bone's."""
        shadow, scale = paint.shadow, paint.shadow.px_per_mm
        far = (max(self.length, 2.2 * self.width) / 2 + self.width) * scale + 3
        near = np.abs(paint.along - np.float32(self.place * shadow.length)) <= far
        rows, columns = _bounds(near.any(axis=1)), _bounds(near.any(axis=0))
        window = _within(paint.window[0], rows), _within(paint.window[1], columns)
        metal = self._metal(shadow, paint.along[rows, columns], paint.across[rows, columns], scale)
        return window, metal, np.asarray(metal > 0.35 * self.thickness)

    def _metal(self, shadow: Shadow, along: Array, across: Array, scale: float) -> Array:
        half = shadow.station(self.place)[1]
        lie = _across(shadow, self.towards)
        facing = _along_ray(shadow, self.towards)
        along = along - np.float32(self.place * shadow.length)
        seat = lie * (half + 0.5 * self.thickness * scale)
        off_seat = across - np.float32(seat)
        plate_half = (abs(facing) * self.width + abs(lie) * self.thickness) * scale / 2
        metal = np.zeros_like(along)
        drill = max(0.2 * self.width * scale, 0.6)
        if self.length > 0:
            plate = _bar(along, off_seat, self.length * scale / 2, plate_half)
            # Face on the ray crosses the thickness, edge on the width.
            metal += plate * np.float32(abs(facing) * self.thickness + abs(lie) * self.width)
            if abs(facing) > 0.6:
                for hole in np.linspace(-0.42, 0.42, max(3, round(self.length / (1.1 * self.width)))):
                    ring = np.hypot(along - np.float32(hole * self.length * scale), off_seat)
                    metal *= 1 - 0.75 * np.clip(np.float32(drill + 0.5) - ring, 0, 1)
        step = max(self.length, 2.2 * self.width) * scale
        here = np.min([np.abs(along - np.float32(place * step)) for place in self.screws], axis=0)
        thread = 1 + np.float32(0.18) * np.sin(across * np.float32(2 * np.pi / max(1.1 * scale, 3)))
        reach = 2 * half * self.bite * lie
        shaft = _bar(here, off_seat + np.float32(reach / 2), drill, abs(reach) / 2 + drill, thread)
        head = np.clip(np.float32(1.9 * drill + 0.5) - np.hypot(here, off_seat), 0, 1)
        shaft *= np.float32(0.4 * self.width + 2.0 * half * abs(facing) * self.bite / scale)
        head *= np.float32(0.8 * self.width)
        np.maximum(metal, shaft, out=metal)
        np.maximum(metal, head, out=metal)
        return metal


Abnormality = Fracture | Lesion | Implant


def _across(shadow: Shadow, vector: tuple[float, float]) -> float:
    """The part of a (lateral, front) vector that lies across the shadow."""
    return vector[0] * shadow.side[0] + vector[1] * shadow.side[1]


def _along_ray(shadow: Shadow, vector: tuple[float, float]) -> float:
    return vector[0] * shadow.depth[0] + vector[1] * shadow.depth[1]


def _bounds(present: Any) -> slice:
    """From the first to the last True."""
    places = np.flatnonzero(present)
    return slice(int(places[0]), int(places[-1]) + 1) if len(places) else slice(0, 0)


def _within(window: slice, part: slice) -> slice:
    """A part of a window, in the image's own coordinates."""
    return slice(window.start + part.start, window.start + part.stop)


def _lobed(lobes: tuple[float, ...]) -> Array:
    """Radius over a full turn, (1, 129), from four harmonics."""
    angle = np.linspace(-np.pi, np.pi, 129)
    waves = [
        lobes[2 * i] * np.cos((i + 2) * angle) + lobes[2 * i + 1] * np.sin((i + 2) * angle)
        for i in range(len(lobes) // 2)
    ]
    return np.asarray((1 + np.sum(waves, axis=0)).clip(0.55, 1.5)[None], np.float32)


def _bar(along: Array, across: Array, half_along: float, half_across: float, swell: Any = 1.0) -> Array:
    """A filled rectangle with soft edges of one pixel, 0 … 1."""
    a = np.clip(np.float32(half_along + 0.5) * swell - np.abs(along), 0, 1)
    return np.asarray(a * np.clip(np.float32(half_across + 0.5) - np.abs(across), 0, 1))
