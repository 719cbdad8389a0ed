"""Prediction by a cluster: Ray Data tasks read, actors that each hold a loaded model predict."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import ray.data
from ray.data import ActorPoolStrategy
from ray.exceptions import RayError

from mskray import cluster
from mskray.ensemble import Ensemble
from mskray.errors import user_error_in
from mskray.prediction.batch import BATCH, Loaded
from mskray.prediction.readers import Reader
from mskray.prediction.shards import share_machine

_READER_CPUS = 0.5


def predicted(
    ensemble: Ensemble, model: str, workers: int, gpu: bool, items: list[dict[str, Any]], read: Reader, size: int
) -> Iterator[pa.Table]:
    """Yield the rows of some items with what the model says of them, in any order.

    Args:
        workers: actors, each with a CPU and, with `gpu`, a GPU.
        size: items that are read together.
    Raises:
        UserError: the cluster is too small, or a task or an actor raised one.
    """
    cluster.require(cluster.Need("prediction", workers, 1.0, 1.0 if gpu else 0.0), _READER_CPUS)
    together = 1 if size == 1 else BATCH
    source = ray.data.from_items(items, override_num_blocks=-(-len(items) // together))
    made = source.map_batches(read, batch_size=size, num_cpus=_READER_CPUS).map_batches(
        _Actor,
        fn_constructor_args=(ensemble, model, workers, gpu),
        batch_size=None if size == 1 else size,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(size=workers),
        num_cpus=1,
        num_gpus=1 if gpu else 0,
    )
    try:
        yield from made.iter_batches(batch_size=None, batch_format="pyarrow")
    except RayError as error:
        raise user_error_in(error) or error from error


class _Actor(Loaded):
    """A loaded model in a Ray Data actor."""

    def __init__(self, ensemble: Ensemble, name: str, workers: int, gpu: bool) -> None:
        share_machine(workers)
        super().__init__(ensemble, name, gpu)
