"""Joining a Ray cluster, or starting one here."""

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray.data import DataContext
from ray.util.state import list_nodes

from mskray.cluster.asking import ask
from mskray.cluster.doors import check_dashboard_door, check_own
from mskray.errors import UserError

_DASHBOARD = "RAY_API_SERVER_ADDRESS"
_LOGGERS = ("ray", "ray.data", "ray.train", "ray.tune", "ray.serve")


@contextmanager
def session(quiet: bool = True, dashboard: bool = False) -> Iterator[None]:
    """Use the running Ray session, the cluster named by RAY_ADDRESS, or a local one that ends with the block.

    Args:
        dashboard: a local one has a dashboard, on the loopback interface. Ray Train frees the workers of a trial that
            was stopped by asking it; without one they would be waited for without end.
    Raises:
        UserError: RAY_ADDRESS names no cluster that answers and that may be joined from here (`mskray.cluster.asking`),
            anyone could run code there (`mskray.cluster.doors`), or Ray does not start here.
    """
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS") or "local"
    local = address == "local"
    if local:
        check_own()
    else:
        ask(address)
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
        context = ray.init(
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
        if not local and context.dashboard_url:
            check_dashboard_door(context.dashboard_url)
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


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
