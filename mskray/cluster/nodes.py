"""What the nodes of the cluster are, as this driver sees them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ray


@dataclass(frozen=True)
class Node:
    """A node that is alive.

    Args:
        id: 56 hex digits.
        address: its IP address.
        resources: all that it has ("CPU", "GPU", …), used or not.
        labels: what is said of it, such as its kind.
    """

    id: str
    address: str
    resources: Mapping[str, float]
    labels: Mapping[str, str]


def alive() -> list[Node]:
    """The cluster's nodes that are alive; a session must run."""
    return [_node(each) for each in ray.nodes() if each["Alive"]]


def total(resource: str) -> float:
    """How much of a resource ("CPU", "GPU") the whole cluster has."""
    return float(ray.cluster_resources().get(resource, 0.0))


def _node(told: Mapping[str, Any]) -> Node:
    return Node(told["NodeID"], told["NodeManagerAddress"], told["Resources"], told.get("Labels") or {})
