"""Whether every node can do its part: one small task on each looks at what the work will read and write.

A bucket for which the driver alone has credentials fails when the first worker elsewhere asks for it; a folder of one
machine loses what other nodes write; another version of the code is wrong without a word. Here each is refused before
any work, with the node's address and what is missing. On one node nothing is asked.
"""

import os
import platform
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import mskray
from mskray.cluster.nodes import alive
from mskray.errors import UserError
from mskray.storage import Location

_WAIT_S, _AGAIN_S = 60.0, 1.0
_MOST_TOLD = 4


@dataclass(frozen=True)
class Seen:
    """What a node found.

    Args:
        mskray: its version there; empty where it is not installed.
        troubles: URI → why it cannot be used, of folders empty where they are not seen.
    """

    python: str
    mskray: str
    troubles: Mapping[str, str] = field(default_factory=dict)


def check_everywhere(reads: Iterable[Location] = (), writes: Iterable[Location] = ()) -> None:
    """Raise UserError where a node lacks this version of mskray, or cannot reach what is read or written.

    A node that does not answer within a minute is passed over: it may be full, or on its way out.

    Args:
        reads: places that are there.
        writes: places that need not be there yet; nothing is left in them.
    """
    nodes = {node.id: node.address for node in alive()}
    if len(nodes) < 2:
        return
    with ExitStack() as stack:
        asked = [(place.uri, _witness(place), False) for place in _distinct(reads)]
        for place in _distinct(writes):
            probe = ""
            if place.uri.startswith("file:"):
                file = place.join(f".seen-{uuid.uuid4().hex}")
                file.write_bytes(b"")
                stack.callback(file.delete)
                probe = file.uri
            asked.append((place.uri, probe, True))
        told = _ask(nodes, asked)
    if reasons := refusals(told):
        raise UserError("; ".join(reasons))


def refusals(told: Mapping[str, Seen]) -> list[str]:
    """What is wrong on which node, and what to do about it; empty where nothing is.

    Args:
        told: by the node's address.
    """
    reasons = []
    python = ".".join(platform.python_version_tuple()[:2])
    for what, wanted, has in (
        ("mskray", mskray.__version__, {node: seen.mskray for node, seen in told.items()}),
        ("Python", python, {node: ".".join(seen.python.split(".")[:2]) for node, seen in told.items()}),
    ):
        others = {node: f"{version or 'none'}" for node, version in has.items() if version != wanted}
        if others:
            listed = _listed(f"{node} ({version})" for node, version in others.items())
            reasons.append(
                f"the driver has {what} {wanted}, node {listed} has not: install the same on all nodes"
                + (", or use `mskray submit --send-code`" if what == "mskray" else "")
            )
    for uri in dict.fromkeys(uri for seen in told.values() for uri in seen.troubles):
        why = {node: seen.troubles[uri] for node, seen in told.items() if uri in seen.troubles}
        reason = next(iter(why.values()))
        if uri.startswith("file:") and not reason:
            reasons.append(
                f"{uri.removeprefix('file://')} is a folder of this machine that node {_listed(why)} does not see: "
                "give a bucket (s3://…), or a folder that all nodes share"
            )
        else:
            reasons.append(f"node {_listed(why)} cannot use {uri}, which the driver can: {reason}")
    return reasons


def _ask(nodes: Mapping[str, str], asked: list[tuple[str, str, bool]]) -> dict[str, Seen]:
    """What each node that answers has seen, by its address.

    A node that has just come is known to the driver before it can be given a task: it is asked again while it lives.
    """
    look = ray.remote(num_cpus=0, max_retries=0)(_look())
    told, left, until = {}, dict(nodes), time.monotonic() + _WAIT_S
    while left and time.monotonic() < until:
        waiting = {}
        for node in left:
            there = NodeAffinitySchedulingStrategy(node, soft=False)
            waiting[look.options(scheduling_strategy=there).remote(asked)] = node
        ready, silent = ray.wait(list(waiting), num_returns=len(waiting), timeout=max(0.0, until - time.monotonic()))
        for answer in ready:
            address = nodes[waiting[answer]]
            try:
                told[address] = Seen(**ray.get(answer, timeout=_WAIT_S))
            except RayTaskError as error:
                raise UserError(f"node {address} cannot run mskray: {error.cause}") from None
            except RayError:  # it has just come, or is on its way out
                continue
            del left[waiting[answer]]
        for answer in silent:
            ray.cancel(answer, force=True)
        alive_now = {node.id for node in alive()}
        left = {node: address for node, address in left.items() if node in alive_now}
        if left:
            time.sleep(_AGAIN_S)
    return told


def _look() -> Callable[[list[tuple[str, str, bool]]], dict[str, Any]]:
    """What a node does. Made here, it travels by value: the node may have another mskray, or none."""

    def look(asked: list[tuple[str, str, bool]]) -> dict[str, Any]:
        import platform

        told: dict[str, Any] = {"python": platform.python_version(), "mskray": "", "troubles": {}}
        try:
            import mskray
            from mskray.errors import UserError
            from mskray.storage import check_access, locate
        except ImportError:
            return told
        told["mskray"] = mskray.__version__
        for uri, probe, write in asked:
            place = locate(uri)
            if probe and not locate(probe).exists():
                told["troubles"][uri] = ""
                continue
            try:
                check_access(place, write=write)
            except UserError as error:
                told["troubles"][uri] = str(error)
        return told

    return look


def _witness(place: Location) -> str:
    """URI of something in a folder of this machine: who sees it sees the folder. Empty for a bucket."""
    if not place.uri.startswith("file:") or not os.path.isdir(place.path):
        return place.uri if place.uri.startswith("file:") else ""
    with os.scandir(place.path) as entries:
        first = next(entries, None)
    return place.join(first.name).uri if first else place.uri


def _distinct(places: Iterable[Location]) -> list[Location]:
    return list(dict.fromkeys(places))


def _listed(names: Iterable[str]) -> str:
    every = sorted(names)
    more = f" and {len(every) - _MOST_TOLD} more" if len(every) > _MOST_TOLD else ""
    return ", ".join(every[:_MOST_TOLD]) + more
