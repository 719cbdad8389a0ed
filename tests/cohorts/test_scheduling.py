"""Shards to tasks: all of them once, few in flight, failures told and nothing started after; what is counted."""

import time
from collections import Counter

import pyarrow as pa
import pytest
import ray
import requests

from mskray.cohorts.meters import count_written
from mskray.cohorts.plan import ShardPlan
from mskray.cohorts.scheduling import run_shards

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_cluster", "by_value")]


def shards(count):
    return [ShardPlan("train", number, f"{number:016x}", 2 * number, 2) for number in range(count)]


def rows(shard):
    return pa.table({"a": [shard.start, shard.start + 1]})


def test_every_shard_is_written_once_with_its_rows():
    found = list(run_shards(shards(60), rows, lambda shard, given: (shard.number, [row["a"] for row in given])))
    assert sorted(shard.number for shard, _ in found) == list(range(60))
    for shard, (number, given) in found:
        assert number == shard.number
        assert given == [shard.start, shard.start + 1]


def test_rows_are_asked_for_when_their_task_is_about_to_start():
    asked = []

    def slow(shard):
        asked.append(shard.number)
        return rows(shard)

    ended = run_shards(shards(400), slow, lambda shard, given: 0, slots=2)
    next(ended)
    # A window of two tasks and eight to spare, each of eight shards.
    assert len(asked) <= 8 * (10 + 10)
    assert len(list(ended)) == 399
    assert asked == list(range(400))


def test_what_a_task_raises_ends_it():
    def fail(shard, given):
        if shard.number == 5:
            raise ValueError("no such thing")
        return shard.number

    with pytest.raises(ValueError, match="no such thing"):
        list(run_shards(shards(200), rows, fail, slots=1))


def test_nothing_to_do():
    assert list(run_shards([], rows, lambda shard, given: 0)) == []


def test_meters_reach_the_exporter_of_their_node():
    @ray.remote
    def write():
        count_written("a-test-source", 3, 4096)
        count_written("a-test-source", 0, 0)
        time.sleep(1)

    ray.get([write.remote() for _ in range(2)])
    (node,) = ray.nodes()
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    wanted = {"ray_mskray_ingest_images_total": 6.0, "ray_mskray_ingest_bytes_total": 8192.0}
    found: Counter[str] = Counter()
    for _ in range(60):
        found = Counter()
        for line in requests.get(address, timeout=10).text.splitlines():
            name, _, rest = line.partition("{")
            if name in wanted and 'source="a-test-source"' in rest:
                found[name] += float(rest.rpartition(" ")[2])
        if found == wanted:
            break
        time.sleep(0.5)
    assert found == wanted
