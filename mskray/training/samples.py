"""How the rows of a shard become samples of a network. No torch: it runs in the tasks that read shards."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from mskray.cohorts.schema import MISSING
from mskray.imaging.inputs import InputFormat

Arrays = dict[str, np.ndarray]


class Samples(Protocol):
    """From rows to samples. A study's rows are all in one shard, side by side, in the order of its views."""

    unit: ClassVar[str]
    """What the samples are, for progress: images or studies."""

    @property
    def images_each(self) -> int:
        """Images that a sample takes up at most."""
        ...

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns to read beside `image`; `labels` gets those without pixels, which decide which samples there are."""
        ...

    def labels(self, rows: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the label of each sample that `load` would make of the `columns` of one shard.

        Returns:
            (n,) int64; of several tasks (n, tasks), -1 where one is missing.
        """
        ...

    def load(self, rows: Mapping[str, np.ndarray], form: InputFormat) -> Arrays:
        """Make the samples of one shard from its `columns` and `image` (rows, size, size).

        Returns:
            `image`, `label` as `labels` gives them and whatever else the recipe needs, n entries each.
        """
        ...


@dataclass(frozen=True)
class EachImage:
    """Every image with a label in `column` is a sample: `image` (n, size, size) and `label`."""

    column: str
    unit: ClassVar[str] = "images"
    images_each: ClassVar[int] = 1

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,)

    def labels(self, rows: Mapping[str, np.ndarray]) -> np.ndarray:
        found = rows[self.column]
        return found[found != MISSING].astype(np.int64)

    def load(self, rows: Mapping[str, np.ndarray], form: InputFormat) -> Arrays:
        images = rows["image"][rows[self.column] != MISSING]
        return {"image": shaped(images, form), "label": self.labels(rows)}


@dataclass(frozen=True)
class Studies:
    """Every study with a label in `column` is a sample, of its first views: `image`, `views`, `label`.

    Its label is the highest of its labelled views, as in `mskray.evaluation.studies`; views without one are kept.

    Args:
        views: most views of a study, V; later ones are left out, so that a sample's size is bounded.
    """

    column: str
    views: int
    unit: ClassVar[str] = "studies"

    @property
    def images_each(self) -> int:
        return self.views

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column, "study_id")

    def labels(self, rows: Mapping[str, np.ndarray]) -> np.ndarray:
        highest = self._highest(rows, study_starts(rows["study_id"]))
        return highest[highest != MISSING]

    def load(self, rows: Mapping[str, np.ndarray], form: InputFormat) -> Arrays:
        """Make `image` (n, V, size, size), zero where a study has fewer views, `views` (n,) int64 and `label`."""
        starts = study_starts(rows["study_id"])
        counts = np.diff(starts, append=len(rows["study_id"]))
        labelled = self._highest(rows, starts) != MISSING
        starts, counts = starts[labelled], np.minimum(counts[labelled], self.views)
        places = np.arange(self.views)
        real = places < counts[:, None]
        images = np.zeros((*real.shape, form.size, form.size), rows["image"].dtype)
        images[real] = shaped(rows["image"][(starts[:, None] + places)[real]], form)
        return {"image": images, "views": counts.astype(np.int64), "label": self.labels(rows)}

    def _highest(self, rows: Mapping[str, np.ndarray], starts: np.ndarray) -> np.ndarray:
        found = rows[self.column].astype(np.int64)
        return np.maximum.reduceat(found, starts) if len(starts) else found


def study_starts(studies: np.ndarray) -> np.ndarray:
    """Return the index at which each study begins, of studies' names (n,) side by side."""
    return np.flatnonzero(np.append(True, studies[1:] != studies[:-1])[: len(studies)])


def shaped(images: np.ndarray, form: InputFormat) -> np.ndarray:
    """Bring images (n, side, side) to a network's input (n, size, size)."""
    if not len(images):
        return np.empty((0, form.size, form.size), images.dtype)
    return np.stack([form(each) for each in images])
