"""For operators: is the server well, and its figures. Beside /v1."""

import asyncio
import time

from fastapi import APIRouter, Response

from mskray.serving import problems
from mskray.serving.backend import Backend
from mskray.serving.desk import Desk
from mskray.serving.meters import CONTENT_TYPE
from mskray.serving.schemas.common import Health

_KNOWN_S = 2.0


class Readiness:
    """Whether the models answer, asked once in `_KNOWN_S`: whoever asks needs no token, and could keep them busy."""

    def __init__(self, backend: Backend) -> None:
        self._backend, self._turn, self._known_until = backend, asyncio.Lock(), 0.0

    async def check(self) -> None:
        """Raise Problem where they do not; models that have no time for this question are at work, so they do."""
        async with self._turn:
            if time.monotonic() < self._known_until:
                return
            try:
                await self._backend.models()
            except problems.Problem as error:
                if error.kind != "too-busy":
                    raise
            self._known_until = time.monotonic() + _KNOWN_S


def router(desk: Desk) -> APIRouter:
    """Return the routes."""
    made, readiness = APIRouter(tags=["server"]), Readiness(desk.backend)

    @made.get("/healthz", summary="Does the server live", responses=problems.responses(500))
    async def health() -> Health:
        """Answers while the process lives: restart it when this stops. Asks for no token."""
        return Health(status="ok")

    @made.get("/readyz", summary="Can the server predict", responses=problems.responses(500, 503))
    async def ready() -> Health:
        """Answers once every model is loaded and has predicted something blank; it may be two seconds old. Asks for no
        token."""
        await readiness.check()
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
