"""From a canvas as a cohort stores it to what a network is given: one path for training and for prediction."""

from dataclasses import dataclass
from typing import Literal

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
