"""How far a job is; and how any route accepts one."""

import asyncio
from collections.abc import Callable, Mapping

from fastapi import APIRouter, Request, Response

from mskray.serving import problems
from mskray.serving.accounts import asked
from mskray.serving.desk import Desk
from mskray.serving.forms import Form, Shape, read_form
from mskray.serving.jobs import Jobs, Kind, Order
from mskray.serving.problems import Problem, request_id
from mskray.serving.schemas.jobs import Job
from mskray.serving.store import new_id


def router(desk: Desk, jobs: Jobs | None) -> APIRouter:
    """Return the routes."""
    made = APIRouter(prefix="/v1", tags=["jobs"], dependencies=[desk.needs("predict")])

    @made.get("/jobs/{id}", summary="How far a job is", responses=problems.responses(401, 403, 404, 422, 500, 503))
    async def find_job(request: Request, id: str) -> Job:
        """Ask again until `status` is `done` or `failed`. Each asker finds what was asked with the same token."""
        return await _there(jobs).find(id, asked(request).who)

    return made


async def accept(
    desk: Desk,
    jobs: Jobs | None,
    request: Request,
    response: Response,
    shape: Shape,
    kind: Kind,
    options: Mapping[str, str],
    check: Callable[[Form], None],
) -> Job | Response:
    """Read a form and make a job of it.

    Args:
        options: beside the form's texts.
        check: raises Problem where the form cannot become one; it may take its time.
    """
    told, there = asked(request), _there(jobs)
    async with desk.gate.enter():
        form = await read_form(request, desk.limits, shape)
        told.images = form.digests

        async def submit(name: str | None) -> Job:
            await asyncio.to_thread(check, form)
            files = tuple(file for each in form.files.values() for file in each)
            order = Order(
                name or new_id(),
                kind,
                told.who,
                request_id(request) or "",
                {**options, **form.texts},
                len(files),
                files,
            )
            return await there.submit(order)

        accepted = await desk.once.answer(request, told.who, form, submit, 202)
    if isinstance(accepted, Job):
        response.headers["Location"] = accepted.href
    return accepted


def _there(jobs: Jobs | None) -> Jobs:
    if jobs is None:
        raise Problem("no-store", "jobs are not kept here: start the server with --store")
    return jobs
