"""Whether every node of the cluster sees a folder: one of a machine of its own would lose what other nodes write."""

import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mskray.cohorts import Cohort
from mskray.cohorts.schema import MANIFEST
from mskray.errors import UserError
from mskray.storage import Location, locate

_WAIT_S = 60.0


def check_everywhere(out: Location, cohort: Cohort) -> None:
    """Raise UserError where a node does not see what is written to `out`, or a cohort; buckets are seen by all.

    A node that does not answer within a minute is passed over: it may be full, or on its way out.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    if len(nodes) < 2:
        return
    for place in (cohort.location, *(locate(each.uri) for each in cohort.view.added)):
        if place.uri.startswith("file:"):
            _check(place, place.join(MANIFEST), nodes)
    if out.uri.startswith("file:"):
        probe = out.join(f".seen-{uuid.uuid4().hex}")
        probe.write_bytes(b"")
        try:
            _check(out, probe, nodes)
        finally:
            probe.delete()


def _check(folder: Location, file: Location, nodes: Sequence[Mapping[str, Any]]) -> None:
    asked = {}
    for node in nodes:
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        asked[_sees.options(scheduling_strategy=there).remote(file.uri)] = node["NodeManagerAddress"]
    ready, _ = ray.wait(list(asked), num_returns=len(asked), timeout=_WAIT_S)
    blind = []
    for answer in ready:
        with suppress(RayError):  # the node is on its way out
            if not ray.get(answer, timeout=_WAIT_S):
                blind.append(asked[answer])
    if blind:
        raise UserError(
            f"{folder} is a folder of this machine that node {', '.join(sorted(blind))} does not see: give a bucket "
            "(s3://…), or a folder that all nodes share"
        )


@ray.remote(num_cpus=0, max_retries=0)
def _sees(uri: str) -> bool:
    return locate(uri).is_file()
