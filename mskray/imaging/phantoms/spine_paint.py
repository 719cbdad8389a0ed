"""What the painters of a phantom spine share: where samples lie, soft edges, smooth textures."""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from mskray.imaging.phantoms.spine_build import Array


@dataclass(frozen=True)
class Grid:
    """Where the samples of a volume lie, mm on the patient's axes: centres of slices, rows and columns."""

    x: Array
    rows: Array
    columns: Array

    @property
    def shape(self) -> tuple[int, int, int]:
        return len(self.x), len(self.rows), len(self.columns)

    @property
    def pixel(self) -> float:
        """Side of a pixel, mm."""
        return float(self.columns[1] - self.columns[0])

    def window(self, points: Array, margin: float) -> "tuple[slice, slice] | None":
        """Rows and columns within `margin` mm of the points' bounding box; None outside the field of view."""
        (left, top), (right, bottom) = points.min(axis=0) - margin, points.max(axis=0) + margin
        rows = slice(*np.searchsorted(self.rows, (top, bottom)).tolist())
        columns = slice(*np.searchsorted(self.columns, (left, right)).tolist())
        return (rows, columns) if rows.start < rows.stop and columns.start < columns.stop else None


class Noise:
    """Smooth random textures of a volume, standard normal: one draw, any slice."""

    def __init__(self, rng: np.random.Generator, grid: Grid, rows_mm: float, columns_mm: float, slices_mm: float):
        """Grain of a given size (mm) along the three axes."""
        slices, rows, columns = grid.shape
        pitch = abs(float(grid.x[1] - grid.x[0]))
        self._size = columns, rows
        self._step = pitch / max(slices_mm, pitch)
        coarse = (
            int((slices - 1) * self._step) + 2,
            max(int(rows * grid.pixel / rows_mm), 2),
            max(int(columns * grid.pixel / columns_mm), 2),
        )
        self._planes = rng.standard_normal(coarse, dtype=np.float32)

    def slice(self, index: int) -> Array:
        """(rows, columns) float32."""
        at, part = divmod(index * self._step, 1)
        first = self._planes[int(at)]
        plane = first if part == 0 else first * np.float32(1 - part) + self._planes[int(at) + 1] * np.float32(part)
        plane = plane * np.float32(1.3 / np.hypot(1 - part, part))
        return np.asarray(cv2.resize(plane, self._size, interpolation=cv2.INTER_LINEAR))


def over(signal: Array, value: "Array | float", cover: Array) -> None:
    """Lays `value` over `signal` where `cover` is 1, in place."""
    signal += (value - signal) * np.minimum(cover, 1)


def ramp(value: Any, width: Any) -> Array:
    """0 below −width/2, 1 above width/2, linear between."""
    height = np.asarray(value * np.float32(1 / width))
    height += np.float32(0.5)
    return np.asarray(np.clip(height, 0, 1, out=height))
