"""Spines with their bodies' corners, for detectors. No torch: it runs in the tasks that read shards."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from mskray.cohorts.schema import CORNERS
from mskray.imaging.inputs import InputFormat
from mskray.imaging.spine import LEVELS
from mskray.training.samples import Arrays

MOST = len(LEVELS)
"""Bodies of a spine that are learned from."""
SLICES = 5
"""Middle slices of a volume that a sample holds, so that training can look beside the middle one."""
NONE, BODY, SACRUM, PART = range(4)
_SHORTENED, _HIGHEST, _LOWEST = 4, "L1", "L5"


@dataclass(frozen=True)
class SpineSamples:
    """Every spine is a sample: `image`, `label`, `corners`, `kinds`, `slices`.

    - `image` (n, SLICES, size, size): the middle slices.
    - `label` (n,): number of bodies in view that are named.
    - `corners` (n, MOST, 4, 2) float32: x, y in pixels of the network's input.
    - `kinds` (n, MOST) int64: BODY, SACRUM for S1, PART for what is in view in part, NONE for what is not.
    - `slices` (n, MOST) float32: from the middle slice of `image` to the body's own.

    Every fourth spine of a shard is shown from L1 to L5 alone: a field of view may end there, and the validation must
    know spines of more than one length.
    """

    unit: ClassVar[str] = "spines"
    images_each: ClassVar[int] = SLICES
    columns: ClassVar[tuple[str, ...]] = ("vertebrae",)
    size: int
    """Side of the cohort's canvas, px: `labels` sees no pixels."""

    def labels(self, rows: Mapping[str, np.ndarray]) -> np.ndarray:
        counts = []
        for place, bodies in enumerate(rows["vertebrae"]):
            view = _view(place, bodies, self.size)
            counts.append(sum(_shown(corners_of(body), self.size, view).all() for body in bodies[:MOST]))
        return np.array(counts, np.int64)

    def load(self, rows: Mapping[str, np.ndarray], form: InputFormat) -> Arrays:
        stacks = rows["image"]
        middle = stacks.shape[1] // 2
        first = middle - SLICES // 2
        images = np.zeros((len(stacks), SLICES, form.size, form.size), stacks.dtype)
        corners = np.zeros((len(stacks), MOST, 4, 2), np.float32)
        kinds, slices = np.full((len(stacks), MOST), NONE), np.zeros((len(stacks), MOST), np.float32)
        scale = form.size / self.size
        for place, (stack, bodies) in enumerate(zip(stacks, rows["vertebrae"], strict=True)):
            images[place] = [form(each) for each in stack[first : first + SLICES]]
            view = _view(place, bodies, self.size)
            images[place, :, : round(view[0] * scale)] = 0
            images[place, :, round(view[1] * scale) :] = 0
            for number, body in enumerate(bodies[:MOST]):
                shown = _shown(corners_of(body), self.size, view)
                own = SACRUM if body["level"] == LEVELS[-1] else BODY
                kinds[place, number] = own if shown.all() else PART if shown.any() else NONE
                corners[place, number] = corners_of(body) * scale
                slices[place, number] = body["slice"] - middle
        return {"image": images, "label": self.labels(rows), "corners": corners, "kinds": kinds, "slices": slices}


def corners_of(body: Mapping[str, Any]) -> np.ndarray:
    """Return a body's corners (4, 2) of a cohort's row."""
    return np.array([body[name] for name in CORNERS], np.float32).reshape(4, 2)


def _shown(corners: np.ndarray, size: int, view: tuple[float, float]) -> np.ndarray:
    """Tell which corners (…, 2) lie inside a square of side `size` that is seen between two rows."""
    inside = (corners >= np.array([0, view[0]])) & (corners <= np.array([size, view[1]]))
    return np.asarray(inside.all(axis=-1))


def _view(place: int, bodies: Sequence[Mapping[str, Any]], size: int) -> tuple[float, float]:
    """First row and end of what is shown of the spine at a place of a shard."""
    ends = {body["level"]: corners_of(body)[:, 1] for body in bodies}
    if place % _SHORTENED != 1 or not {_HIGHEST, _LOWEST} <= ends.keys():
        return 0.0, float(size)
    return max(np.floor(ends[_HIGHEST].min()) - 1, 0.0), min(np.ceil(ends[_LOWEST].max()) + 1, float(size))
