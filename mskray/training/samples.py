"""How the rows of a shard become samples of a network. No torch: it runs in the tasks that read shards."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from mskray.cohorts.schema import MISSING
from mskray.imaging.inputs import InputFormat

Arrays = dict[str, np.ndarray]


class Samples(Protocol):
    """From rows to samples. A study's rows are all in one shard, side by side, in the order of its views."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns to read beside `image`; `labels` gets those without pixels, which decide which samples there are."""
        ...

    def labels(self, rows: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the label (n,) int64 of each sample that `load` would make of the `columns` of one shard."""
        ...

    def load(self, rows: Mapping[str, np.ndarray], form: InputFormat) -> Arrays:
        """Make the samples of one shard from its `columns` and `image` (rows, size, size).

        Returns:
            `image`, `label` (n,) int64 and whatever else the recipe needs, n entries each.
        """
        ...


@dataclass(frozen=True)
class EachImage:
    """Every image with a label in `column` is a sample: `image` (n, size, size) and `label`."""

    column: str

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,)

    def labels(self, rows: Mapping[str, np.ndarray]) -> np.ndarray:
        found = rows[self.column]
        return found[found != MISSING].astype(np.int64)

    def load(self, rows: Mapping[str, np.ndarray], form: InputFormat) -> Arrays:
        images = rows["image"][rows[self.column] != MISSING]
        return {"image": shaped(images, form), "label": self.labels(rows)}


def shaped(images: np.ndarray, form: InputFormat) -> np.ndarray:
    """Bring images (n, side, side) to a network's input (n, size, size)."""
    if not len(images):
        return np.empty((0, form.size, form.size), images.dtype)
    return np.stack([form(each) for each in images])
