"""The arch of a vertebra behind its body: pedicle, articular processes, lamina, spinous process, and the fat between.

Drawn into one slice of a phantom spine by `spine_flesh`. Signals are relative to cerebrospinal fluid = 1, lengths mm.
"""

from dataclasses import dataclass

import numpy as np

from mskray.imaging.phantoms.spine_build import Array
from mskray.imaging.phantoms.spine_paint import over, ramp

FAT, LIGAMENT = 0.88, 0.06


@dataclass(frozen=True)
class Arch:
    """The arch of one vertebra on a window of a slice.

    rows (n, 1); q (n, m): distance behind the wall of the bodies; away (n, 1): distance from the middle of the spine.
    high, low: rows of the back corners of its body; back: depth of the canal; soft: width of an edge.
    """

    rows: Array
    q: Array
    away: Array
    high: float
    low: float
    back: np.float32
    soft: np.float32

    def sides(self, part: Array, marrow: Array, vary: Array) -> None:
        """Foramen with its root, pedicle, articular processes with their joint."""
        rows, q, height = self.rows, self.q, self.low - self.high
        lateral = ramp(self.away - 10.5, 4) * ramp(21 - self.away, 5)
        hole_row = self.low + 1.5
        hole = 1 - np.hypot((q - 5.5) * np.float32(1 / 6.5), (rows - hole_row) * np.float32(1 / (0.36 * height)))
        over(part, FAT * 0.85, ramp(hole, 0.25) * lateral)
        root = 1 - np.hypot(q - 5.5, rows - (hole_row - 3)) * np.float32(1 / 2.8)
        over(part, 0.3, ramp(root, 0.3) * lateral)
        self._bone(part, marrow, _box(q - 5, rows - (self.high + 0.34 * height), 9.5, 6.3 + 0.5 * vary[0]), lateral)
        facets = ramp(self.away - 10, 4) * ramp(23 - self.away, 5)
        across, along = q - (self.back + 4 + vary[1]), rows - (self.low + 0.5 + vary[2])
        self._bone(part, marrow, _oval(across + 0.2 * along, along, 7.0, 0.55 * height), facets)
        joint = np.exp(-(((across - 0.35 * along) * np.float32(1 / 0.9)) ** 2)) * (np.abs(along) < 8)
        part *= 1 - np.float32(0.85) * joint * facets

    def middle(self, part: Array, marrow: Array, vary: Array, name: str) -> None:
        """Lamina, the fat between arches, the spinous process."""
        rows, q, height = self.rows, self.q, self.low - self.high
        across, along = q - (self.back + 2.5), rows - (self.low - 0.05 * height)
        lamina = _oval(across - 0.12 * along, along, 3.2 + 0.3 * vary[3], 0.42 * height)
        self._bone(part, marrow, lamina, ramp(self.away - 3, 3) * ramp(11 - self.away, 4))
        if name.startswith("S"):
            return
        lumbar = name.startswith("L")
        # Fat behind the sac, between the arches.
        gap = _oval(q - (self.back + 2), rows - (self.low + 0.5 * height), 3.5 + vary[3], 0.4 * height)
        over(part, FAT * 0.95, ramp(gap, 1.5) * ramp(8 - self.away, 5))
        long = (28 if lumbar else 24) + 2.5 * vary[4]
        droop = (0.28 if lumbar else 0.6) + 0.1 * vary[5]
        out = q - (self.back + 5 + long / 2)
        spike = _blunt(
            out,
            rows - (self.low + 1.5 * vary[2] + droop * (out + long / 2)),
            long / 2,
            (0.27 + 0.04 * vary[0]) * height,
        )
        self._bone(part, marrow, spike, ramp(4 - self.away, 4))

    def _bone(self, part: Array, marrow: Array, depth: Array, presence: Array) -> None:
        """Marrow inside, dark compact bone of about 1 mm around it."""
        value = LIGAMENT + (marrow - LIGAMENT) * ramp(depth - 1.2, 1.2 * self.soft)
        over(part, value, ramp(depth, 1.2 * self.soft) * presence)


def _box(across: Array, along: Array, half_across: float, half_along: float) -> Array:
    """Depth (mm) inside a rectangle."""
    return np.minimum(half_across - np.abs(across), half_along - np.abs(along))


def _oval(across: Array, along: Array, half_across: float, half_along: float) -> Array:
    """Depth (mm, roughly) inside an ellipse."""
    far = np.hypot(across * np.float32(1 / half_across), along * np.float32(1 / half_along))
    return np.asarray((1 - far) * np.float32(min(half_across, half_along)))


def _blunt(across: Array, along: Array, half_across: float, half_along: float) -> Array:
    """Depth (mm, roughly) inside a rectangle with blunt ends."""
    far = (across * np.float32(1 / half_across)) ** 4 + (along * np.float32(1 / half_along)) ** 4
    return np.asarray((1 - np.sqrt(np.sqrt(far))) * np.float32(min(half_across, half_along)))
