"""Start the served ensemble, wait until it answers, stop it.

mskray serve s3://models/knees --port 8000
"""

import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray import serve
from ray.serve.config import HTTPOptions
from ray.serve.schema import ApplicationStatus

from mskray.bundles import read_description
from mskray.cluster import Need, require, session
from mskray.ensemble import describe, load
from mskray.errors import UserError
from mskray.progress import Progress, Report, silent
from mskray.serving.application import build
from mskray.serving.settings import Limits, check_exposure
from mskray.serving.tokens import Access, access
from mskray.storage import check_access, locate

APPLICATION = "mskray"
_MOST_CPUS = 4
"""More threads do not make one small batch faster; a Serve config can still reserve more."""
_GRACE_S = 30.0
"""What Serve's own time-out leaves beyond `Limits.max_seconds`, for an ingress that does not answer at all."""
_FAILED = (ApplicationStatus.DEPLOY_FAILED, ApplicationStatus.UNHEALTHY)


def serve_forever(
    ensemble: str,
    host: str = "127.0.0.1",
    port: int = 8000,
    limits: Limits = Limits(),
    *,
    tokens: str | None = None,
    audit: str | None = None,
    report: Report = silent,
) -> None:
    """Serve until Ctrl-C or SIGTERM, then shut Serve down, and Ray too where it was started for this.

    Raises:
        UserError: see `start`.
    """
    # What cannot be served is refused before Ray starts.
    _check_places(host, tokens, audit)
    _free_port(host, port)
    _check_kind(ensemble)
    with session(), _termination_interrupts():
        try:
            url = start(ensemble, host, port, limits=limits, tokens=tokens, audit=audit, report=report)
            try:
                report(Progress(f"serving at {url}, Ctrl-C stops"))
                threading.Event().wait()
            finally:
                stop()
        except KeyboardInterrupt:
            report(Progress("stopped"))


def start(
    ensemble: str,
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    limits: Limits = Limits(),
    tokens: str | None = None,
    audit: str | None = None,
    timeout_s: float = 180.0,
    report: Report = silent,
) -> str:
    """Serve an ensemble or bundle on the running Ray session and return its URL once it answers.

    Everything that can be known to fail is tried here before Serve starts: the port, the token, loading every member.

    Args:
        port: 0 takes a free one.
        tokens: URI of the file of tokens; None where MSKRAY_SERVE_TOKEN is all.
        audit: URI of the audit's folder; None for no audit.
        timeout_s: how long the replicas may take to load and warm up, in seconds.
    Raises:
        UserError: the port is in use, others could reach it without a token, the ensemble cannot be loaded, the
            cluster is too small or runs Serve already, or it is not ready in time. Nothing is left running then.
    """
    known, audit = _check_places(host, tokens, audit)
    port = _free_port(host, port)
    uri = str(locate(ensemble))
    report(Progress("checking the model"))
    _check_kind(uri)
    load(uri)
    cpus = _cpus()
    require(Need("serving", 1, cpus), reading_cpus=0.0)
    status = serve.status()
    if status.proxies or status.applications:
        raise UserError(
            "Ray Serve runs on this cluster already: end it with `serve shutdown`, or add this ensemble to its "
            "config (serve/config.yaml) and `serve deploy` it"
        )
    report(Progress("starting Ray Serve"))
    deadline = time.monotonic() + timeout_s
    try:
        options = HTTPOptions(host=host, port=port, request_timeout_s=limits.max_seconds + _GRACE_S)
        serve.start(proxy_location="HeadOnly", http_options=options)
        target = serve.RunTarget(
            build(uri, limits, known, audit, cpus),
            name=APPLICATION,
            route_prefix="/",
        )
        serve.run_many([target], wait_for_applications_running=False)
        report(Progress("loading the members"))
        _wait_until_running(deadline, timeout_s)
        _wait_until_answering(_url(_own_address(host), port), deadline, timeout_s)
    except BaseException:
        stop()
        raise
    return _url(host, port)


def stop() -> None:
    """Shut Serve down; without one it does nothing."""
    serve.shutdown()


def _check_places(host: str, tokens: str | None, audit: str | None) -> tuple[Access, str | None]:
    """Return who may ask, and the audit's whole URI.

    Raises:
        UserError: others could ask without a token, a place that cannot be read or written.
    """
    known = access(tokens)
    check_exposure(host, known)
    if audit is None:
        return known, None
    check_access(locate(audit), write=True)
    return known, str(locate(audit))


def _check_kind(ensemble: str) -> None:
    """Raise UserError for what is neither ensemble nor bundle, and for one that reads other things than pictures."""
    kind = read_description(describe(ensemble).members[0].uri).kind  # members are all of one kind
    if kind != "radiograph":
        raise UserError(f"{locate(ensemble)} reads {kind}s; pictures are served: use mskray predict with a cohort")


def _free_port(host: str, port: int) -> int:
    """Return the port if nobody listens on it. Ray's own socket shares a port with a server of the same user."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UserError(
                f"cannot listen on {host} port {port}: {error.strerror or error}: choose another --port or --host"
            ) from None
        return int(probe.getsockname()[1])


def _cpus() -> float:
    """Take what is free on the cluster less one CPU, which HTTP and decoding use, within 1 to `_MOST_CPUS`."""
    largest = max((node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"]), default=0.0)
    free = min(largest, ray.available_resources().get("CPU", 0.0))
    return float(min(_MOST_CPUS, max(1, int(free) - 1)))


def _wait_until_running(deadline: float, timeout_s: float) -> None:
    while True:
        overview = serve.status().applications.get(APPLICATION)
        if overview is not None and overview.status == ApplicationStatus.RUNNING:
            return
        if overview is not None and overview.status in _FAILED:
            raise UserError(f"the ensemble cannot be served: {_last_line(overview)}")
        if time.monotonic() > deadline:
            free, total = (each.get("CPU", 0.0) for each in (ray.available_resources(), ray.cluster_resources()))
            raise UserError(
                f"the ensemble was not ready within {timeout_s:g} s; {free:g} of the cluster's {total:g} CPUs are "
                "free: end what holds the others, or see the Serve logs"
            )
        time.sleep(0.1)


def _wait_until_answering(url: str, deadline: float, timeout_s: float) -> None:
    while True:
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=5):
                return
        except (urllib.error.URLError, OSError) as error:
            if time.monotonic() > deadline:
                raise UserError(
                    f"{url}/readyz does not answer from here within {timeout_s:g} s ({error}): Serve listens on the "
                    "cluster's head node; run this command there"
                ) from None
        time.sleep(0.1)


def _last_line(overview: Any) -> str:
    """The end of the trace in a status message is what went wrong."""
    messages = [overview.message, *(deployment.message for deployment in overview.deployments.values())]
    lines = [line.strip() for message in messages for line in message.splitlines() if line.strip()]
    causes = [line for line in lines if "Error" in line]
    return (causes or lines or ["no reason given; see the Serve logs"])[-1]


def _own_address(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextmanager
def _termination_interrupts() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does: a service manager stops the server as a person would."""

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
