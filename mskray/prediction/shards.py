"""A model over whole shards: Ray Data actors that load it once each and take a shard at a time."""

import os
from collections.abc import Iterator
from typing import Any

import ray.data
import torch
from ray.data import ActorPoolStrategy
from ray.exceptions import RayError

from mskray import cluster
from mskray.errors import user_error_in
from mskray.training.memory import keep_memory


def over_shards(
    what: str, actor: type, arguments: tuple[Any, ...], count: int, workers: int, gpu: bool
) -> Iterator[dict[str, Any]]:
    """Yield what `workers` actors return for the places 0 to `count` - 1, in any order.

    Args:
        what: for the message where the cluster is too small.
        actor: a class; called with a batch of one `place`, it returns columns of one row.
        arguments: of its constructor.
    Raises:
        UserError: the cluster is too small, or an actor raised one.
    """
    cluster.require(cluster.Need(what, workers, 1.0, 1.0 if gpu else 0.0), reading_cpus=0)
    places = ray.data.from_items([{"place": place} for place in range(count)], override_num_blocks=count)
    made = places.map_batches(
        actor,
        fn_constructor_args=arguments,
        batch_size=1,
        compute=ActorPoolStrategy(size=workers),
        num_cpus=1,
        num_gpus=1 if gpu else 0,
    )
    try:
        yield from made.iter_rows()
    except RayError as error:
        raise user_error_in(error) or error from error


def share_machine(workers: int) -> None:
    """Give torch this process's share of the machine, of which `workers` such processes are; its memory it keeps."""
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // workers))
    keep_memory()
