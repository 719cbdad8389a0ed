"""Shards read by Ray tasks, wherever a CPU is free, into shared memory. No torch."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import ray
from ray.exceptions import RayError

from mskray.errors import user_error_in
from mskray.progress import Report
from mskray.training.feed import LOADER_CPUS
from mskray.training.waiting import as_finished

# Shared memory also holds batches in flight and checkpoints: shards may fill this share of the smallest node's.
_MEMORY_SHARE = 0.4


# Shards that a node took with it are read again from what is known of them, however often nodes go.
@ray.remote(num_cpus=LOADER_CPUS, max_retries=-1, scheduling_strategy="SPREAD")
def _read(work: Callable[[], Any]) -> Any:
    # For the rest of this process: Arrow's default allocator, mimalloc, holds on to more with every small shard, 50 MB
    # after some hundred.
    pa.set_memory_pool(pa.system_memory_pool())
    return work()


class RayReaders:
    """Readers of a cluster; a handle is an object's reference. It holds nothing and travels to workers."""

    def start(self, work: Callable[[], Any]) -> ray.ObjectRef:
        return _read.remote(work)

    def take(self, handle: ray.ObjectRef) -> Any:
        try:
            return ray.get(handle)
        except RayError as error:
            raise user_error_in(error) or error from error

    def as_finished(
        self, handles: Sequence[ray.ObjectRef], stage: str, unit: str, report: Report
    ) -> Iterator[ray.ObjectRef]:
        return as_finished(handles, stage, unit, report)

    def room(self) -> int:
        nodes = [node["Resources"].get("object_store_memory", 0.0) for node in ray.nodes() if node["Alive"]]
        return int(_MEMORY_SHARE * min(nodes, default=0.0))

    def close(self) -> None: ...
