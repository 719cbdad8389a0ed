"""The HTTP application: routes over a backend, accounts and problems around them.

    curl -F views=@front.dcm -F views=@side.dcm -F body_part=KNEE localhost:8000/v1/studies
    curl localhost:8000/openapi.json

`build_api` makes a plain FastAPI application over anything that answers, so it runs under any ASGI server.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

import mskray
from mskray.errors import UserError
from mskray.serving import problems
from mskray.serving.accounts import Accounts
from mskray.serving.audit import Audit
from mskray.serving.backend import Backend
from mskray.serving.bodies import Bodies
from mskray.serving.desk import Desk
from mskray.serving.gate import Gate
from mskray.serving.idempotency import Once
from mskray.serving.jobs import Jobs
from mskray.serving.meters import IngressMeters
from mskray.serving.origins import OwnPages
from mskray.serving.problems import ProblemDetails
from mskray.serving.routes import feedback as feedback_route
from mskray.serving.routes import jobs, models, page, pairs, results, server, spines, studies
from mskray.serving.settings import Limits
from mskray.serving.store import Store
from mskray.serving.tokens import Access, Door
from mskray.storage import locate

_DESCRIPTION = """Probabilities for musculoskeletal images: studies of radiographs, pairs, spines.

Not a medical device: for research, not for diagnosis.
"""
_TAGS = {
    "studies": "Radiographs: a soft-voting ensemble.",
    "pairs": "What changed between two pictures.",
    "spines": "Vertebral bodies and the grades of discs.",
    "jobs": "How far long work is.",
    "results": "Pictures that answers link to.",
    "feedback": "What readers correct.",
    "models": "What answers.",
    "server": "For operators.",
}
_TIDY_S = 600.0
_log = logging.getLogger("ray.serve")


def build_api(
    backend: Backend,
    limits: Limits,
    access: Access,
    audit: str | None = None,
    store: str | None = None,
    feedback: str | None = None,
) -> FastAPI:
    """Return the application.

    Args:
        access: who may ask; where nobody has to show a token every route answers everybody.
        audit: URI of the audit's folder; None for no audit.
        store: URI of what is kept for a day (`store`); None for no links, jobs and keys.
        feedback: URI of the folder of corrections; None where none are taken.
    """
    log = None if audit is None else Audit(locate(audit))
    kept = None if store is None else Store(locate(store))
    corrections = None if feedback is None else locate(feedback)
    desk = Desk(backend, limits, Gate(limits), Door(access), kept, Once(kept), corrections)
    works = {**studies.works(desk), **spines.works(desk)}
    at_work = None if kept is None else Jobs(kept.jobs, works)

    @asynccontextmanager
    async def lasts(app: FastAPI) -> AsyncIterator[None]:
        tidying = asyncio.create_task(_tidy(kept)) if kept else None
        yield
        if tidying is not None:
            tidying.cancel()
            with suppress(asyncio.CancelledError):
                await tidying
        if at_work is not None:
            await at_work.close()
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
        lifespan=lasts,
    )
    problems.install(app)
    app.add_middleware(Bodies, most=limits.max_body)
    if access.open:
        app.add_middleware(OwnPages)
    app.add_middleware(Accounts, meters=IngressMeters(), audit=log)
    for router in (
        studies.router(desk, at_work),
        pairs.router(desk),
        spines.router(desk, at_work),
        jobs.router(desk, at_work),
        results.router(desk),
        feedback_route.router(desk),
        models.router(desk),
        server.router(desk),
        page.page_router(),
    ):
        app.include_router(router)
    _complete_openapi(app)
    return app


async def _tidy(store: Store) -> None:
    """Forget what is old, now and then."""
    while True:
        try:
            await asyncio.to_thread(store.forget)
        except UserError as error:  # the store is away for a moment
            _log.error("what is old cannot be deleted: %s", error)
        except Exception as error:  # what is old may name a patient: a defect does not end this for good
            problems.log_defect("deleting what is old", error)
        await asyncio.sleep(_TIDY_S)


def _complete_openapi(app: FastAPI) -> None:
    """Add the problem schema, which no route returns by itself, to the document."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = get_openapi(
                title=app.title,
                version=app.version,
                description=app.description,
                routes=app.routes,
                tags=[{"name": name, "description": about} for name, about in _TAGS.items()],
            )
            problem = ProblemDetails.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas = made["components"]["schemas"]
            schemas.update(problem.pop("$defs"))
            schemas[problems.SCHEMA_NAME] = problem
            app.openapi_schema = made
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]
