"""Why a predictor says what it says: the answer of `explain`, and which predictors have one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from mskray.families.base import Images, Prediction


@dataclass(frozen=True)
class Explanation:
    """Where n radiographs hold reasons for a class, in pixels of the cohort's canvas.

    Args:
        prediction: what was said of them.
        target: (n,) int64, index of the class that is explained.
        maps: (n, size, size) float32 in [0, 1] by method: the share of the map's own peak.
        boxes: (n, 4) x, y, w, h by name: for each method the area around its map's peak, and boxes that the family
            itself gives (`Prediction.boxes`).
    """

    prediction: Prediction
    target: np.ndarray
    maps: Mapping[str, np.ndarray]
    boxes: Mapping[str, np.ndarray]


@runtime_checkable
class Explainer(Protocol):
    """A predictor that can say why."""

    def explain(
        self,
        images: Images,
        methods: Sequence[str],
        target: np.ndarray | None = None,
        prediction: Prediction | None = None,
    ) -> Explanation:
        """Explain n radiographs.

        Args:
            methods: names of `mskray.explain.methods.METHODS`; none gives the family's own boxes alone.
            target: (n,) index of the class to explain; the most probable of each when None.
            prediction: what this predictor said of the same images, where it is known already.
        Raises:
            UserError: a method is unknown or cannot explain this network.
        """
        ...


@runtime_checkable
class StackExplainer(Protocol):
    """A predictor of several tasks that can say in which voxels it sees reasons for a grade."""

    def hotspots(self, images: Images, task: str, target: np.ndarray, copies: int) -> tuple[np.ndarray, np.ndarray]:
        """Explain n stacks.

        Args:
            target: (n,) index of the class of the task that is explained.
            copies: augmented ones that a map is averaged over, the stack itself among them; with 1 it is the saliency
                of Simonyan et al. 2013.
        Returns:
            What the network was given, (n, slices, rows, columns) float32 in [0, 1], and the evidence at each of its
            voxels, 0 or more, as large.
        Raises:
            UserError: an unknown task, or less than one copy.
        """
        ...
