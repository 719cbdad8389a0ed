"""Joining a Ray cluster, or starting one here, and refusing what could never be scheduled.

A Ray job that asks for more than the cluster has waits for ever. `require` compares what a step needs with
what there is and raises one line with the numbers instead.
"""

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import ray
from ray.data import DataContext

from mskray.errors import UserError

_LOGGERS = ("ray", "ray.data", "ray.train", "ray.tune", "ray.serve")


@dataclass(frozen=True)
class Need:
    """What a step occupies while it runs, beside the shared reading of data."""

    what: str
    workers: int
    cpus_per_worker: float
    gpus_per_worker: float = 0.0


@contextmanager
def session(quiet: bool = True) -> Iterator[None]:
    """Use the running Ray session, the cluster named by RAY_ADDRESS, or a local one that ends with the block."""
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(
            address=os.environ.get("RAY_ADDRESS") or "local",
            include_dashboard=None if os.environ.get("RAY_ADDRESS") else False,
            log_to_driver=not quiet,
            logging_level=logging.ERROR if quiet else logging.INFO,
            configure_logging=True,
        )
    except (ConnectionError, RuntimeError) as error:
        raise UserError(f"no Ray cluster answers at {os.environ.get('RAY_ADDRESS', 'local')}: {error}") from None
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
    cpus, gpus = total("CPU"), total("GPU")
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
    largest = max((node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"]), default=0.0)
    if need.cpus_per_worker > largest:
        raise UserError(
            f"{need.what} needs {need.cpus_per_worker:g} CPU in one place, the largest node has {largest:g}: "
            "ask for fewer CPUs a worker"
        )
