"""A reader corrects a label or draws a box.

curl -F image=@knee.dcm -F correction='{"task": "abnormality", "label": "normal", "said": "abnormal",
    "reason": "the line is a vessel, no fracture", "model": "<hash of the answer>"}' localhost:8000/v1/feedback
"""

import asyncio
import hashlib
import logging
from collections.abc import Callable
from typing import Any, Protocol

from fastapi import APIRouter, Request
from pydantic import ValidationError
from starlette.datastructures import FormData, UploadFile

from mskray.errors import UserError
from mskray.serving import problems
from mskray.serving.accounts import asked
from mskray.serving.feedback import Correction, keep
from mskray.serving.gate import Gate
from mskray.serving.problems import InvalidValue, Problem, unavailable
from mskray.serving.schemas.feedback import Feedback
from mskray.serving.schemas.models import Models
from mskray.serving.settings import Limits
from mskray.serving.tokens import Scope
from mskray.serving.uploads import read_form
from mskray.storage import Location

IMAGE, CORRECTION = "image", "correction"
_MOST_TEXT = 64 << 10
_WHAT = f"the corrected file in the field `{IMAGE}` and JSON in the field `{CORRECTION}`"

_log = logging.getLogger("ray.serve")


class Knows(Protocol):
    """Says what is served."""

    async def models(self) -> Models: ...


def feedback_router(
    backend: Knows, limits: Limits, gate: Gate, needs: Callable[[Scope], Any], folder: Location | None
) -> APIRouter:
    """Return the route `POST /v1/feedback`.

    Args:
        gate: shared with the routes that decode pictures too.
        needs: scope → a dependency that lets nobody else in.
        folder: where corrections are kept; None where nothing is.
    """
    router = APIRouter(prefix="/v1", dependencies=[needs("feedback")])

    @router.post(
        "/feedback",
        summary="Correct a prediction",
        tags=["feedback"],
        status_code=201,
        responses=problems.responses(400, 401, 403, 413, 415, 422, 429, 500, 503),
        openapi_extra=_form(limits),
    )
    async def correct(request: Request) -> Feedback:
        """Send the file that was predicted, and what is right: a label, boxes, or both, and why.

        Pixels are kept without the file's header. Nothing is overwritten: of several corrections of a picture the
        latest counts when a cohort is made of them.
        """
        if folder is None:
            raise Problem("no-store", "feedback is not kept here: start the server with --store")
        told = asked(request)
        async with gate.enter():
            image, correction = await _read(request, limits)
            told.images, told.model = [hashlib.sha256(image).hexdigest()], correction.model
            known = await backend.models()
            try:
                return await asyncio.to_thread(keep, folder, image, correction, told.who, known, limits)
            except UserError as error:
                _log.error("feedback was not kept: %s", error)
                raise unavailable("the store cannot be written: ask again later, or tell who runs the server") from None

    return router


async def _read(request: Request, limits: Limits) -> tuple[bytes, Correction]:
    """Read the form. Raises Problem."""
    form = await read_form(request, limits, _WHAT, _MOST_TEXT)
    try:
        errors = [
            InvalidValue(where="form", what=f"a field is not known; there are {IMAGE} and {CORRECTION}")
            for _ in sorted(set(form) - {IMAGE, CORRECTION})[:1]
        ]
        image, text = _single(form, IMAGE), _single(form, CORRECTION)
        if not isinstance(image, UploadFile):
            errors.append(InvalidValue(where=f"form.{IMAGE}", what="must be one file, with a filename"))
        correction = None
        if not isinstance(text, str):
            errors.append(InvalidValue(where=f"form.{CORRECTION}", what="must be one text"))
        else:
            try:
                correction = Correction.model_validate_json(text)
            except ValidationError as error:
                errors += [
                    InvalidValue(where=".".join(["form", CORRECTION, *map(str, each["loc"])]), what=each["msg"])
                    for each in error.errors()
                ]
        if errors or correction is None or not isinstance(image, UploadFile):
            raise Problem("invalid-value", "; ".join(f"{each.where}: {each.what}" for each in errors), errors=errors)
        return await image.read(), correction
    finally:
        await form.close()


def _single(form: FormData, field: str) -> UploadFile | str | None:
    given = form.getlist(field)
    return given[0] if len(given) == 1 else None


def _form(limits: Limits) -> dict[str, Any]:
    """Describe the form for OpenAPI: the route reads it itself, so that limits hold while it arrives."""
    correction = Correction.model_json_schema(ref_template="#/components/schemas/{model}")
    del correction["$defs"]  # the box is in the answer too, and so in the document
    schema = {
        "type": "object",
        "required": [IMAGE, CORRECTION],
        "additionalProperties": False,
        "properties": {
            IMAGE: {
                "type": "string",
                "format": "binary",
                "contentMediaType": "application/octet-stream",
                "description": f"The file that was predicted, PNG, JPEG, TIFF or DICOM; the body has at most "
                f"{limits.max_body:,} bytes.",
            },
            CORRECTION: correction,
        },
    }
    content = {"multipart/form-data": {"schema": schema, "encoding": {CORRECTION: {"contentType": "application/json"}}}}
    return {"requestBody": {"required": True, "content": content}}
