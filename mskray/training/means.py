"""The mean of each channel over a training split, which SpineNet (section 4) subtracts from its input. No torch."""

import numpy as np
import ray
from ray.exceptions import RayError

from mskray.errors import user_error_in
from mskray.progress import Progress, Report, silent
from mskray.training.disc_samples import StackInput
from mskray.training.feed import LOADER_CPUS, Split
from mskray.training.waiting import as_finished

_STAGE = "channel means"


def channel_means(split: Split, given: StackInput, report: Report = silent) -> np.ndarray:
    """Read the split once and return the mean (slices,) of the inputs' voxels, in [0, 1]; what is padding counts too.

    Told of each shard, and of none for a while: of a large cohort this takes minutes, before the first epoch.

    Raises:
        UserError: a shard cannot be read.
    """
    numbers = {_sum.remote(split.only(shard), given): shard for shard in range(len(split.counts))}
    sums = np.zeros((len(numbers), given.slices))
    try:
        for done, task in enumerate(as_finished(list(numbers), _STAGE, "shards", report), 1):
            sums[numbers[task]] = ray.get(task)
            report(Progress(_STAGE, done, len(numbers), "shards"))
    except RayError as error:
        raise user_error_in(error) or error from error
    total: np.ndarray = sums.sum(axis=0) / (split.rows * given.rows * given.columns)
    return total


@ray.remote(num_cpus=LOADER_CPUS, max_retries=5, scheduling_strategy="SPREAD")
def _sum(split: Split, given: StackInput) -> np.ndarray:
    images = split.load(0)["image"]
    return channel_sums(images, given)


def channel_sums(images: np.ndarray, given: StackInput) -> np.ndarray:
    """Sum over the inputs in contexts (n, slices, rows, columns) of integers, white counting 1: (slices,)."""
    top = float(np.iinfo(images.dtype).max)
    sums: np.ndarray = images[given.middle].sum(axis=(0, 2, 3), dtype=np.float64) / top
    return sums
