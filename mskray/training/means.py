"""The mean of each channel over a training split, which SpineNet (section 4) subtracts from its input. No torch."""

import numpy as np
import ray
from ray.exceptions import RayError

from mskray.errors import user_error_in
from mskray.training.disc_samples import StackInput
from mskray.training.feed import LOADER_CPUS, Split


def channel_means(split: Split, given: StackInput) -> np.ndarray:
    """Read the split once and return the mean (slices,) of the inputs' voxels, in [0, 1]; what is padding counts too.

    Raises:
        UserError: a shard cannot be read.
    """
    try:
        sums = ray.get([_sum.remote(split, shard, given) for shard in range(len(split.counts))])
    except RayError as error:
        raise user_error_in(error) or error from error
    total: np.ndarray = np.sum(sums, axis=0) / (split.rows * given.rows * given.columns)
    return total


@ray.remote(num_cpus=LOADER_CPUS, max_retries=5, scheduling_strategy="SPREAD")
def _sum(split: Split, shard: int, given: StackInput) -> np.ndarray:
    images = split.load(shard)["image"]
    return channel_sums(images, given)


def channel_sums(images: np.ndarray, given: StackInput) -> np.ndarray:
    """Sum over the inputs in contexts (n, slices, rows, columns) of integers, white counting 1: (slices,)."""
    top = float(np.iinfo(images.dtype).max)
    sums: np.ndarray = images[given.middle].sum(axis=(0, 2, 3), dtype=np.float64) / top
    return sums
