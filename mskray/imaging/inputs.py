"""From a canvas as a cohort stores it to what a network is given: one path for training and for prediction."""

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from mskray.imaging.intensity import rescale_percentile
from mskray.imaging.regions import fit_to_canvas

Intensity = Literal["stored", "rescaled"]


@dataclass(frozen=True)
class InputFormat:
    """A network's input.

    Args:
        size: side of the square image, px.
        intensity: "stored" leaves grey levels alone; "rescaled" stretches each image between its own 1st and 99th
            percentile, which evens out exposure (ZHAW, section III-B).
    """

    size: int
    intensity: Intensity = "stored"

    def __call__(self, canvas: np.ndarray) -> np.ndarray:
        """Return a square canvas, uint8 or uint16, as (size, size) of the same dtype."""
        grey = rescale_percentile(canvas) if self.intensity == "rescaled" else canvas
        return grey if grey.shape == (self.size, self.size) else fit_to_canvas(grey, self.size)[0]


@dataclass(frozen=True)
class StackFormat:
    """A stack of slices of which a network's input is cut: one shape, in training and in prediction."""

    slices: int
    rows: int
    columns: int

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.slices, self.rows, self.columns

    def __call__(self, stack: np.ndarray) -> np.ndarray:
        """Return a stack (slices, rows, columns), uint8 or uint16, in this shape and of the same dtype.

        Each slice is stretched to the rows and columns, by the mean over areas where it shrinks. The middle slices
        are kept, or zeros added on both sides, the odd one after.
        """
        if stack.shape == self.shape:
            return stack
        before = (len(stack) - self.slices) // 2
        kept = stack[max(before, 0) : max(before, 0) + self.slices]
        result = np.zeros(self.shape, stack.dtype)
        shrinks = self.rows < stack.shape[1] or self.columns < stack.shape[2]
        way = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        for place, each in enumerate(kept, start=(self.slices - len(kept)) // 2):
            result[place] = cv2.resize(each, (self.columns, self.rows), interpolation=way)
        return result
