"""The Ray Serve application: `Ingress` speaks HTTP and decodes, `Members` votes.

    serve run serve.app:app ensemble=s3://models/knees

Numbers of replicas, CPUs and GPUs can be set in a Serve config (serve/config.yaml): a replica uses what it was
given.
"""

import asyncio
from typing import Any

import ray
from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from mskray.serving.api import build_api
from mskray.serving.catalogue import catalogue
from mskray.serving.meters import exported
from mskray.serving.problems import too_busy, unavailable
from mskray.serving.schemas.models import Models
from mskray.serving.schemas.studies import DecodedView, StudyVote
from mskray.serving.settings import Limits
from mskray.serving.tokens import Access
from mskray.storage import locate

_WAITING_STUDIES = 64
"""Studies that may wait before the members, to be joined in batches, and as many again at each caller."""
_SPARE_REQUESTS = 16
"""Requests of one ingress beside studies: health, models."""


class Members:
    """The fused ensemble, ready once it has predicted a blank image."""

    def __init__(self, ensemble: str) -> None:
        # Here and not above: the ingress imports this module too, and torch costs it 700 MB and six seconds.
        from mskray.ensemble import load
        from mskray.serving.drift import held_out_scores
        from mskray.serving.members import VoteQueue, use_threads

        given = ray.get_runtime_context().get_assigned_resources()
        use_threads(given.get("CPU", 1.0))
        voter = load(ensemble, "cuda" if given.get("GPU") else "cpu")
        self._queue = VoteQueue(voter, held_out_scores(locate(ensemble), voter.classes))

    async def vote(self, views: list[DecodedView]) -> StudyVote:
        return await self._queue.vote(views)

    async def models(self) -> Models:
        return catalogue(self._queue.described)


class Ingress:
    """HTTP: reads, checks and decodes what comes in."""

    def __init__(self, members: DeploymentHandle, limits: Limits, access: Access, audit: str | None) -> None:
        self._members, self._limits, self._access, self._audit = members, limits, access, audit

    def __serve_build_asgi_app__(self) -> FastAPI:
        return build_api(_Remote(self._members), self._limits, self._access, self._audit)


class _Remote:
    """The members as the API sees them."""

    def __init__(self, members: DeploymentHandle) -> None:
        self._members = members

    async def models(self) -> Models:
        return await answer_of(self._members.models.remote())

    async def vote(self, views: list[DecodedView]) -> StudyVote:
        return await answer_of(self._members.vote.remote(views))

    async def metrics(self) -> bytes:
        return await asyncio.to_thread(lambda: exported([_exporter(node) for node in ray.nodes() if node["Alive"]]))


def _exporter(node: dict[str, Any]) -> str:
    address = node["NodeManagerAddress"]
    return f"[{address}]:{node['MetricsExportPort']}" if ":" in address else f"{address}:{node['MetricsExportPort']}"


async def answer_of(response: Any) -> Any:
    """Await a deployment's answer. Raises Problem where it is gone or full: the client may ask again."""
    try:
        return await response
    except BackPressureError:
        raise too_busy("too many studies wait for the ensemble: ask again") from None
    except (DeploymentUnavailableError, RayActorError):
        raise unavailable("it is starting again: ask again") from None


def build(
    ensemble: str, limits: Limits, access: Access, audit: str | None = None, cpus: float = 1.0
) -> serve.Application:
    """Return the application, not yet running.

    Args:
        ensemble: URI of an ensemble or a bundle that the replicas can read.
        access: who may ask.
        audit: URI of the audit's folder; None for no audit.
        cpus: CPUs reserved for the members, who use as many threads.
    """
    members = serve.deployment(
        name="Members",
        ray_actor_options={"num_cpus": cpus},
        max_ongoing_requests=_WAITING_STUDIES,
        max_queued_requests=_WAITING_STUDIES,
    )(Members)
    # Without a reserved CPU, so that a small cluster has room for the members. The gate of the API refuses studies
    # before Serve's own queue is full: its answer is a problem detail, Serve's is not.
    ingress = serve.deployment(
        name="Ingress",
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=limits.max_open + limits.max_waiting + _SPARE_REQUESTS,
        max_queued_requests=_SPARE_REQUESTS,
    )(serve.ingress()(Ingress))
    return ingress.bind(members.bind(ensemble), limits, access, audit)
