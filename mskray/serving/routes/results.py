"""Pictures that answers link to, and the pixels that their coordinates are of."""

import asyncio
import io
from typing import Annotated, Literal

import numpy as np
from fastapi import APIRouter, Query, Request, Response

from mskray.imaging.intensity import full_range
from mskray.serving import problems
from mskray.serving.accounts import asked
from mskray.serving.desk import Desk
from mskray.serving.forms import Form, read_form
from mskray.serving.problems import Problem
from mskray.serving.routes.spines import SHAPE
from mskray.serving.settings import Limits
from mskray.serving.uploads import decode_view
from mskray.serving.volumes import decode_volume

_NPY = "application/x-npy"
_SPACING = "X-Spacing-Mm"


def router(desk: Desk) -> APIRouter:
    """Return the routes."""
    made = APIRouter(prefix="/v1", tags=["results"], dependencies=[desk.needs("predict")])

    @made.get(
        "/results/{id}/{name}",
        summary="A picture that an answer links to",
        response_class=Response,
        responses={
            200: {"description": "A greyscale PNG.", "content": {"image/png": {}}},
            **problems.responses(401, 403, 404, 422, 500, 503),
        },
    )
    async def find_result(request: Request, id: str, name: str) -> Response:
        """Each asker finds what was made for the same token; pictures are kept for a day."""
        found = await asyncio.to_thread(desk.kept.read, asked(request).who, id, name)
        if found is None:
            raise Problem("not-found", "there is no such picture of yours; they are kept for a day")
        return Response(found, media_type="image/png", headers={"Cache-Control": "private, max-age=3600"})

    @made.post(
        "/pixels",
        summary="Decode a picture or a volume",
        response_class=Response,
        responses={
            200: {
                "description": "NumPy's .npy: (rows, columns) of a picture, (slices, rows, columns) of a volume; of a "
                f"volume the header {_SPACING} has the distances of slices, rows and columns.",
                "content": {_NPY: {}},
            },
            **problems.responses(400, 401, 403, 413, 415, 422, 429, 500, 503),
        },
        openapi_extra=SHAPE.openapi(desk.limits),
    )
    async def decode_pixels(
        request: Request,
        kind: Annotated[Literal["picture", "volume"], Query(description="What was sent.")] = "picture",
        index: Annotated[int, Query(ge=0, le=4096, description="Which view, of a zip of several.")] = 0,
    ) -> Response:
        """Send one picture, or one volume as to `/v1/spines`: answers the pixels that boxes and corners are of."""
        async with desk.gate.enter():
            form = await read_form(request, desk.limits, SHAPE)
            asked(request).images = form.digests
            content, spacing = await asyncio.to_thread(
                _picture if kind == "picture" else _volume, form, index, desk.limits
            )
        return Response(content, media_type=_NPY, headers={_SPACING: spacing} if spacing else None)

    return made


def _volume(form: Form, _: int, limits: Limits) -> tuple[bytes, str]:
    """A volume as .npy, its darkest voxel 0 and all but the thousandth brightest within uint16; and its spacing."""
    volume = decode_volume(form.files["files"], limits)
    low, high = float(volume.pixels.min()), float(np.percentile(volume.pixels, 99.9))
    shown = full_range((volume.pixels - low) / max(high - low, 1e-6), np.uint16)
    return _npy(shown), ",".join(f"{each:.4f}" for each in volume.spacing_mm)


def _picture(form: Form, index: int, limits: Limits) -> tuple[bytes, str]:
    """A view as .npy, and no spacing."""
    return _npy(decode_view(form.files["files"], index, limits).pixels), ""


def _npy(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(pixels), allow_pickle=False)
    return buffer.getvalue()
