"""Joining a Ray cluster, or starting one here, and refusing what could never be scheduled.

A Ray job that asks for more than the cluster has waits for ever. `require` compares what a step needs with
what there is and raises one line with the numbers instead.
"""

import logging
import math
import os
import signal
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray._private.state import available_resources_per_node
from ray.data import DataContext
from ray.util.state import list_nodes

from mskray.errors import UserError

_DASHBOARD = "RAY_API_SERVER_ADDRESS"
_LOGGERS = ("ray", "ray.data", "ray.train", "ray.tune", "ray.serve")


@dataclass(frozen=True)
class Need:
    """What a step occupies while it runs, beside the shared reading of data."""

    what: str
    workers: int
    cpus_per_worker: float
    gpus_per_worker: float = 0.0


@contextmanager
def session(quiet: bool = True, dashboard: bool = False) -> Iterator[None]:
    """Use the running Ray session, the cluster named by RAY_ADDRESS, or a local one that ends with the block.

    Args:
        dashboard: a local one has a dashboard, on the loopback interface. Ray Train frees the workers of a trial that
            was stopped by asking it; without one they would be waited for without end.
    Raises:
        UserError: RAY_ADDRESS names no cluster that answers, or Ray does not start here.
    """
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS") or "local"
    _check_address(address)
    local = address == "local"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Ray gives workers the niceness 15: anything else on the machine, Ray's own processes first, would halve training.
    os.environ.setdefault("RAY_worker_niceness", "0")
    port = _free_port() if local and dashboard else None
    if local:
        if port:
            # Left to itself, whoever asks the dashboard takes the address of the last cluster that a command started
            # on this machine, which may long be gone. Ray's processes inherit this one.
            os.environ[_DASHBOARD] = f"http://127.0.0.1:{port}"
        # Nobody takes this machine away with a warning; the watcher would start in the middle of the first step.
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(
            address=address,
            include_dashboard=dashboard if local else None,
            dashboard_port=port,
            log_to_driver=not quiet,
            logging_level=logging.ERROR if quiet else logging.INFO,
            configure_logging=True,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"no Ray cluster answers at {address}: {reason}") from None
    except Exception as error:  # Ray raises no narrower type where its processes take too long to start
        if "timed out during startup" not in str(error):
            raise
        raise UserError("Ray did not start in time: the machine is too busy; try again, nothing is lost") from None
    # Ray's own handler prints a stack trace for SIGTERM; what the program had installed ends it in order.
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)
    if quiet:
        for name in _LOGGERS:
            logging.getLogger(name).setLevel(logging.ERROR)
    silence_data()
    try:
        yield
    finally:
        ray.shutdown()
        if port:
            os.environ.pop(_DASHBOARD, None)


def check_dashboard() -> None:
    """Raise UserError where the cluster's dashboard does not answer."""
    try:
        list_nodes(address=ray.get_runtime_context().gcs_address, limit=1, timeout=60)
    except Exception as error:  # Ray raises several types, none of them documented
        raise UserError(
            f"the cluster's dashboard does not answer ({type(error).__name__}), and what stops trials needs it: start "
            "the cluster with --include-dashboard=true, or set scheduler.name=none"
        ) from None


def silence_data() -> None:
    """Switch Ray Data's own progress bars and execution logs off: each command prints its own progress."""
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False


def total(resource: str) -> float:
    """How much of a resource ("CPU", "GPU") the whole cluster has."""
    return float(ray.cluster_resources().get(resource, 0.0))


def require(need: Need, reading_cpus: float = 0.5) -> None:
    """Raise UserError when the cluster cannot run `need` and still read data beside it.

    Args:
        reading_cpus: CPUs that must stay free for the tasks that read and decode.
    """
    check(need, [node["Resources"] for node in ray.nodes() if node["Alive"]], reading_cpus)


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


def room(need: Need, reading_cpus: float = 0.5, answering: bool = False) -> int:
    """How many workers such as those of `need` the cluster's nodes have room for, with reading beside them.

    Args:
        answering: count only nodes that answer. Ray needs some 15 s to know that one is gone.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    if answering:
        with ThreadPoolExecutor(32) as pool:
            nodes = [node for node, there in zip(nodes, pool.map(_answers, nodes), strict=True) if there]
    return _room(need, [node["Resources"] for node in nodes], reading_cpus)


def _answers(node: Mapping[str, Any]) -> bool:
    """Whether somebody listens where the node's own process should."""
    try:
        with socket.create_connection((node["NodeManagerAddress"], node["NodeManagerPort"]), timeout=2):
            return True
    except OSError:
        return False


def free(need: Need) -> int:
    """How many workers such as those of `need` could start now, beside all that runs; a moment's figure."""
    now = available_resources_per_node()
    return sum(_slots(need, now.get(node["NodeID"], {})) for node in ray.nodes() if node["Alive"])


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


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _check_address(address: str) -> None:
    """RAY_ADDRESS may hold the dashboard's URL, which `ray job submit` takes and a driver cannot join."""
    if address.startswith(("http://", "https://")):
        raise UserError(
            f"RAY_ADDRESS={address} is the address for `ray job submit`: submit a script of jobs/ with it, "
            "or set RAY_ADDRESS to the cluster's own address, HOST:6379"
        )
