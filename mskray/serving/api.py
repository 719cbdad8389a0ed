"""The HTTP routes: a study in, probabilities out; which models answer; whether the server is well.

    curl -F views=@front.dcm -F views=@side.dcm -F body_part=KNEE localhost:8000/v1/studies
    curl localhost:8000/openapi.json

`build_api` makes a plain FastAPI application over anything that votes, so it runs under any ASGI server.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, Protocol

from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response
from fastapi.openapi.utils import get_openapi
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

import mskray
from mskray.serving import problems
from mskray.serving.accounts import Accounts, asked
from mskray.serving.audit import Audit
from mskray.serving.gate import Gate
from mskray.serving.meters import CONTENT_TYPE, IngressMeters
from mskray.serving.problems import Problem, ProblemDetails, request_id
from mskray.serving.schemas.common import Health, UnreadableView
from mskray.serving.schemas.models import Models
from mskray.serving.schemas.studies import DecodedView, StudyAnswer, StudyVote, ViewResult
from mskray.serving.settings import Limits
from mskray.serving.tokens import Access, Door, Scope
from mskray.serving.uploads import BODY_PART, VIEWS, decode_study, read_study
from mskray.storage import locate

_DESCRIPTION = """Class probabilities for radiographs, by a soft-voting ensemble.

Send the views of a study; each is answered for itself, and the study by the mean of its views.

Not a medical device: for research, not for diagnosis.
"""


class Backend(Protocol):
    """What answers behind the routes."""

    async def models(self) -> Models: ...

    async def vote(self, views: list[DecodedView]) -> StudyVote: ...

    async def metrics(self) -> bytes: ...


def build_api(backend: Backend, limits: Limits, access: Access, audit: str | None = None) -> FastAPI:
    """Return the application.

    Args:
        access: who may ask; where nobody has to show a token every route answers everybody.
        audit: URI of the audit's folder; None for no audit.
    """
    log = None if audit is None else Audit(locate(audit))

    @asynccontextmanager
    async def ends(app: FastAPI) -> AsyncIterator[None]:
        yield
        if log is not None:
            await log.close()

    # Swagger's and ReDoc's pages load their scripts from the internet, which a hospital's network does not reach.
    app = FastAPI(
        title="mskray",
        version=mskray.__version__,
        description=_DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=ends,
    )
    problems.install(app)
    app.add_middleware(Accounts, meters=IngressMeters(), audit=log)
    gate, door = Gate(limits), Door(access)
    bearer = HTTPBearer(auto_error=False, description="A token of the server, where it has any.")

    def needs(scope: Scope) -> Any:
        async def check(
            request: Request, given: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]
        ) -> None:
            asked(request).who = await door.admit(given.credentials if given else None, scope)

        return Depends(check)

    v1 = APIRouter(prefix="/v1", dependencies=[needs("predict")])

    @v1.post(
        "/studies",
        summary="Predict a study",
        tags=["studies"],
        responses=problems.responses(400, 401, 403, 413, 415, 422, 429, 500, 503),
        openapi_extra=_form(limits),
    )
    async def predict_study(
        request: Request,
        partial: Annotated[
            bool, Query(description="Answer the views that can be read although others cannot.", examples=[True])
        ] = False,
    ) -> StudyAnswer:
        """Send one or many views as files in the field `views`: PNG, JPEG, TIFF or DICOM, or a zip of such, told by
        their content.

        A study with a view that cannot be read is refused with the list of such views. Its probability is the mean
        over the views, and the one that is missing may be the one that shows the fracture: only who sends it can
        decide that the others are enough, with `partial=true`.
        """
        async with gate.enter():
            told = asked(request)
            study = await read_study(request, limits)
            told.images = await asyncio.to_thread(lambda: [file.digest for file in study.files])
            views, unreadable = await asyncio.to_thread(decode_study, study, limits)
            _check_readable(len(views), unreadable, partial)
            vote = await backend.vote(views)
            told.model = vote.model.hash
        return StudyAnswer(
            request_id=request_id(request),
            study=vote.study,
            views=[
                ViewResult(
                    index=view.index,
                    name=view.name,
                    format=view.format,
                    rows=view.pixels.shape[0],
                    columns=view.pixels.shape[1],
                    body_part=view.body_part or None,
                    probabilities=vote.views[place],
                    members=vote.members[place],
                    parts=vote.parts[place],
                    boxes=vote.boxes[place],
                    overlays=[],
                )
                for place, view in enumerate(views)
            ],
            unreadable=unreadable,
            warnings=vote.warnings,
            model=vote.model,
        )

    @v1.get(
        "/models", summary="Which models answer", tags=["models"], responses=problems.responses(401, 403, 429, 500, 503)
    )
    async def list_models() -> Models:
        """The ensemble and its members: what they were trained on, their figures, and hashes to tell them by."""
        return await backend.models()

    app.include_router(v1)

    @app.get("/healthz", summary="Does the server live", tags=["server"], responses=problems.responses(500))
    async def health() -> Health:
        """Answers while the process lives: restart it when this stops. Asks for no token."""
        return Health(status="ok")

    @app.get("/readyz", summary="Can the server predict", tags=["server"], responses=problems.responses(429, 500, 503))
    async def ready() -> Health:
        """Answers once the ensemble is loaded and has predicted a blank image. Asks for no token."""
        await backend.models()
        return Health(status="ok")

    @app.get(
        "/metrics",
        summary="Figures for Prometheus",
        tags=["server"],
        dependencies=[needs("admin")],
        response_class=Response,
        responses={
            200: {"description": "Prometheus text.", "content": {"text/plain": {}}},
            **problems.responses(401, 403, 500),
        },
    )
    async def metrics() -> Response:
        """Requests and their time, batches, members' time, errors, probabilities and their drift, of all replicas."""
        return Response(await backend.metrics(), media_type=CONTENT_TYPE)

    _complete_openapi(app)
    return app


