"""Whether every node of the cluster sees a folder: one of a machine of its own would lose what other nodes write."""

import uuid
from contextlib import suppress

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mskray.errors import UserError
from mskray.storage import Location, locate

_WAIT_S = 60.0


def check_everywhere(folder: Location) -> None:
    """Raise UserError where a node does not see what is written to a folder on disk; buckets are seen by all.

    A node that does not answer within a minute is passed over: it may be full, or on its way out.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    if len(nodes) < 2 or not folder.uri.startswith("file:"):
        return
    probe = folder.join(f".seen-{uuid.uuid4().hex}")
    probe.write_bytes(b"")
    try:
        asked = {}
        for node in nodes:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            asked[_sees.options(scheduling_strategy=there).remote(probe.uri)] = node["NodeManagerAddress"]
        ready, _ = ray.wait(list(asked), num_returns=len(asked), timeout=_WAIT_S)
        blind = []
        for answer in ready:
            with suppress(RayError):  # the node is on its way out
                if not ray.get(answer, timeout=_WAIT_S):
                    blind.append(asked[answer])
    finally:
        probe.delete()
    if blind:
        raise UserError(
            f"{folder} is a folder of this machine that node {', '.join(sorted(blind))} does not see: give a bucket "
            "(s3://…), or a folder that all nodes share"
        )


@ray.remote(num_cpus=0, max_retries=0)
def _sees(uri: str) -> bool:
    return locate(uri).is_file()
