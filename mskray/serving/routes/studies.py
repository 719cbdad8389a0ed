"""A study of radiographs, or a batch of studies as a job."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response

from mskray.serving import problems
from mskray.serving.accounts import asked
from mskray.serving.archives import is_archive
from mskray.serving.batches import SHAPE, batch_work
from mskray.serving.desk import Desk
from mskray.serving.forms import Form, read_form
from mskray.serving.jobs import Jobs, Kind, Work
from mskray.serving.problems import InvalidValue, invalid, request_id
from mskray.serving.routes.jobs import accept
from mskray.serving.schemas.jobs import Job
from mskray.serving.schemas.studies import ExplainMethod, StudyAnswer
from mskray.serving.studying import Keeping, answer_study
from mskray.serving.uploads import body_part_of, study_of, study_shape

Explain = Annotated[
    list[ExplainMethod] | None,
    Query(description="Show where each member that allows it holds reasons for the class called; may be repeated."),
]


def works(desk: Desk) -> dict[Kind, Work]:
    """What jobs of this room do."""
    return {"batch": batch_work(desk.backend, desk.limits, desk.gate)}


def router(desk: Desk, jobs: Jobs | None) -> APIRouter:
    """Return the routes."""
    made = APIRouter(prefix="/v1", tags=["studies"], dependencies=[desk.needs("predict")])
    shape = study_shape(desk.limits)

    @made.post(
        "/studies",
        summary="Predict a study",
        responses=problems.responses(400, 401, 403, 404, 409, 413, 415, 422, 429, 500, 503),
        openapi_extra=shape.openapi(desk.limits),
        response_model=StudyAnswer,
    )
    async def predict_study(
        request: Request,
        partial: Annotated[
            bool, Query(description="Answer the views that can be read although others cannot.", examples=[True])
        ] = False,
        explain: Explain = None,
        explain_as: Annotated[
            Literal["links", "arrays"], Query(description="Overlays as links to PNGs, or as matrices in the answer.")
        ] = "links",
    ) -> Any:
        """Send one or many views as files in the field `views`: PNG, JPEG, TIFF or DICOM, or a zip of such, told by
        their content.

        A study with a view that cannot be read is refused with the list of such views. Its probability is the mean
        over the views, and the one that is missing may be the one that shows the fracture: only who sends it can
        decide that the others are enough, with `partial=true`.
        """
        desk.check("studies")
        told = asked(request)
        keep = Keeping(desk.kept, told.who) if explain and explain_as == "links" else None
        async with desk.gate.enter():
            form = await read_form(request, desk.limits, shape)
            told.images = form.digests

            async def answer(_: str | None) -> StudyAnswer:
                said = await answer_study(
                    desk.backend,
                    desk.limits,
                    study_of(form),
                    request_id(request),
                    partial=partial,
                    explain=explain or (),
                    keep=keep,
                )
                told.model = said.model.hash
                return said

            return await desk.once.answer(request, told.who, form, answer)

    @made.post(
        "/batches",
        status_code=202,
        summary="Predict many studies as a job",
        responses=problems.responses(400, 401, 403, 404, 409, 413, 415, 422, 429, 500, 503),
        openapi_extra=SHAPE.openapi(desk.limits),
        response_model=Job,
    )
    async def predict_batch(request: Request, response: Response) -> Any:
        """Send a zip in the field `studies`, each of its folders a study. Answers at once with a job."""

        desk.check("studies")

        def check(form: Form) -> None:
            body_part_of(form)
            if not is_archive(form.files["studies"][0].data):
                raise invalid(InvalidValue(where="form.studies", what="must be a zip, each of its folders a study"))

        return await accept(desk, jobs, request, response, SHAPE, "batch", {}, check)

    return made
