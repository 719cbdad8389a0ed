"""From two vertebral bodies' corners to the volume of the disc between them, as SpineNet grades it.

Jamaludin, Kadir, Zisserman: SpineNet (MICCAI 2016), section 4 "Disc volume extraction". Each disc gets one similarity
transform: it is turned so that the disc is horizontal, centred, and scaled so that the network's rows hold the disc and
40 % of each body beside it. Slices stay what they are: nothing is resampled across them.

The volume made here is larger than the network's input, so that shifts of the input never run into padding: with
`size` 320 it is 15 × 192 × 320, and the input is its middle 9 × 112 × 224. Used by the sources of discs.

Coordinates are those of `mskray.imaging.regions`: pixel i covers i to i + 1 along rows and columns, so that its centre
is at i + 0.5. Slices count from 0 at their centres.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from mskray.imaging.decode import DecodeError
from mskray.imaging.spine import Vertebra
from mskray.imaging.volumes import Volume, check_volume

#: Rows of the whole volume and of the network's input, and columns of that input, as shares of `size`.
ROWS, INPUT_ROWS, INPUT_COLUMNS = 0.6, 0.35, 0.7

_SHARE_OF_BODY = 0.4
# SpineNet's slices are 2.6 to 6 mm apart, 4 in the median. Of a volume of thinner ones every n-th slice is taken.
_SLICE_MM = 4.0
# Coarser pixels are those of an axial or coronal stack, seen from the side.
_MOST_PIXEL_MM = 2.0
# Of a spine: no side of a body is as long, no disc as high. Larger ones are corners of something else, and would make
# the smoothing before the resampling as large as they are.
_LONGEST_SIDE_MM, _HIGHEST_DISC_MM = 100.0, 40.0
# A body is some 45 mm wide: as far from its middle, a slice still shows bone within the corners.
_HALF_BODY_MM = 15.0


@dataclass(frozen=True, eq=False)
class DiscVolume:
    """One disc, level and centred.

    pixels: (slices, rows, columns) float32 in 0–1; the bodies' median is 0.5, slices beyond the volume are 0. Columns
        run anterior → posterior, rows superior → inferior; the middle slice is the bodies' mid-sagittal one.
    matrix: (3, 4): (slice, row, column, 1) of a voxel's index here → (slice, row, column) index in the volume.
    spacing_mm: side of a pixel.
    """

    pixels: NDArray[np.float32]
    matrix: NDArray[np.float64]
    spacing_mm: float

    def of_mask(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """What of a mask (slices, rows, columns) of the whole volume lies in this one, as large as `pixels`."""
        plane = np.array([self.matrix[2, [2, 1, 3]], self.matrix[1, [2, 1, 3]]])
        found = np.zeros(self.pixels.shape, bool)
        for index in range(len(found)):
            place = round(self.matrix[0] @ [index, 0, 0, 1])
            if 0 <= place < len(mask) and mask[place].any():
                flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
                size = found.shape[:0:-1]
                found[index] = cv2.warpAffine(mask[place].astype(np.float32), plane, size, flags=flags) >= 0.5
        return found


def disc_shape(size: int, slices: int = 15) -> tuple[int, int, int]:
    """(slices, rows, columns) of a disc volume `size` columns wide."""
    return slices, round(ROWS * size), size


def disc_volume(volume: Volume, upper: Vertebra, lower: Vertebra, size: int = 320, slices: int = 15) -> DiscVolume:
    """Cut the disc between two bodies out of a sagittal volume.

    Args:
        volume: in the order of `mskray.imaging.volumes.to_sagittal`.
        upper, lower: the bodies above and below the disc, corners in pixels of the volume.
        size: columns of the result; its rows are 0.6 of them.
        slices: of the result, odd.
    Raises:
        DecodeError: the disc lies outside the field of view, the volume has one slice or coarse pixels, the bodies are
            black, or the corners are none of two bodies one above the other, as large as bodies are.
    """
    check_volume(volume)
    if max(volume.spacing_mm[1:]) > _MOST_PIXEL_MM:
        across, along = volume.spacing_mm[1:]
        raise DecodeError(f"pixels of {across:.1f} × {along:.1f} mm in the sagittal plane: too coarse for discs")
    plane = _Plane.of(volume, upper, lower, size)
    step = max(1, int(_SLICE_MM / volume.spacing_mm[0] + 1e-6))
    middle = int(np.floor((upper.slice + lower.slice) / 2 + 0.5))
    if not 0 <= middle < volume.pixels.shape[0]:
        raise DecodeError(_outside(upper, lower))
    first = middle - step * (slices // 2)
    pixels = np.zeros(disc_shape(size, slices), np.float32)
    used = {index: place for index in range(slices) if 0 <= (place := first + step * index) < len(volume.pixels)}
    shrink = plane.spacing_mm / np.array([volume.spacing_mm[2], volume.spacing_mm[1]])
    floor = _floor(volume.pixels)
    stack = {index: volume.pixels[place].astype(np.float32) - floor for index, place in used.items()}
    for index, level in _levels(stack, slices // 2, step * volume.spacing_mm[0], upper, lower).items():
        warped = cv2.warpAffine(
            _smoothed(stack[index], shrink),
            plane.matrix,
            (size, pixels.shape[1]),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=0,
        )
        pixels[index] = np.clip(warped * (0.5 / level), 0, 1)
    return DiscVolume(pixels, _whole(plane.matrix, first, step), plane.spacing_mm)


@dataclass(frozen=True, eq=False)
class _Plane:
    """The similarity within a slice: `matrix` (2, 3) maps (column, row, 1) of the disc volume to those of the slice."""

    matrix: NDArray[np.float64]
    spacing_mm: float

    @classmethod
    def of(cls, volume: Volume, upper: Vertebra, lower: Vertebra, size: int) -> "_Plane":
        spacing = np.array([volume.spacing_mm[2], volume.spacing_mm[1]])
        above, below = upper.corners * spacing, lower.corners * spacing  # mm: pixels need not be square
        if not (
            np.isfinite(above).all() and np.isfinite(below).all() and np.isfinite([upper.slice, lower.slice]).all()
        ):
            raise DecodeError(f"the corners of {upper.level} or {lower.level} are not finite")
        # From anterior to posterior: the lower endplate of the upper body, the upper endplate of the lower one.
        plates = np.stack([above[[3, 2]], below[[0, 1]]])
        rims = plates.reshape(-1, 2) / spacing
        if (rims < 0).any() or (rims > [volume.pixels.shape[2], volume.pixels.shape[1]]).any():
            raise DecodeError(_outside(upper, lower))
        along = _unit(_unit(plates[0, 1] - plates[0, 0]) + _unit(plates[1, 1] - plates[1, 0]))
        down = np.array([-along[1], along[0]])
        heights = [float((body[2:].mean(0) - body[:2].mean(0)) @ down) for body in (above, below)]
        gap = float((plates[1].mean(0) - plates[0].mean(0)) @ down)
        if min(heights) <= 0 or gap < -min(heights) / 2:
            raise DecodeError(f"the corners of {upper.level} and {lower.level} are not those of one body above another")
        for body, corners in ((upper, above), (lower, below)):
            longest = float(np.linalg.norm(corners - np.roll(corners, 1, axis=0), axis=1).max())
            if longest > _LONGEST_SIDE_MM:
                raise DecodeError(
                    f"the corners of {body.level} are {longest:.0f} mm apart: no vertebral body is as large"
                )
        if gap > _HIGHEST_DISC_MM:
            raise DecodeError(f"{gap:.0f} mm between {upper.level} and {lower.level}: no disc is as high")
        # The paper: 40 % of each body appears in the region of interest, whose rows the network sees.
        pixel = (max(gap, 0.0) + _SHARE_OF_BODY * sum(heights)) / (INPUT_ROWS * size)
        turn = pixel * np.stack([along, down], axis=1) / spacing[:, None]
        centre = plates.reshape(-1, 2).mean(0) / spacing
        # Half a pixel: matrices of OpenCV count from the centre of the first pixel, corners from its edge.
        half = np.array([size, round(ROWS * size)]) / 2 - 0.5
        return cls(np.column_stack([turn, centre - 0.5 - turn @ half]), pixel)


def _unit(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    length = float(np.hypot(*vector))
    if length < 1e-6:
        raise DecodeError("an endplate without length")
    return vector / length


def _outside(upper: Vertebra, lower: Vertebra) -> str:
    return f"the disc {upper.level}/{lower.level} lies outside the field of view"


def _floor(pixels: np.ndarray) -> float:
    """The value of black. Magnitudes are not negative: where values are, the volume was shifted (SPIDER: by -1000)."""
    return min(0.0, float(np.percentile(pixels[:, ::4, ::4], 0.1)))


def _levels(
    stack: dict[int, np.ndarray], middle: int, slice_mm: float, upper: Vertebra, lower: Vertebra
) -> dict[int, float]:
    """The bodies' median in each slice, which becomes 0.5: "each slice of the disc is normalized", against bias.

    A slice beside the bodies has none of its own, and takes that of the next slice towards the middle; so does one
    whose median is more than twice or less than half as large, since that is no bias but other tissue.
    """
    inside = np.zeros(stack[middle].shape, np.uint8)
    for body in (upper, lower):
        # fillPoly takes centres of pixels, here in 1/16 px.
        cv2.fillPoly(inside, [np.rint((body.corners - 0.5) * 16).astype(np.int32)], 1, shift=4)
    inside = inside.astype(bool)
    centre = float(np.median(stack[middle][inside])) if inside.any() else 0.0
    if centre <= 0:
        raise DecodeError(f"the bodies {upper.level} and {lower.level} are black")
    levels = {middle: centre}
    for index in sorted(stack, key=lambda each: abs(each - middle))[1:]:
        near = levels[index + (1 if index < middle else -1)]
        own = float(np.median(stack[index][inside]))
        known = abs(index - middle) * slice_mm <= _HALF_BODY_MM and near / 2 <= own <= near * 2
        levels[index] = own if known else near
    return levels


def _smoothed(pixels: np.ndarray, shrink: NDArray[np.float64]) -> np.ndarray:
    """Blur along columns and rows where several pixels become one, so that none is skipped."""
    sigma = 0.5 * np.sqrt(np.maximum(shrink**2 - 1, 0))
    if not sigma.any():
        return pixels
    width, height = (2 * int(np.ceil(3 * each)) + 1 for each in sigma)
    # A kernel of one pixel changes nothing, whatever its sigma; 0 would stand for another one.
    across, down = (max(float(each), 1e-3) for each in sigma)
    return cv2.GaussianBlur(pixels, (width, height), sigmaX=across, sigmaY=down, borderType=cv2.BORDER_REPLICATE)


def _whole(plane: NDArray[np.float64], first: int, step: int) -> NDArray[np.float64]:
    """The plane's (column, row) map and the slices' as one matrix over (slice, row, column, 1)."""
    (xx, xy, x), (yx, yy, y) = plane
    return np.array([[step, 0, 0, first], [0, yy, yx, y], [0, xy, xx, x]], np.float64)
