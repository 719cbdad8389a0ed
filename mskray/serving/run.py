"""Start the served models, wait until they answer, stop them.

mskray serve s3://models/knees --port 8000
"""

import os
import signal
import socket
import ssl
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray import serve
from ray.serve.config import HTTPOptions
from ray.serve.schema import ApplicationStatus

from mskray.cluster import Need, require, session
from mskray.ensemble import describe
from mskray.errors import UserError
from mskray.progress import Progress, Report, silent
from mskray.serving.application import Rules, build
from mskray.serving.offered import check_kinds, check_loads, uris
from mskray.serving.rollouts import Rollouts
from mskray.serving.settings import Certificate, Limits, Offer, check_exposure, url_of
from mskray.serving.tokens import access
from mskray.storage import check_access, locate

APPLICATION = "mskray"
_MOST_CPUS = 4
"""A server is not alone on its cluster; a Serve config can still reserve more."""
_INLINE = 8 << 20
"""Bytes of a study's decoded images that travel with the call about them; more goes by the object store."""
_GRACE_S = 30.0
"""What Serve's own time-out leaves beyond `Limits.max_seconds`, for an ingress that does not answer at all."""
_FAILED = (ApplicationStatus.DEPLOY_FAILED, ApplicationStatus.UNHEALTHY)


@dataclass(frozen=True)
class Place:
    """Where a server listens, and where it keeps what it is told.

    Args:
        port: 0 takes a free one.
        tokens: URI of the file of tokens; None where MSKRAY_SERVE_TOKEN is all.
        audit: URI of the audit's folder; None for no audit.
        store: URI of a folder for what answers link to, jobs and feedback; None for none of these.
        certificate: what it shows over TLS; None for plain HTTP.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    tokens: str | None = None
    audit: str | None = None
    store: str | None = None
    certificate: Certificate | None = None

    def url(self, host: str) -> str:
        return url_of(host, self.port, self.certificate)


def serve_forever(offer: Offer, place: Place = Place(), limits: Limits = Limits(), *, report: Report = silent) -> None:
    """Serve until Ctrl-C or SIGTERM, then shut Serve down, and Ray too where it was started for this.

    Without a store, links and jobs live in a folder that ends with the server, and no feedback is taken.

    Raises:
        UserError: see `start`.
    """
    # What cannot be served is refused before Ray starts.
    offer.check()
    _rules(place, limits)
    _free_port(place)
    check_kinds(offer)
    # Where Ray starts here; on a cluster it is set where that is started (serve/config.yaml).
    os.environ.setdefault("RAY_max_direct_call_object_size", str(_INLINE))
    with tempfile.TemporaryDirectory(prefix="mskray-serve-") as own, session(), _termination_interrupts():
        try:
            url = start(offer, place, limits, scratch=own, report=report)
            try:
                report(Progress(f"serving at {url}, Ctrl-C stops"))
                threading.Event().wait()
            finally:
                stop()
        except KeyboardInterrupt:
            report(Progress("stopped"))


def start(
    offer: Offer,
    place: Place = Place(),
    limits: Limits = Limits(),
    *,
    scratch: str | None = None,
    timeout_s: float = 180.0,
    report: Report = silent,
) -> str:
    """Serve on the running Ray session and return the URL once it answers.

    Everything that can be known to fail is tried here before Serve starts: the port, the token, loading every model.

    Args:
        scratch: a folder that stands in for the store, feedback apart, where `place` has none.
        timeout_s: how long the replicas may take to load and warm up, in seconds.
    Raises:
        UserError: the port is in use, others could reach it without a token, a model cannot be loaded, the cluster is
            too small or runs Serve already, or it is not ready in time. Nothing is left running then.
    """
    offer.check()
    rules = _rules(place, limits, scratch)
    place = replace(place, port=_free_port(place))
    offer = offer.model_copy(update={name: str(locate(uri)) for name, uri in uris(offer).items()})
    report(Progress("checking the models"))
    check_kinds(offer)
    check_loads(offer)
    threads, kept = _cpus()
    cpus = reserved(offer, kept)
    require(Need("serving", 1, cpus), reading_cpus=0.0)
    status = serve.status()
    if status.proxies or status.applications:
        raise UserError(
            "Ray Serve runs on this cluster already: end it with `serve shutdown`, or add this ensemble to its "
            "config (serve/config.yaml) and `serve deploy` it"
        )
    if rules.store is not None and offer.ensemble:
        Rollouts(
            locate(rules.store), offer.ensemble
        ).clear()  # of an earlier server: this one begins with what was asked for
    if offer.ensemble and describe(offer.ensemble).outliers is None:
        report(
            Progress("note: it does not know which pictures are usual, and doubts none: mskray ensemble --calibrate")
        )
    report(Progress("starting Ray Serve"))
    deadline = time.monotonic() + timeout_s
    try:
        serve.start(proxy_location="HeadOnly", http_options=_http(place, limits))
        target = serve.RunTarget(build(offer, rules, cpus, threads), name=APPLICATION, route_prefix="/")
        serve.run_many([target], wait_for_applications_running=False)
        report(Progress("loading the members"))
        _wait_until_running(deadline, timeout_s)
        _wait_until_answering(place.url(_own_address(place.host)), deadline, timeout_s)
    except BaseException:
        stop()
        raise
    return place.url(place.host)


def stop() -> None:
    """Answer what was accepted, then shut Serve down; without one it does nothing."""
    with suppress(Exception):  # what cannot end in order is ended all the same
        if APPLICATION in serve.status().applications:
            serve.delete(APPLICATION)
    serve.shutdown()


def _http(place: Place, limits: Limits) -> HTTPOptions:
    shown = place.certificate
    return HTTPOptions(
        host=place.host,
        port=place.port,
        request_timeout_s=limits.max_seconds + _GRACE_S,
        ssl_certfile=shown.chain if shown else None,
        ssl_keyfile=shown.key if shown else None,
    )


def _rules(place: Place, limits: Limits, scratch: str | None = None) -> Rules:
    """Return how the ingress answers, with whole URIs.

    Raises:
        UserError: others could ask without a token, a place that cannot be read or written, no certificate.
    """
    known = access(place.tokens)
    check_exposure(place.host, known)
    if place.certificate is not None:
        place.certificate.check()
    for uri in filter(None, (place.audit, place.store)):
        if locate(uri).is_file():
            raise UserError(f"{uri} is a file: give a folder or prefix that can be written")
        check_access(locate(uri), write=True)
    audit, store = (None if uri is None else str(locate(uri)) for uri in (place.audit, place.store))
    feedback = None if store is None else str(locate(store).join("feedback"))
    return Rules(limits, known, audit, store or (scratch and str(locate(scratch))), feedback)


def _free_port(place: Place) -> int:
    """Return the port if nobody listens on it. Ray's own socket shares a port with a server of the same user."""
    host, port = place.host, place.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UserError(
                f"cannot listen on {host} port {port}: {error.strerror or error}: choose another --port or --host; a "
                "server of mskray there answers by another ensemble with --roll-out URL"
            ) from None
        return int(probe.getsockname()[1])


