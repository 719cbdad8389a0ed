"""Clusters to which an autoscaler adds nodes: asking for what is missing, and waiting for it.

What does not fit now may fit in some minutes. The autoscaler (version 2: `ray up`, KubeRay) is asked; what its kinds of
nodes could never hold it says itself, within seconds, and that is refused.

A request for nodes stands until it is withdrawn, also where whoever made it is gone: it is withdrawn as soon as the
nodes are there. From then on the autoscaler's idle timeout keeps them until work is placed, and work that waits for a
node that went in between is itself a request.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ray
from ray.autoscaler.sdk import request_resources
from ray.autoscaler.v2.utils import is_autoscaler_v2
from ray.core.generated import autoscaler_pb2

from mskray.cluster.nodes import alive
from mskray.errors import Fault, UserError
from mskray.progress import Progress, Report

MOST_WAIT_S = 900.0
_LOOK_S, _ASK_S, _ANSWER_S = 2.0, 20.0, 10.0
_KIND = "ray.io/node-group"
"""The label with which whatever starts nodes says which kind they are of."""
_raylet: Any = ray._raylet  # compiled, and its stubs lack names
_messages: Any = autoscaler_pb2  # made by protoc, without types

Nodes = Sequence[Mapping[str, float]]


def grows() -> bool:
    """Whether nodes may be added to this session's cluster: its nodes are of kinds, and version 2 watches over them.

    Of a cluster without kinds, such as one of one's own, nothing is asked.
    """
    if not any(_KIND in node.labels for node in alive()):
        return False
    with suppress(Exception):  # of several undocumented types, where the head is busy
        return bool(is_autoscaler_v2(fetch_from_server=True))
    return False


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
        began, asked, version = time.monotonic(), -math.inf, _version(_state())
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
                if self._is_impossible(_state(), version):
                    raise UserError(f"{refusal}; the autoscaler has no nodes for it either, with all that it may add")
                self.report(Progress(f"waiting for nodes: {self._missing(now)}", note=f"{passed:.0f} s"))
                time.sleep(_LOOK_S)
        finally:
            with suppress(Exception):  # the cluster is away: so is the request
                request_resources(bundles=[])
        self.report(Progress(f"{len(now)} nodes are there"))

    def _is_impossible(self, state: Any, version: int) -> bool:
        """Whether the autoscaler says of this very request, after `version` of its state, that it cannot be met."""
        if state is None or _version(state) <= version:
            return False
        wanted = _counted(self.bundles)
        for constraint in state.infeasible_cluster_resource_constraints:
            told: Counter[frozenset[tuple[str, float]]] = Counter()
            for each in constraint.resource_requests:
                told[_shape(each.request.resources_bundle)] += each.count
            if told == wanted:
                return True
        return False

    def _missing(self, now: Nodes) -> str:
        wanted: Counter[str] = Counter()  # of fractions
        for each in self.bundles:
            wanted.update(each)
        there = {name: sum(node.get(name, 0.0) for node in now) for name in wanted}
        told = (f"{there[name]:g} of {amount:g} {name}" for name, amount in wanted.items())
        return f"{self.what} has {', '.join(told)} on {len(now)}"


def _shape(resources: Mapping[str, float]) -> frozenset[tuple[str, float]]:
    return frozenset((name, round(amount, 4)) for name, amount in resources.items())


def _counted(bundles: Sequence[Mapping[str, float]]) -> Counter[frozenset[tuple[str, float]]]:
    return Counter(_shape(each) for each in bundles)


def _state() -> Any:
    """What the autoscaler says of the cluster; None where it says nothing."""
    with suppress(Exception):  # of several undocumented types, where the autoscaler is just starting
        client = _raylet.GcsClient(ray.get_runtime_context().gcs_address)
        reply = _messages.GetClusterStatusReply.FromString(client.get_cluster_status(timeout_s=_ANSWER_S))
        return reply.autoscaling_state
    return None


def _version(state: Any) -> int:
    return 0 if state is None else int(state.last_seen_cluster_resource_state_version)


def _failures() -> str:
    """Why nodes could not be started, as far as the autoscaler says."""
    reasons = {str(each.reason) for each in getattr(_state(), "failed_instance_requests", [])}
    return f" ({'; '.join(sorted(reasons))})" if reasons else ""
