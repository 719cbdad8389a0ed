"""What scheduling an ingest costs its driver: the code of an ingest, whose tasks sleep where they would decode.

The driver keeps as many tasks in flight as `nodes` would run, with rows as large as real ones; the machine's few
workers take them in turn. So the tasks a second that one driver can feed are measured, and what it holds meanwhile; not
what a thousand nodes would add in traffic. `--raylets` starts that many Ray nodes in place of one.
"""

import resource
import sys
import time
from contextlib import ExitStack
from typing import Any

import pyarrow as pa
import ray
from ray.cluster_utils import Cluster

from infra.scale.planning import Memory, resident
from mskray.cohorts.plan import ShardPlan
from mskray.cohorts.scheduling import run_shards, window_bytes

_MB = 1e6
_SAY_S = 10.0


def measure_ingest(
    nodes: int,
    shards: int,
    cpus_a_node: int = 16,
    rows_a_shard: int = 254,
    seconds_a_shard: float = 0.0,
    workers: int = 2,
    raylets: int = 1,
) -> dict[str, Any]:
    """Schedule so many shards as if for so many nodes.

    Args:
        seconds_a_shard: that a worker sleeps in place of writing it.
        workers: processes that do so, on each of the Ray nodes.
    Returns:
        Seconds in all and of the first results, shards a second, driver memory before and at its peak, MB.
    """
    rows = _rows(rows_a_shard)
    todo = [
        ShardPlan("train", number, f"{number:016x}", number * rows_a_shard, rows_a_shard) for number in range(shards)
    ]

    def sleep(shard: ShardPlan, given: list[dict[str, Any]]) -> tuple[int, int]:
        time.sleep(seconds_a_shard)
        return shard.number, len(given)

    with ExitStack() as stack:
        _start(stack, workers, raylets)
        memory = Memory()
        stack.callback(memory.end)
        began = time.monotonic()
        cpu = time.process_time()
        first, told = 0.0, began
        numbers = bytearray(shards)
        ended_shards = run_shards(todo, lambda _: rows, sleep, slots=nodes * cpus_a_node)
        for seen, (shard, (number, count)) in enumerate(ended_shards, 1):
            assert (number, count) == (shard.number, rows_a_shard)
            numbers[number] += 1
            now = time.monotonic()
            first = first or now
            if now - max(told, first) > _SAY_S:
                told = now
                rate, held = seen / (now - first), resident() / _MB
                line = f"  {seen:,} of {shards:,} shards, {rate:,.0f}/s, driver {held:,.0f} MB"
                print(line, file=sys.stderr, flush=True)
        ended = time.monotonic()
        assert numbers == b"\x01" * shards, "a shard was lost or doubled"
        slept = shards * seconds_a_shard / (workers * raylets)
        return {
            "nodes": nodes,
            "raylets": raylets,
            "workers": workers * raylets,
            "shards": shards,
            "rows": shards * rows_a_shard,
            "seconds": ended - began,
            "first_s": first - began,
            "slept_s": slept,
            "overhead_ms_a_shard": 1e3 * (ended - first - slept) / shards,
            "shards_a_s": shards / (ended - first),
            "driver_cpu_ms_a_shard": 1e3 * (time.process_time() - cpu) / shards,
            "before_mb": memory.before / _MB,
            "peak_mb": memory.peak() / _MB,
            "window_mb": window_bytes(shards, nodes * cpus_a_node, rows) / _MB,
            "children_peak_mb": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / _MB,
        }


def _start(stack: ExitStack, workers: int, raylets: int) -> None:
    options = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    if raylets == 1:
        ray.init("local", num_cpus=workers, **options)
    else:
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": workers, "include_dashboard": False})
        stack.callback(cluster.shutdown)
        for _ in range(raylets - 1):
            cluster.add_node(num_cpus=workers)
        ray.init(cluster.address, log_to_driver=False, logging_level="ERROR")
    stack.callback(ray.shutdown)


def _rows(count: int) -> pa.Table:
    """Planned rows such as those of `infra.scale.synthetic`."""
    from infra.scale.synthetic import planned

    return planned(count)
