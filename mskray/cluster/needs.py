"""Refusing what could never be scheduled.

A Ray job that asks for more than the cluster has waits for ever. `require` compares what a step needs with
what there is, or with what an autoscaler may add, and raises one line with the numbers instead.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ray._private.state import available_resources_per_node

from mskray.cluster import growing
from mskray.cluster.nodes import alive, total
from mskray.errors import UserError
from mskray.progress import Display, Report

__all__ = ["Need", "check", "free", "require", "room", "total"]


@dataclass(frozen=True)
class Need:
    """What a step occupies while it runs, beside the shared reading of data."""

    what: str
    workers: int
    cpus_per_worker: float
    gpus_per_worker: float = 0.0

    def bundles(self, reading_cpus: float) -> list[dict[str, float]]:
        """What Ray has to place: the resources of each worker, then those of reading."""
        worker = {"CPU": self.cpus_per_worker, "GPU": self.gpus_per_worker}
        each = {name: amount for name, amount in worker.items() if amount}
        reading = [{"CPU": reading_cpus}] if reading_cpus else []
        return [dict(each) for _ in range(self.workers if each else 0)] + reading


def require(need: Need, reading_cpus: float = 0.5, report: Report | None = None) -> None:
    """Raise UserError when the cluster cannot run `need` and still read data beside it.

    A cluster that grows is asked for the nodes that are missing, and waited for up to a quarter of an hour; a refusal
    at once is for what its kinds of nodes could never hold.

    Args:
        reading_cpus: CPUs that must stay free for the tasks that read and decode.
        report: told what is waited for; without one it is printed, as a silent wait would look like a hang.
    """
    try:
        check(need, _resources(), reading_cpus)
    except UserError as refusal:
        if not growing.grows():
            raise
        display = Display()
        growth = growing.Growth(need.what, need.bundles(reading_cpus), report or display)
        growth.until(lambda nodes: _fits(need, nodes, reading_cpus), refusal)
        display.end()


def check(need: Need, nodes: Sequence[Mapping[str, float]], reading_cpus: float = 0.5) -> None:
    """Raise UserError when `need` does not fit on these nodes, each its resources ("CPU", "GPU"); see `require`."""
    cpus, gpus = (sum(node.get(name, 0.0) for node in nodes) for name in ("CPU", "GPU"))
    if need.gpus_per_worker and need.workers * need.gpus_per_worker > gpus:
        raise UserError(
            f"{need.what} needs {need.workers} × {need.gpus_per_worker:g} GPU, the cluster has {gpus:g}: "
            "ask for fewer workers, do without GPU, or add nodes with one"
        )
    wanted = need.workers * need.cpus_per_worker
    reading = f" and {reading_cpus:g} to read data" if reading_cpus else ""
    if wanted + reading_cpus > cpus:
        raise UserError(
            f"{need.what} needs {need.workers} × {need.cpus_per_worker:g} CPU{reading}, the cluster has {cpus:g}: "
            "it would wait for ever; ask for fewer workers or CPUs a worker, or add nodes"
        )
    largest = max((node.get("CPU", 0.0) for node in nodes), default=0.0)
    if need.cpus_per_worker > largest:
        raise UserError(
            f"{need.what} needs {need.cpus_per_worker:g} CPU in one place, the largest node has {largest:g}: "
            "ask for fewer CPUs a worker"
        )
    room = _room(need, nodes, reading_cpus)
    if room < need.workers:
        each = f"{need.cpus_per_worker:g} CPU" + (f" and {need.gpus_per_worker:g} GPU" if need.gpus_per_worker else "")
        raise UserError(
            f"{need.what} needs {need.workers} workers with {each} on one node{reading}, the cluster's nodes have room "
            f"for {room}: it would wait for ever; ask for fewer workers or CPUs a worker, or add nodes"
        )


def room(need: Need, reading_cpus: float = 0.5) -> int:
    """How many workers such as those of `need` the cluster's nodes have room for, with reading beside them."""
    return _room(need, _resources(), reading_cpus)


def free(need: Need) -> int:
    """How many workers such as those of `need` could start now, beside all that runs; a moment's figure."""
    now = available_resources_per_node()
    return sum(_slots(need, now.get(node.id, {})) for node in alive())


def _fits(need: Need, nodes: Sequence[Mapping[str, float]], reading_cpus: float) -> bool:
    try:
        check(need, nodes, reading_cpus)
    except UserError:
        return False
    return True


def _resources() -> list[Mapping[str, float]]:
    return [node.resources for node in alive()]


def _room(need: Need, nodes: Sequence[Mapping[str, float]], reading_cpus: float) -> int:
    """How many workers fit when reading has the node where it hinders them least."""
    hosts = [node for node in nodes if node.get("CPU", 0.0) >= reading_cpus]
    lost = (_slots(need, node) - _slots(need, {**node, "CPU": node.get("CPU", 0.0) - reading_cpus}) for node in hosts)
    return sum(_slots(need, node) for node in nodes) - min(lost, default=0)


def _slots(need: Need, node: Mapping[str, float]) -> int:
    """How many workers fit on one node. Ray counts resources in ten-thousandths."""
    wanted = {"CPU": need.cpus_per_worker, "GPU": need.gpus_per_worker}
    return min(
        (math.floor(node.get(name, 0.0) / amount + 1e-4) for name, amount in wanted.items() if amount),
        default=need.workers,
    )
