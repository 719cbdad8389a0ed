"""A sagittal volume as a cohort of spines stores it: a few slices, one size, isotropic pixels, 8 bits.

Ingest and prediction both do it here, so that they agree.
"""

from dataclasses import dataclass, replace
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from mskray.imaging.regions import Fit, Placement
from mskray.imaging.spine import Vertebra
from mskray.imaging.volumes.montage import stack_plane
from mskray.imaging.volumes.volume import Volume

SLICES, SIZE = 9, 256
V = TypeVar("V", bound=Vertebra)
_PITCH_MM = 4.0
"""What slices of a spine are apart; of thinner ones, each second or third is taken."""
_LOW, _HIGH = 0.5, 99.5  # percentiles of the grey levels that become black and white


@dataclass(frozen=True, eq=False)
class SpineCell:
    """A volume's cell and the way back.

    Args:
        pixels: (slices, size, size) uint8; slices that the volume does not have are black.
        placement: from the volume's slices (x = column, y = row) to the cell's.
        first, step: the volume's slice in the cell's first, and how many further each next one lies.
    """

    pixels: NDArray[np.uint8]
    placement: Placement
    first: int
    step: int

    def to_cell(self, body: V) -> V:
        """Bring a body from the volume to the cell."""
        corners = body.corners * self._scale + self._offset
        return replace(body, slice=(body.slice - self.first) / self.step, corners=corners)

    def to_volume(self, body: V) -> V:
        """Bring a body from the cell to the volume."""
        corners = (body.corners - self._offset) / self._scale
        return replace(body, slice=body.slice * self.step + self.first, corners=corners)

    @property
    def _scale(self) -> NDArray[np.float64]:
        return np.array([self.placement.scale_x, self.placement.scale_y])

    @property
    def _offset(self) -> NDArray[np.float64]:
        return np.array([self.placement.offset_x, self.placement.offset_y])


def unfit_for_spines(volume: Volume) -> str | None:
    """Why no spine is looked for in a volume; None for sagittal slices, several, or voxels as long as wide."""
    if min(volume.pixels.shape) < 2:
        return "a volume of one slice: at least 2 are needed"
    plane = stack_plane(volume)
    return None if plane in (None, "sagittal") else f"{plane} slices: bodies are found on sagittal ones"


def spine_cell(volume: Volume, size: int = SIZE, slices: int = SLICES, beside: int = 0) -> SpineCell:
    """Make the cell of a volume in the order of `to_sagittal`: its middle slices, stretched in grey level and fitted.

    Args:
        size: side of the square cell, px. slices: how many it holds. beside: so many of its slices further on than the
            middle of the volume lies that of the cell.
    """
    count, rows, columns = volume.pixels.shape
    _, down, across = volume.spacing_mm
    step = _step(volume)
    first = (count - 1) // 2 + (beside - slices // 2) * step
    taken = first + step * np.arange(slices)
    there = (taken >= 0) & (taken < count)
    pixel = min(down, across)
    tall, wide = max(1, round(rows * down / pixel)), max(1, round(columns * across / pixel))
    top, left, height, width = Fit(size).content(tall, wide)
    cell = np.zeros((slices, size, size), np.uint8)
    shrinks = height < rows or width < columns
    grey = display_levels(volume.pixels[taken[there]])
    for place, each in zip(np.flatnonzero(there), grey, strict=True):
        fitted = cv2.resize(each, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        cell[place, top : top + height, left : left + width] = fitted
    return SpineCell(cell, Placement(width / columns, height / rows, float(left), float(top)), first, step)


def middles_beside(volume: Volume, apart: int) -> list[int]:
    """What `beside` of `spine_cell` may be, from 0 outwards in steps of `apart`, for middles inside the volume."""
    count, step = len(volume.pixels), _step(volume)
    middle = (count - 1) // 2
    inside = range(-(middle // step), (count - 1 - middle) // step + 1)
    return sorted((beside for beside in inside if beside % apart == 0), key=abs)


def _step(volume: Volume) -> int:
    """How many of a volume's slices further each slice of a cell lies."""
    return max(1, round(_PITCH_MM / volume.spacing_mm[0]))


def display_levels(pixels: np.ndarray) -> NDArray[np.uint8]:
    """Grey levels of a volume or slice, stretched from its percentiles to black and white."""
    low, high = np.percentile(pixels, (_LOW, _HIGH))
    stretched = (pixels - low) * (255 / max(high - low, 1e-9))
    return np.clip(np.rint(stretched), 0, 255).astype(np.uint8)
