"""Stacks and radiographs with labels of several tasks. No torch: it runs in the tasks that read shards."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mskray.cohorts.schema import MISSING, ImageFormat
from mskray.imaging.inputs import InputFormat, StackFormat
from mskray.training.samples import Arrays, shaped

# Of the context that a disc is stored with, the network's input is the middle: 9 × 112 × 224 of 15 × 192 × 320 where
# nothing was made smaller. So shifts and windows of other slices bring in what is there; the corners of an input that
# is turned and shrunk as well may reach past it.
_MIDDLE_ROWS, _MIDDLE_COLUMNS = 112 / 192, 224 / 320


@dataclass(frozen=True)
class StackInput:
    """What a network is given, (slices, rows, columns), and the context that it is cut from."""

    slices: int
    rows: int
    columns: int
    context: StackFormat

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.slices, self.rows, self.columns

    @property
    def middle(self) -> tuple[slice, ...]:
        """Where the input lies in an array of contexts (n, slices, rows, columns)."""
        starts = [(whole - part) // 2 for whole, part in zip(self.context.shape, self.shape, strict=True)]
        return slice(None), *(slice(start, start + part) for start, part in zip(starts, self.shape, strict=True))


def stack_input(image: ImageFormat, columns: int, slices: int) -> StackInput:
    """Return the input of `columns` px and of at most `slices` slices that images stored in this format give.

    A radiograph is its own context, a stack of one slice. The context of a disc is the cell as it is stored, made
    smaller where `columns` are fewer than it has in its middle.

    Raises:
        ValueError: fewer columns are stored, or fewer slices.
    """
    if not image.slices:
        return StackInput(1, columns, columns, StackFormat(1, columns, columns))
    stored, rows, across = image.shape
    middle = round(across * _MIDDLE_COLUMNS)
    if columns > middle:
        raise ValueError(f"the middle {middle} of {across} columns are an input, not {columns}")
    if slices > stored:
        raise ValueError(f"{stored} slices are stored, fewer than {slices}")
    share = columns / middle
    context = StackFormat(stored, round(rows * share), round(across * share))
    return StackInput(slices, round(context.rows * _MIDDLE_ROWS), columns, context)


def smallest_stored(columns: int) -> int:
    """The least width of stored discs, a multiple of 20 px, whose middle holds an input of `columns` px."""
    return 20 * -(-columns // round(20 * _MIDDLE_COLUMNS))


@dataclass(frozen=True)
class DiscSamples:
    """Every image with a label of any of the tasks is a sample: `image` and `label`.

    - `image` (n, slices, rows, columns): the context that the network's input is cut from.
    - `label` (n, tasks) int64, -1 where a task's is missing.

    Args:
        columns: the tasks' label columns, in the tasks' order.
        context: shape of the stacks; None for radiographs, which are stacks of one slice.
        size: columns of the network's input, px.
    """

    columns: tuple[str, ...]
    context: StackFormat | None
    size: int
    unit: ClassVar[str] = "samples"

    @property
    def images_each(self) -> int:
        """How many square images of the input's columns take the room of one sample."""
        if self.context is None:
            return 1
        return -(-int(np.prod(self.context.shape)) // self.size**2)

    def labels(self, rows: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the labels (n, tasks) of each sample."""
        found = self._all(rows)
        return found[(found != MISSING).any(axis=1)]

    def load(self, rows: Mapping[str, np.ndarray], form: InputFormat) -> Arrays:
        found = self._all(rows)
        labelled = (found != MISSING).any(axis=1)
        images = rows["image"][labelled]
        if self.context is None:
            stacks = shaped(images, form)[:, None]
        elif len(images):
            stacks = np.stack([self.context(each) for each in images])
        else:
            stacks = np.empty((0, *self.context.shape), images.dtype)
        return {"image": stacks, "label": found[labelled]}

    def _all(self, rows: Mapping[str, np.ndarray]) -> np.ndarray:
        return np.stack([rows[column] for column in self.columns], axis=1).astype(np.int64)
