"""A spine of blocks with exact edges, tilted and sampled at any spacing, for tests of discs and of their sources."""

from dataclasses import dataclass, field

import numpy as np

from mskray.imaging.spine import LEVELS, Vertebra
from mskray.imaging.volumes import Volume

WIDTH_MM, HEIGHT_MM, GAP_MM = 34.0, 26.0, 10.0
BODY, DISC, BACKGROUND = 200.0, 320.0, 40.0
CANAL_MM, SPINOUS_MM = (2.0, 14.0), (16.0, 30.0)  # behind the body


@dataclass
class BlockSpine:
    """Bodies above each other, all tilted by one angle around `centre_mm`, with a disc under each of them.

    levels: from above.
    tilt: degrees; above 0 the posterior ends of the endplates lie lower.
    bodies: level → (slices, rows, columns) bool; discs: level of the body above → the same.
    """

    levels: tuple[str, ...] = ("L4", "L5")
    tilt: float = 0.0
    spacing: tuple[float, float, float] = (4.0, 0.6, 0.6)
    shape: tuple[int, int, int] = (11, 300, 260)
    middle: float = 5.0
    half_slices: int = 4
    centre_mm: tuple[float, float] | None = None
    bias: float = 0.0
    bodies: dict[str, np.ndarray] = field(init=False)
    discs: dict[str, np.ndarray] = field(init=False)
    volume: Volume = field(init=False)
    vertebrae: dict[str, Vertebra] = field(init=False)

    def __post_init__(self):
        slices, rows, columns = self.shape
        _, down, across = self.spacing
        self.centre_mm = self.centre_mm or (columns * across / 2, rows * down / 2)
        angle = np.radians(self.tilt)
        self._axes = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        near = np.abs(np.arange(slices) - self.middle) <= self.half_slices
        tops = {level: self._top(place) for place, level in enumerate(self.levels)}
        half = WIDTH_MM / 2

        def block(*sides):
            return self.covered(*sides)[None] * near[:, None, None]

        bodies = {level: block(-half, half, top, top + HEIGHT_MM) for level, top in tops.items()}
        discs = {level: block(-half, half, top + HEIGHT_MM, top + HEIGHT_MM + GAP_MM) for level, top in tops.items()}
        self.bodies = {level: cover > 0.5 for level, cover in bodies.items()}
        self.discs = {level: cover > 0.5 for level, cover in discs.items()}
        pixels = np.full(self.shape, BACKGROUND)
        for cover in bodies.values():
            pixels += cover * (BODY - BACKGROUND)
        for cover in discs.values():
            pixels += cover * (DISC - BACKGROUND)
        pixels *= 1 + self.bias * (np.arange(slices) - self.middle)[:, None, None]
        affine = np.diag([across, down, self.spacing[0], 1.0])
        # Sagittal order: columns to the posterior, rows to the feet, slices to the left.
        turn = np.array([[0, 0, 1, 0], [1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1.0]])
        self.volume = Volume(pixels.astype(np.float32), self.spacing, turn @ affine)
        self.vertebrae = {level: Vertebra(level, self.middle, self._corners(top)) for level, top in tops.items()}

    def _top(self, place):
        """Upper end of a body along the spine, mm from the centre: the middle disc's centre for two bodies."""
        return (place - (len(self.levels) - 2) / 2 - 0.5) * (HEIGHT_MM + GAP_MM) - HEIGHT_MM / 2

    def _corners(self, top):
        half = WIDTH_MM / 2
        points = np.array([[-half, top], [half, top], [half, top + HEIGHT_MM], [-half, top + HEIGHT_MM]])
        return (points @ self._axes + self.centre_mm) / [self.spacing[2], self.spacing[1]]

    def covered(self, left, right, top, bottom):
        """(rows, columns): how much of each pixel a rectangle along the spine covers, exact at straight edges."""
        _, rows, columns = self.shape
        y = (np.arange(rows)[:, None] + 0.5) * self.spacing[1] - self.centre_mm[1]
        x = (np.arange(columns)[None] + 0.5) * self.spacing[2] - self.centre_mm[0]
        inside = np.ones((rows, columns))
        for axis, (low, high) in zip(self._axes, ((left, right), (top, bottom)), strict=True):
            place = x * axis[0] + y * axis[1]
            pixel = abs(axis[0]) * self.spacing[2] + abs(axis[1]) * self.spacing[1]
            inside *= np.clip(0.5 + (place - low) / pixel, 0, 1) * np.clip(0.5 + (high - place) / pixel, 0, 1)
        return inside

    def mask(self):
        """Labels as SPIDER has them: bodies from 1 and discs from 201, counted from below; the canal 100."""
        labels = np.zeros(self.shape, np.int16)
        half = WIDTH_MM / 2
        for place, level in enumerate(reversed(self.levels), 1):
            top = self._top(self.levels.index(level))
            spinous = self.covered(half + SPINOUS_MM[0], half + SPINOUS_MM[1], top + 8, top + 18) > 0.5
            labels[self.bodies[level] | (spinous & self.bodies[level].any((1, 2))[:, None, None])] = place
            labels[self.discs[level]] = 200 + place
        canal = self.covered(half + CANAL_MM[0], half + CANAL_MM[1], -1e3, 1e3) > 0.5
        labels[:, canal] = 100
        return labels


def lumbar(tilt=0.0, **settings):
    """The five lumbar bodies and T12: the disc under L5 is the one on S1."""
    return BlockSpine(**{"levels": LEVELS[:-1], "tilt": tilt, "shape": (11, 420, 260), **settings})
