"""Where a picture lies on a square canvas, and boxes to and from it.

Networks and cohorts want one size; boxes must still mean the same millimetres of bone. Coordinates are continuous:
pixel i covers i to i + 1, so a box (x, y, w, h) has its edges at x and x + w.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from mskray.imaging.intensity import to_dtype

Box = tuple[float, float, float, float]
FitMode = Literal["pad", "stretch"]


@dataclass(frozen=True)
class Placement:
    """Source → canvas: canvas = source × scale + offset, along x (columns) and y (rows), in pixels."""

    scale_x: float
    scale_y: float
    offset_x: float
    offset_y: float

    def to_canvas(self, box: Sequence[float]) -> Box:
        """(x, y, w, h) in source pixels → in canvas pixels. Not clipped to the canvas."""
        x, y, w, h = box
        return (
            x * self.scale_x + self.offset_x,
            y * self.scale_y + self.offset_y,
            w * self.scale_x,
            h * self.scale_y,
        )

    def to_source(self, box: Sequence[float]) -> Box:
        """(x, y, w, h) in canvas pixels → in source pixels. Not clipped to the source."""
        x, y, w, h = box
        return (
            (x - self.offset_x) / self.scale_x,
            (y - self.offset_y) / self.scale_y,
            w / self.scale_x,
            h / self.scale_y,
        )


@dataclass(frozen=True)
class Fit:
    """How pictures of any shape become size × size: "pad" keeps the aspect ratio, centred on black; "stretch" fills.

    Raises `ValueError` for a size below 1 or another mode.
    """

    size: int
    mode: FitMode = "pad"

    def __post_init__(self) -> None:
        if self.size < 1 or self.mode not in ("pad", "stretch"):
            raise ValueError(f"size must be at least 1 and mode pad or stretch, not {self.size} and {self.mode}")

    def content(self, rows: int, columns: int) -> tuple[int, int, int, int]:
        """(top, left, height, width) of a rows × columns picture on the canvas, whole pixels."""
        if self.mode == "stretch" or rows == columns:
            return 0, 0, self.size, self.size
        longest = max(rows, columns)
        # A sliver keeps one pixel: a canvas without any of the picture could not be mapped back.
        height = max(1, round(rows * self.size / longest))
        width = max(1, round(columns * self.size / longest))
        return (self.size - height) // 2, (self.size - width) // 2, height, width

    def placement(self, rows: int, columns: int) -> Placement:
        """The exact map of a rows × columns picture: the rounding of its sides is in the scales."""
        top, left, height, width = self.content(rows, columns)
        return Placement(width / columns, height / rows, float(left), float(top))


def shared_areas(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Areas (…, n, m) that boxes (…, n, 4) and (…, m, 4), x, y, w, h, have in common, px²."""
    mine, other = first[..., :, None, :], second[..., None, :, :]
    low = np.maximum(mine[..., :2], other[..., :2])
    high = np.minimum(mine[..., :2] + mine[..., 2:], other[..., :2] + other[..., 2:])
    return np.clip(high - low, 0, None).prod(axis=-1)


def intersection_over_union(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Shares (…, n, m) of what boxes (…, n, 4) and (…, m, 4), x, y, w, h, cover together that both cover."""
    shared = shared_areas(first, second)
    covered = first[..., 2:].prod(axis=-1)[..., :, None] + second[..., 2:].prod(axis=-1)[..., None, :] - shared
    return shared / np.maximum(covered, 1e-12)


def fit_to_canvas(pixels: np.ndarray, size: int, mode: FitMode = "pad") -> tuple[np.ndarray, Placement]:
    """Resize a picture onto a size × size canvas.

    pixels: (rows, columns), uint8 or uint16. Shrinking averages over areas, growing is bilinear.
    Returns the canvas, (size, size) of the same type with black (0) around the content, and where the content lies.
    """
    fit = Fit(size, mode)
    rows, columns = pixels.shape
    top, left, height, width = fit.content(rows, columns)
    placement = Placement(width / columns, height / rows, float(left), float(top))
    if (height, width) != (rows, columns):
        # Area averaging where either side shrinks: bilinear would skip pixels there and alias thin lines.
        shrinks = height < rows or width < columns
        pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    if (height, width) == (size, size):
        return pixels, placement
    canvas = np.zeros((size, size), pixels.dtype)
    canvas[top : top + height, left : left + width] = pixels
    return canvas, placement


def fit_to_format(pixels: np.ndarray, size: int, mode: FitMode, dtype: str) -> tuple[np.ndarray, Placement]:
    """Bring a picture to a cohort's canvas and type; ingest and prediction both do it here, so that they agree.

    pixels: (rows, columns), uint8 or uint16. Returns (size, size) of `dtype` ("uint8" or "uint16") and where the
    content lies. Resized first: the mean of 16-bit pixels rounds once.
    """
    canvas, placement = fit_to_canvas(pixels, size, mode)
    return to_dtype(canvas, dtype), placement


def fit_mask_to_canvas(mask: np.ndarray, size: int, mode: FitMode = "pad") -> np.ndarray:
    """A mask (rows, columns), above 0 where abnormal → (size, size) uint8 of 0 and 1, placed as `fit_to_canvas` does.

    A canvas pixel is 1 where any of the source pixels under it is: a fracture line two pixels wide must not vanish
    when it shrinks.
    """
    fit = Fit(size, mode)
    rows, columns = mask.shape
    top, left, height, width = fit.content(rows, columns)
    grown = (max(width, columns), max(height, rows))
    mask = cv2.resize((mask > 0).astype(np.uint8), grown, interpolation=cv2.INTER_NEAREST)
    y, x = np.nonzero(mask)
    canvas = np.zeros((size, size), np.uint8)
    canvas[top + y * height // mask.shape[0], left + x * width // mask.shape[1]] = 1
    return canvas


def from_canvas(canvas: np.ndarray, rows: int, columns: int, mode: FitMode = "pad") -> np.ndarray:
    """Cut a rows × columns picture's content out of what was made on its canvas, such as a map; not resized.

    canvas: (size, size) of any type. Returns a view, (height, width) of `Fit.content`: it covers the whole picture.
    """
    top, left, height, width = Fit(canvas.shape[0], mode).content(rows, columns)
    return canvas[top : top + height, left : left + width]


def has_area(box: Sequence[float]) -> bool:
    """Whether a box (x, y, w, h) covers anything; where nothing was found it is 0, 0, 0, 0."""
    return box[2] > 0 and box[3] > 0


def clipped(box: Sequence[float], rows: int, columns: int) -> Box:
    """Cut off what of a box (x, y, w, h) lies outside a rows × columns picture; a box beyond it has no area."""
    x, y, w, h = box
    left, top = min(max(x, 0.0), columns), min(max(y, 0.0), rows)
    return left, top, min(max(x + w, left), columns) - left, min(max(y + h, top), rows) - top
