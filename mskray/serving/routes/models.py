"""Which models answer, and another one while the server runs."""

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from mskray.serving import problems
from mskray.serving.accounts import asked
from mskray.serving.desk import Desk
from mskray.serving.schemas.models import Models


class Wanted(BaseModel):
    """The ensemble to answer studies by."""

    model_config = ConfigDict(extra="forbid")

    ensemble: str = Field(
        description="URI of an ensemble or bundle that every replica can read.",
        examples=["s3://models/knees-2"],
        min_length=1,
        max_length=1024,
    )


def router(desk: Desk) -> APIRouter:
    """Return the routes."""
    made = APIRouter(prefix="/v1", tags=["models"])

    @made.get(
        "/models",
        summary="Which models answer",
        dependencies=[desk.needs("predict")],
        responses=problems.responses(401, 403, 429, 500, 503),
    )
    async def list_models() -> Models:
        """Ensembles and their members: their data, figures, cards, and hashes to tell them by."""
        return await desk.backend.models()

    @made.put(
        "/models",
        status_code=202,
        summary="Answer studies by another ensemble",
        dependencies=[desk.needs("admin")],
        responses=problems.responses(400, 401, 403, 404, 413, 422, 429, 500, 503),
    )
    async def roll_out(request: Request, wanted: Wanted) -> Models:
        """Every replica loads and tries the ensemble beside the one that answers, then answers by it. `rollout` of the
        models tells by its `id` how far this change is; no request fails meanwhile."""
        desk.check("studies")
        begun = await desk.backend.roll_out(wanted.ensemble)
        found = await desk.backend.models()
        asked(request).model = found.of_studies.hash
        return found.model_copy(update={"rollout": begun})

    return made
