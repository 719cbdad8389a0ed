"""Clusters to which an autoscaler adds nodes: asking for what is missing, and waiting for it.

What does not fit now may fit in some minutes. The autoscaler (version 2: `ray up`, KubeRay) leaves in the cluster's
own store which kinds of nodes it may add; what these could never hold is refused at once.

A request for nodes stands until it is withdrawn, also where whoever made it is gone: it is withdrawn as soon as the
nodes are there. From then on the autoscaler's idle timeout keeps them until work is placed, and work that waits for a
node that went in between is itself a request.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray._private.state import state
from ray.autoscaler.sdk import request_resources
from ray.autoscaler.v2.sdk import get_cluster_status

from mskray.cluster.nodes import alive
from mskray.errors import Fault, UserError
from mskray.progress import Progress, Report

MOST_WAIT_S = 900.0
_LOOK_S, _ASK_S = 2.0, 20.0
_MOST_NODES = 4096
"""Of one kind, where the autoscaler has no limit: more would take long to count through."""

Nodes = Sequence[Mapping[str, float]]


@dataclass(frozen=True)
class Kind:
    """A kind of nodes that the autoscaler starts.

    Args:
        most: of them at a time, those that run included.
    """

    name: str
    resources: Mapping[str, float]
    most: int

    def __str__(self) -> str:
        what = ", ".join(f"{self.resources[name]:g} {name}" for name in ("CPU", "GPU") if self.resources.get(name))
        return f"{self.most} × {self.name} ({what or 'neither CPU nor GPU'})"


def kinds() -> list[Kind]:
    """The kinds of nodes that may be added to this session's cluster; none where it does not grow."""
    config = state.get_cluster_config()
    if config is None:
        return []
    found = []
    for group in config.node_group_configs:
        most = _MOST_NODES if group.max_count < 0 else min(group.max_count, _MOST_NODES)
        if most:
            found.append(Kind(group.name, dict(group.resources), most))
    return found


def grows() -> bool:
    """Whether nodes may be added to this session's cluster. Takes one look into the cluster's store."""
    return bool(kinds())


@dataclass(frozen=True)
class Growth:
    """What a step asks of a cluster that grows.

    Args:
        what: the step, for messages.
        bundles: resources that must each have a place on one node.
    """

    what: str
    bundles: Sequence[Mapping[str, float]]
    report: Report

    def until(self, fits: Callable[[Nodes], bool], refusal: UserError, most_s: float = MOST_WAIT_S) -> None:
        """Ask for nodes and wait until `fits` holds for the resources of those that are alive.

        Args:
            refusal: why it does not fit now.
        Raises:
            UserError: the autoscaler's kinds of nodes could never hold it.
            Fault: the nodes did not come in time.
        """
        offered = _left(kinds())
        to_come = [kind.resources for kind in offered for _ in range(kind.most)]
        if not fits([*(node.resources for node in alive()), *to_come]):
            most = ", ".join(map(str, offered)) or "no more nodes"
            raise UserError(f"{refusal}; the autoscaler may add {most}, and that is not enough")
        began, asked = time.monotonic(), -math.inf
        try:
            while not fits(now := [node.resources for node in alive()]):
                passed = time.monotonic() - began
                if passed > most_s:
                    raise Fault(
                        f"{self.what} waited {most_s / 60:.0f} min for nodes that the autoscaler did not bring"
                        f"{_failures()}: see `ray status` on the head node; {refusal}"
                    )
                if time.monotonic() - asked > _ASK_S:  # again and again: another driver's request replaces this one
                    request_resources(bundles=[dict(each) for each in self.bundles])
                    asked = time.monotonic()
                self.report(Progress(f"waiting for nodes: {self._missing(now)}", note=f"{passed:.0f} s"))
                time.sleep(_LOOK_S)
        finally:
            with suppress(Exception):  # the cluster is away: so is the request
                request_resources(bundles=[])
        self.report(Progress(f"{len(now)} nodes are there"))

    def _missing(self, now: Nodes) -> str:
        wanted: Counter[str] = Counter()  # of fractions
        for each in self.bundles:
            wanted.update(each)
        there = {name: sum(node.get(name, 0.0) for node in now) for name in wanted}
        told = (f"{there[name]:g} of {amount:g} {name}" for name, amount in wanted.items())
        return f"{self.what} has {', '.join(told)} on {len(now)}"


def _left(offered: Sequence[Kind]) -> list[Kind]:
    """What the autoscaler may still add: kinds with how many more of them."""
    running = Counter(_types())
    left = (replace(kind, most=kind.most - running[kind.name]) for kind in offered)
    return [kind for kind in left if kind.most > 0]


def _types() -> list[str]:
    status = _status()
    return [] if status is None else [node.ray_node_type_name for node in (*status.active_nodes, *status.idle_nodes)]


def _failures() -> str:
    """Why nodes could not be started, as far as the autoscaler says."""
    status = _status()
    reasons = {str(each.details) for each in getattr(status, "failed_launches", [])}
    return f" ({'; '.join(sorted(reasons))})" if reasons else ""


def _status() -> Any:
    """What the autoscaler says of the cluster; None where it says nothing."""
    with suppress(Exception):  # of several undocumented types, where the autoscaler is just starting
        return get_cluster_status(ray.get_runtime_context().gcs_address)
    return None
