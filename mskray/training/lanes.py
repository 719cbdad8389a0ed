"""A step cut into as many lanes as `resources.workers`, for any number of workers: the same samples, the same result.

A lane is what a worker was before workers could come and go: its own share of the rows, its own random numbers, its
own batch in each step. Their number is fixed for the run. A world of fewer workers deals the lanes among them, and each
works through its own one after the other before the weights move, as in VirtualFlow (Or et al. 2022, "virtual nodes")
and EasyScale (Li et al. 2023, "EasyScaleThreads"). With a worker a lane nothing differs from plain data parallelism.

What differs between worlds is the order in which float32 gradients are summed, so weights agree to rounding. The
running statistics of BatchNorm are those of lane 0 in every world, as PyTorch's are those of rank 0.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn


def dealt(lanes: int, rank: int, world: int) -> range:
    """Return the lanes of a rank: neighbours, at most one more or fewer than another rank has.

    Args:
        world: 1 to `lanes` ranks.
    """
    if not 0 <= rank < world <= lanes:
        raise ValueError(f"rank {rank} of {world} cannot have one of {lanes} lanes")
    return range(rank * lanes // world, (rank + 1) * lanes // world)


def share(lanes: int, world: int) -> float:
    """Return what a lane's loss is multiplied by, so that the mean over ranks of summed gradients is that over lanes.

    DistributedDataParallel divides the sum over ranks by `world`; the lanes' mean is their sum divided by `lanes`.
    """
    return world / lanes


def step_seed(seed: int, epoch: int, step: int, lane: int) -> int:
    """Return the seed of a lane's augmentation and dropout in one step, 63 bits."""
    return int(np.random.SeedSequence([seed, epoch, step, lane]).generate_state(1, np.uint64)[0] >> 1)


@contextmanager
def buffers_kept(network: nn.Module, keep: bool) -> Iterator[None]:
    """Undo what the block does to a network's buffers, where `keep`: of a rank's lanes the first alone changes them."""
    saved = [buffer.clone() for buffer in network.buffers()] if keep else []
    yield
    with torch.no_grad():
        for buffer, before in zip(network.buffers(), saved, strict=False):
            buffer.copy_(before)
