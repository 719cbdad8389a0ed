"""A cohort's split as a Ray data set. Beside `read`, which works where there is no Ray."""

from collections.abc import Iterator, Sequence
from typing import Any

import ray.data

from mskray.cohorts.read import Cohort


def dataset(cohort: Cohort, split: str, columns: Sequence[str] | None = None) -> ray.data.Dataset:
    """A Ray data set of a split's rows, one task a shard; values as in `Cohort.read_shard`."""
    shards, wanted = cohort.shards(split), cohort.known(columns)

    def read(batch: Any) -> Iterator[Any]:
        for place in batch["shard"]:
            yield cohort.read_shard(shards[int(place)], wanted)

    places = ray.data.from_items([{"shard": place} for place in range(len(shards))], override_num_blocks=len(shards))
    return places.map_batches(read, batch_size=1)
