"""A spine as a job: bodies, grades of discs, hotspots."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response

from mskray.serving import problems
from mskray.serving.desk import Desk
from mskray.serving.forms import Files, Form, Shape
from mskray.serving.jobs import Jobs, Kind, Work
from mskray.serving.reading import spine_work
from mskray.serving.routes.jobs import accept
from mskray.serving.schemas.jobs import Job
from mskray.serving.volumes import MAX_FILES, decode_volume

SHAPE = Shape(
    (Files("files", MAX_FILES, "A DICOM series, a file each or zipped, or one NIfTI (.nii, .nii.gz) or MetaImage."),)
)


def works(desk: Desk) -> dict[Kind, Work]:
    """What jobs of this room do."""
    return {"spine": spine_work(desk.backend, desk.limits, desk.store)}


def router(desk: Desk, jobs: Jobs | None) -> APIRouter:
    """Return the routes."""
    made = APIRouter(prefix="/v1", tags=["spines"], dependencies=[desk.needs("predict")])

    @made.post(
        "/spines",
        status_code=202,
        summary="Read a spine as a job",
        responses=problems.responses(400, 401, 403, 404, 408, 409, 413, 415, 422, 429, 500, 503),
        openapi_extra=SHAPE.openapi(desk.limits),
        response_model=Job,
    )
    async def read_spine(
        request: Request,
        response: Response,
        explain: Annotated[
            Literal["saliency", "hotspots"] | None,
            Query(description="Show where each grade has its reasons: in one pass, or in the mean of `copies`."),
        ] = None,
        copies: Annotated[
            int, Query(ge=2, le=256, description="Augmented copies that hotspots are the mean of; the paper's are 64.")
        ] = 16,
    ) -> Any:
        """Send one sagittal series of a spine. What it holds is checked at once; answers with a job."""
        desk.check("spines")
        chosen = {"copies": str(copies if explain == "hotspots" else 1)} if explain else {}

        def check(form: Form) -> None:
            decode_volume(form.files["files"], desk.limits)

        return await accept(desk, jobs, request, response, SHAPE, "spine", chosen, check)

    return made
