"""The Ray Serve application: `Ingress` speaks HTTP and decodes, `Members` votes.

    serve run serve.app:app ensemble=s3://models/knees

Numbers of replicas, CPUs and GPUs can be set in a Serve config (serve/config.yaml): a replica uses what it was
given.
"""

from typing import Any

import ray
from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from mskray.serving.api import build_api
from mskray.serving.problems import unavailable
from mskray.serving.schemas import DecodedView, Models, StudyVote
from mskray.serving.settings import Limits

_WAITING_STUDIES = 64
"""Studies that may wait before the members, to be joined in batches, and as many again at each caller."""
_SPARE_REQUESTS = 16
"""Requests of one ingress beside studies: health, models."""


class Members:
    """The fused ensemble, ready once it has predicted a blank image."""

    def __init__(self, ensemble: str) -> None:
        # Here and not above: the ingress imports this module too, and torch costs it 700 MB and six seconds.
        from mskray.ensemble import load
        from mskray.serving.members import VoteQueue, use_threads

        given = ray.get_runtime_context().get_assigned_resources()
        use_threads(given.get("CPU", 1.0))
        self._queue = VoteQueue(load(ensemble, "cuda" if given.get("GPU") else "cpu"))

    async def vote(self, views: list[DecodedView]) -> StudyVote:
        return await self._queue.vote(views)

    async def models(self) -> Models:
        return self._queue.models


class Ingress:
    """HTTP: reads, checks and decodes what comes in."""

    def __init__(self, members: DeploymentHandle, limits: Limits, digest: str | None) -> None:
        self._members, self._limits, self._digest = members, limits, digest

    def __serve_build_asgi_app__(self) -> FastAPI:
        return build_api(_Remote(self._members), self._limits, self._digest)


class _Remote:
    """The members as the API sees them."""

    def __init__(self, members: DeploymentHandle) -> None:
        self._members = members

    async def models(self) -> Models:
        return await answer_of(self._members.models.remote())

    async def vote(self, views: list[DecodedView]) -> StudyVote:
        return await answer_of(self._members.vote.remote(views))


async def answer_of(response: Any) -> Any:
    """Await a deployment's answer. Raises Problem where it is gone or full: the client may ask again."""
    try:
        return await response
    except (BackPressureError, DeploymentUnavailableError, RayActorError):
        raise unavailable("it is starting again or has too much to do: ask again") from None


def build(ensemble: str, limits: Limits, digest: str | None, cpus: float = 1.0) -> serve.Application:
    """Return the application, not yet running.

    Args:
        ensemble: URI of an ensemble or a bundle that the replicas can read.
        digest: SHA-256 of the token, see `settings.token_digest`.
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
    return ingress.bind(members.bind(ensemble), limits, digest)
