"""A reader corrects a label or draws a box.

curl -F image=@knee.dcm -F correction='{"task": "abnormality", "label": "normal", "said": "abnormal",
    "reason": "the line is a vessel, no fracture", "model": "<hash of the answer>"}' localhost:8000/v1/feedback
"""

import asyncio
import logging
from typing import Any

from fastapi import APIRouter, Request
from pydantic import ValidationError

from mskray.errors import UserError
from mskray.serving import problems
from mskray.serving.accounts import asked
from mskray.serving.desk import Desk
from mskray.serving.feedback import Correction, keep
from mskray.serving.forms import Files, Shape, Text, read_form
from mskray.serving.problems import InvalidValue, Problem, invalid, unavailable
from mskray.serving.schemas.feedback import Feedback

IMAGE, CORRECTION = "image", "correction"
_MOST_TEXT = 16 << 10
_log = logging.getLogger("ray.serve")


def router(desk: Desk) -> APIRouter:
    """Return the route."""
    made = APIRouter(prefix="/v1", tags=["feedback"], dependencies=[desk.needs("feedback")])
    shape = _shape()

    @made.post(
        "/feedback",
        status_code=201,
        summary="Correct a prediction",
        responses=problems.responses(400, 401, 403, 404, 408, 409, 413, 415, 422, 429, 500, 503),
        openapi_extra=shape.openapi(desk.limits),
        response_model=Feedback,
    )
    async def correct(request: Request) -> Any:
        """Send the file that was predicted, and what is right: a label, boxes, or both, and why.

        Pixels are kept without the file's header. Nothing is overwritten: of several corrections of a picture the
        latest counts when a cohort is made of them.
        """
        folder, told = desk.feedback, asked(request)
        if folder is None:
            raise Problem("no-store", "feedback is not kept here: start the server with --store")
        async with desk.gate.enter():
            form = await read_form(request, desk.limits, shape)
            told.images = form.digests

            async def answer(_: str | None) -> Feedback:
                correction = _correction(form.texts[CORRECTION])
                told.model, known = correction.model, await desk.backend.models()
                (image,) = form.files[IMAGE]
                try:
                    return await asyncio.to_thread(keep, folder, image.data, correction, told.who, known, desk.limits)
                except UserError as error:
                    _log.error("feedback was not kept: %s", error)
                    raise unavailable(
                        "the store cannot be written: ask again later, or tell who runs the server"
                    ) from None

            return await desk.once.answer(request, told.who, form, answer, 201)

    return made


def _shape() -> Shape:
    schema = Correction.model_json_schema(ref_template="#/components/schemas/{model}")
    del schema["$defs"]  # the box is in the answer too, and so in the document
    image = Files(IMAGE, 1, "The file that was predicted: PNG, JPEG, TIFF or DICOM.")
    return Shape((image,), (Text(CORRECTION, _MOST_TEXT, "What is right, JSON.", "{…}", needed=True, schema=schema),))


def _correction(text: str) -> Correction:
    """Read what is right. Raises Problem."""
    try:
        return Correction.model_validate_json(text)
    except ValidationError as error:
        found = [(".".join(["form", CORRECTION, *map(str, each["loc"])]), each["msg"]) for each in error.errors()]
        raise invalid(*(InvalidValue(where=where, what=what) for where, what in found)) from None