def _check_readable(read: int, unreadable: list[UnreadableView], partial: bool) -> None:
    bad = len(unreadable)
    total = read + bad
    if not bad or (partial and bad < total):
        return
    hint = "" if bad == total else ", or ask for the others alone with ?partial=true"
    raise Problem(
        "unreadable-views",
        f"{bad} of {total} views cannot be read: send them again as PNG, JPEG, TIFF or DICOM, or a zip of such{hint}",
        views=unreadable,
    )


def _form(limits: Limits) -> dict[str, Any]:
    """Describe the form for OpenAPI: the route reads it itself, so that limits hold while it arrives."""
    schema = {
        "type": "object",
        "required": [VIEWS],
        "additionalProperties": False,
        "properties": {
            VIEWS: {
                "type": "array",
                "minItems": 1,
                "maxItems": limits.max_views,
                "items": {"type": "string", "format": "binary", "contentMediaType": "application/octet-stream"},
                "description": f"The study's views, a file each or zipped; together at most {limits.max_body:,} bytes "
                f"and {limits.max_pixels:,} pixels.",
            },
            BODY_PART: {
                "type": "string",
                "maxLength": 64,
                "description": "DICOM body part of all views; without it, that of each DICOM header counts.",
                "examples": ["KNEE"],
            },
        },
    }
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


def _complete_openapi(app: FastAPI) -> None:
    """Add the problem schema, which no route returns by itself, to the document."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = get_openapi(
                title=app.title,
                version=app.version,
                description=app.description,
                routes=app.routes,
                tags=[
                    {"name": "studies", "description": "Predictions."},
                    {"name": "models", "description": "What answers."},
                    {"name": "server", "description": "For operators."},
                ],
            )
            problem = ProblemDetails.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas = made["components"]["schemas"]
            schemas.update(problem.pop("$defs"))
            schemas[problems.SCHEMA_NAME] = problem
            app.openapi_schema = made
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]
