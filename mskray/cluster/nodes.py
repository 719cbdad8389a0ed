"""What the nodes of the cluster are, as this driver sees them."""

import socket
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import ray


@dataclass(frozen=True)
class Node:
    """A node that is alive.

    Args:
        id: 56 hex digits.
        address: its IP address.
        port: where its own process (the raylet) listens.
        resources: all that it has ("CPU", "GPU", …), used or not.
        labels: what is said of it, such as its kind.
    """

    id: str
    address: str
    port: int
    resources: Mapping[str, float]
    labels: Mapping[str, str]


def alive() -> list[Node]:
    """The cluster's nodes that are alive; a session must run."""
    return [_node(each) for each in ray.nodes() if each["Alive"]]


def answering() -> list[Node]:
    """Those of `alive` that answer: Ray needs some 15 s to know that a node is gone."""
    nodes = alive()
    with ThreadPoolExecutor(32) as pool:
        return [node for node, there in zip(nodes, pool.map(_answers, nodes), strict=True) if there]


def total(resource: str) -> float:
    """How much of a resource ("CPU", "GPU") the whole cluster has."""
    return float(ray.cluster_resources().get(resource, 0.0))


def _answers(node: Node) -> bool:
    try:
        with socket.create_connection((node.address, node.port), timeout=2):
            return True
    except OSError:
        return False


def _node(told: Mapping[str, Any]) -> Node:
    return Node(
        id=told["NodeID"],
        address=told["NodeManagerAddress"],
        port=told["NodeManagerPort"],
        resources=told["Resources"],
        labels=told.get("Labels") or {},
    )