def reserved(offer: Offer, cpus: int) -> float:
    """Return what each of `studies`, `pairs` and `spines` reserves of the CPUs for all together.

    On a small cluster each books a part of a CPU, and the busy one has it.
    """
    deployments = sum(map(bool, (offer.ensemble, offer.pairs, offer.spines)))
    return cpus if deployments == 1 else max(0.1, round(cpus / deployments, 1))


def _cpus() -> tuple[int, int]:
    """Return how many CPUs the models use at most, and how many they reserve: one is left to HTTP and decoding.

    While these need less of it, the models compute there too.
    """
    largest = max((node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"]), default=0.0)
    free = int(min(largest, ray.available_resources().get("CPU", 0.0)))
    used, kept = (min(_MOST_CPUS, max(1, cpus)) for cpus in (free, free - 1))
    return used, kept


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
    tls = url.startswith("https")
    while True:
        try:
            context = _anybody() if tls else None
            with urllib.request.urlopen(f"{url}/readyz", timeout=5, context=context):  # nosec B310 # http or https
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
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # nosec B104 # compares, binds nothing


def _anybody() -> ssl.SSLContext:
    """Trust for this machine's own server, whose certificate is for its name in the network."""
    made = ssl.create_default_context()
    made.check_hostname, made.verify_mode = False, ssl.CERT_NONE
    return made


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
