"""The images of pairs, one after the other, as whatever looks at single images takes them. No torch, no Ray."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mskray.cohorts.schema import MISSING
from mskray.estimators.pairs import AugmentSection, noisy
from mskray.imaging.inputs import InputFormat
from mskray.training.samples import Arrays, shaped

MEMBERS = 2
"""Before and after."""


@dataclass(frozen=True)
class PairImages:
    """Every image of every labelled pair, and of its noisy copies, is a sample (`mskray.training.samples.Samples`).

    Pair by pair; of each the pair itself and then its copies, each before and then after. What is made of them is
    brought back with `by_pair`.

    Args:
        column: whose labels decide which pairs there are.
        augment: how many noisy copies, and how noisy.
    """

    column: str
    augment: AugmentSection
    unit: ClassVar[str] = "images"
    images_each: ClassVar[int] = 1

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column, "instance_id")

    @property
    def each(self) -> int:
        """Images of a pair with its copies."""
        return (1 + self.augment.noise_copies) * MEMBERS

    def labels(self, rows: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the label of the pair of each image, not swapped."""
        found = rows[self.column]
        return np.repeat(found[found != MISSING].astype(np.int64), self.each)

    def load(self, rows: Mapping[str, np.ndarray], form: InputFormat) -> Arrays:
        inside = rows[self.column] != MISSING
        images = self.images(rows["image"][inside], rows["instance_id"][inside])
        return {"image": shaped(images, form), "label": self.labels(rows)}

    def images(self, pairs: np.ndarray, names: np.ndarray) -> np.ndarray:
        """Return images (n · each, size, size) of pairs (n, 2, size, size) with these instances (n,)."""
        section = self.augment
        made = [
            pair if copy == 0 else noisy(pair, section.noise, section.seed, str(name), copy)
            for pair, name in zip(pairs, names, strict=True)
            for copy in range(1 + section.noise_copies)
        ]
        return np.concatenate(made) if made else np.empty((0, *pairs.shape[2:]), pairs.dtype)

    def by_pair(self, values: np.ndarray) -> np.ndarray:
        """Return what was made of the images (n · each, …) by pair, copy and member: (n, 1 + copies, 2, …)."""
        pairs = len(values) // self.each  # said, because none cannot be inferred of none
        return values.reshape(pairs, 1 + self.augment.noise_copies, MEMBERS, *values.shape[1:])


def labelled_digest(labels: np.ndarray) -> str:
    """Return 16 hex digits of a SHA-256 over which of labels (n,) are known: what is extracted is named by it."""
    return hashlib.sha256(np.packbits(labels != MISSING).tobytes()).hexdigest()[:16]
