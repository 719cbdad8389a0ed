"""Figures of a running server, for Prometheus.

    curl -H "Authorization: Bearer $TOKEN" localhost:8000/metrics

Replicas count with Ray's own metrics, so that each node's exporter has them; `/metrics` asks the exporters of all nodes
and answers one document. It is as old as Ray's export, some ten seconds.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import requests
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from ray.util.metrics import Counter, Gauge, Histogram

CONTENT_TYPE = CONTENT_TYPE_LATEST
_PREFIXES = ("ray_mskray_", "ray_serve_")
_SECONDS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0]
_IMAGES = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0]
_SHARES = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
_TIMEOUT_S = 3.0


class IngressMeters:
    """Of what answers HTTP."""

    def __init__(self) -> None:
        self._seconds = Histogram(
            "mskray_request_seconds", "Time to answer a request.", _SECONDS, tag_keys=("route", "status")
        )
        self._open = Gauge("mskray_open_requests", "Requests that are being answered.")
        self._count = 0

    @contextmanager
    def open(self) -> Iterator[None]:
        """Count a request while the block runs."""
        self._step(1)
        try:
            yield
        finally:
            self._step(-1)

    def answered(self, route: str, status: int, seconds: float) -> None:
        self._seconds.observe(seconds, {"route": route, "status": str(status)})

    def _step(self, by: int) -> None:
        self._count += by
        self._open.set(self._count)


class MemberMeters:
    """Of what predicts."""

    def __init__(self) -> None:
        self._batch = Histogram("mskray_batch_images", "Images predicted together.", _IMAGES)
        self._waiting = Gauge("mskray_waiting_studies", "Studies that wait to be predicted.")
        self._member = Histogram(
            "mskray_member_seconds", "Time of a member for a batch.", _SECONDS, tag_keys=("member",)
        )
        self._errors = Counter("mskray_prediction_errors", "Studies whose prediction failed.")
        self._score = Histogram(
            "mskray_score", "Probability that the ensemble gives a study, by class.", _SHARES, tag_keys=("class",)
        )
        self._drift = Gauge("mskray_score_drift", "Population stability index of the last studies' probabilities.")

    def predicted(self, images: int, waiting: int, seconds: Iterable[tuple[str, float]]) -> None:
        """Tell of a batch; `seconds` by member."""
        self._batch.observe(images)
        self._waiting.set(waiting)
        for member, each in seconds:
            self._member.observe(each, {"member": member})

    def failed(self) -> None:
        self._errors.inc()

    def scored(self, probabilities: Iterable[tuple[str, float]], drift: float | None) -> None:
        """Tell of a study: its probabilities by class; drift: where it can be told, see `Drift`."""
        for name, value in probabilities:
            self._score.observe(value, {"class": name})
        if drift is not None:
            self._drift.set(drift)


class _Given:
    """A collector of what was collected elsewhere."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def merged(texts: Iterable[str]) -> bytes:
    """Join the documents of several exporters, of the server's and of Serve's figures."""
    families: dict[str, Metric] = {}
    for text in texts:
        for family in text_string_to_metric_families(text):
            if not family.name.startswith(_PREFIXES):
                continue
            if family.name in families:
                families[family.name].samples += family.samples
            else:
                families[family.name] = family
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Given(families.values()))
    return generate_latest(registry)


def exported(addresses: Sequence[str]) -> bytes:
    """Ask the exporters at these host:port addresses; one that does not answer is left out."""
    texts = []
    for address in addresses:
        try:
            answer = requests.get(f"http://{address}/metrics", timeout=_TIMEOUT_S)
            answer.raise_for_status()
            texts.append(answer.text)
        except requests.RequestException:
            continue  # a node that is leaving
    return merged(texts)
