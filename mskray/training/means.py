"""The mean of each channel over a training split, which SpineNet (section 4) subtracts from its input. No torch."""

from functools import partial

import numpy as np

from mskray.progress import Progress, Report, silent
from mskray.training.disc_samples import StackInput
from mskray.training.feed import Split
from mskray.training.readers import Readers

_STAGE = "channel means"


def channel_means(readers: Readers, split: Split, given: StackInput, report: Report = silent) -> np.ndarray:
    """Read the split once and return the mean (slices,) of the inputs' voxels, in [0, 1]; what is padding counts too.

    Told of each shard, and of none for a while: of a large cohort this takes minutes, before the first epoch.

    Raises:
        UserError: a shard cannot be read.
    """
    handles = {readers.start(partial(_sum, split.only(shard), given)): shard for shard in range(len(split.counts))}
    sums = np.zeros((len(handles), given.slices))
    for done, handle in enumerate(readers.as_finished(list(handles), _STAGE, "shards", report), 1):
        sums[handles[handle]] = readers.take(handle)
        report(Progress(_STAGE, done, len(handles), "shards"))
    total: np.ndarray = sums.sum(axis=0) / (split.rows * given.rows * given.columns)
    return total


def _sum(split: Split, given: StackInput) -> np.ndarray:
    return channel_sums(split.load(0)["image"], given)


def channel_sums(images: np.ndarray, given: StackInput) -> np.ndarray:
    """Sum over the inputs in contexts (n, slices, rows, columns) of integers, white counting 1: (slices,)."""
    top = float(np.iinfo(images.dtype).max)
    sums: np.ndarray = images[given.middle].sum(axis=(0, 2, 3), dtype=np.float64) / top
    return sums
