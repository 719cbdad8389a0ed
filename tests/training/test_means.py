"""The mean of each channel over a split, shard by shard, and that it is told of."""

from pathlib import Path

import numpy as np
import pytest
from small_discs import TASKS, disc_cohort

from mskray.imaging.inputs import InputFormat
from mskray.progress import Progress
from mskray.training.disc_samples import DiscSamples, stack_input
from mskray.training.feed import describe_split
from mskray.training.means import channel_means
from mskray.training.on_ray.readers import RayReaders
from mskray.training.readers import Readers, Threads


@pytest.mark.slow
@pytest.mark.parametrize("readers", [RayReaders(), Threads()])
def test_the_means_of_a_split_are_told_of_as_its_shards_are_read(
    ray_cluster: str, tmp_path: Path, readers: Readers
) -> None:
    cohort = disc_cohort(tmp_path / "discs")
    given = stack_input(cohort.image, 84, 3)
    samples = DiscSamples(tuple(task.column for task in TASKS), given.context, 84)
    split, labels = describe_split(cohort, "train", samples, InputFormat(84))
    said: list[Progress] = []
    found = channel_means(readers, split, given, said.append)
    stacks = split.load(0)["image"]
    assert len(stacks) == len(labels) == split.rows
    np.testing.assert_allclose(found, stacks[given.middle].mean(axis=(0, 2, 3)) / 255)
    assert [(each.stage, each.done, each.total, each.unit) for each in said[-1:]] == [("channel means", 1, 1, "shards")]
