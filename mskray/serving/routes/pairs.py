"""A pair: one place of a body, before and after."""

import asyncio
from typing import Any

from fastapi import APIRouter, Request

from mskray.serving import problems
from mskray.serving.accounts import asked
from mskray.serving.desk import Desk
from mskray.serving.forms import Files, Form, Shape, read_form
from mskray.serving.problems import request_id
from mskray.serving.schemas.pairs import PairAnswer, PairImage
from mskray.serving.schemas.studies import DecodedView
from mskray.serving.settings import Limits
from mskray.serving.uploads import BODY_PART_FIELD, UploadedStudy, body_part_of, check_readable, decode_study

_SHAPE = Shape(
    (
        Files("before", 1, "The earlier picture: PNG, JPEG, TIFF or DICOM."),
        Files("after", 1, "The later picture."),
    ),
    (BODY_PART_FIELD,),
)


def router(desk: Desk) -> APIRouter:
    """Return the routes."""
    made = APIRouter(prefix="/v1", tags=["pairs"], dependencies=[desk.needs("predict")])

    @made.post(
        "/pairs",
        summary="Predict what changed between two pictures",
        responses=problems.responses(400, 401, 403, 404, 408, 409, 413, 415, 422, 429, 500, 503),
        openapi_extra=_SHAPE.openapi(desk.limits),
        response_model=PairAnswer,
    )
    async def predict_pair(request: Request) -> Any:
        """Send two pictures of one place of one patient, such as the same slice of two examinations."""
        desk.check("pairs")
        told = asked(request)
        async with desk.gate.enter():
            form = await read_form(request, desk.limits, _SHAPE)
            told.images = form.digests

            async def answer(_: str | None) -> PairAnswer:
                before, after = await asyncio.to_thread(_decoded, form, desk.limits)
                vote = await desk.backend.pair(before, after)
                told.model = vote.model.hash
                return PairAnswer(
                    request_id=request_id(request),
                    pair=vote.pair,
                    members=vote.members,
                    before=_image(before),
                    after=_image(after),
                    warnings=vote.warnings,
                    model=vote.model,
                )

            return await desk.once.answer(request, told.who, form, answer)

    return made


def _decoded(form: Form, limits: Limits) -> tuple[DecodedView, DecodedView]:
    """The two pictures. Raises Problem where one cannot be read."""
    files = (*form.files["before"], *form.files["after"])
    views, unreadable = decode_study(UploadedStudy(files, body_part_of(form)), limits)
    check_readable(len(views), unreadable, partial=False)
    return views[0], views[1]


def _image(view: DecodedView) -> PairImage:
    rows, columns = view.pixels.shape
    return PairImage(name=view.name, format=view.format, rows=rows, columns=columns)
