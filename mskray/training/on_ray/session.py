"""A worker of Ray Train as the loop sees it.

Of Ray Train's own checkpoints nothing is used: `mskray.training.shelf` says why.
"""

import os
from collections.abc import Callable

import ray.train
import torch
from ray.train import collective
from ray.train.torch import get_device

from mskray.storage import Location
from mskray.training.news import Say
from mskray.training.on_ray.meters import ClusterMeters
from mskray.training.on_ray.readers import RayReaders
from mskray.training.session import Session


class RaySession(Session):
    """One worker, made in its process.

    Args:
        cpus: that were reserved for it, where other trainings share its node; None where it is this training's alone.
    """

    def __init__(
        self,
        run: Location,
        say: Say,
        stored: Callable[[], None] = lambda: None,
        cpus: float | None = None,
    ) -> None:
        context = ray.train.get_context()
        rank, world = context.get_world_rank(), context.get_world_size()
        super().__init__(run, say, RayReaders(), get_device(), rank, world, stored)
        self.meters = ClusterMeters(run.name, rank)
        torch.set_num_threads(_threads(cpus, context.get_local_world_size()))

    def _first(self, value: str) -> str:
        return str(collective.broadcast_from_rank_zero(value)) if self.world > 1 else value

    def _meet(self) -> None:
        if self.world > 1:
            collective.barrier()


def session_of_trial(run: Location, say: Say, cpus: float | None, gpu: bool) -> Session:
    """One worker alone, in a process of a search that has booked its CPUs and GPU."""
    torch.set_num_threads(_threads(cpus, 1))
    session = Session(run, say, RayReaders(), torch.device("cuda:0" if gpu else "cpu"))
    session.meters = ClusterMeters(run.name, 0)
    return session


def _threads(cpus: float | None, workers: int) -> int:
    """Return how many threads a worker gets; `workers` of its training are on the node.

    Alone they share all cores: the loader's CPU is idle most of the time. Beside other trainings each keeps to what was
    reserved for it: threads that spin, waiting for others on the same cores, make an epoch take several times as long.
    """
    cores = len(os.sched_getaffinity(0))
    if cpus is None:
        return max(1, cores // workers)
    here = ray.get_runtime_context().get_node_id()
    total = next((node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["NodeID"] == here), 0.0)
    return max(1, min(cores, int(cores * cpus / total))) if total else 1
