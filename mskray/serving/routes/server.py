"""For operators: is the server well, and its figures. Beside /v1."""

from fastapi import APIRouter, Response

from mskray.serving import problems
from mskray.serving.desk import Desk
from mskray.serving.meters import CONTENT_TYPE
from mskray.serving.schemas.common import Health


def router(desk: Desk) -> APIRouter:
    """Return the routes."""
    made = APIRouter(tags=["server"])

    @made.get("/healthz", summary="Does the server live", responses=problems.responses(500))
    async def health() -> Health:
        """Answers while the process lives: restart it when this stops. Asks for no token."""
        return Health(status="ok")

    @made.get("/readyz", summary="Can the server predict", responses=problems.responses(429, 500, 503))
    async def ready() -> Health:
        """Answers once every model is loaded and has predicted something blank. Asks for no token."""
        await desk.backend.models()
        return Health(status="ok")

    @made.get(
        "/metrics",
        summary="Figures for Prometheus",
        dependencies=[desk.needs("admin")],
        response_class=Response,
        responses={
            200: {"description": "Prometheus text.", "content": {"text/plain": {}}},
            **problems.responses(401, 403, 500),
        },
    )
    async def metrics() -> Response:
        """Requests and their time, batches, members' time, errors, probabilities and their drift, of all replicas."""
        return Response(await desk.backend.metrics(), media_type=CONTENT_TYPE)

    return made
