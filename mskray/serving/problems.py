"""Every error is a problem detail (RFC 9457): what was wrong, where, what to do; never a stack trace.

curl -i localhost:8000/nowhere        HTTP 404, application/problem+json
"""

import logging
import traceback
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mskray.errors import UserError
from mskray.serving.schemas.common import UnreadableView

MEDIA_TYPE = "application/problem+json"
SCHEMA_NAME = "ProblemDetails"
_LATER = {"Retry-After": "5"}
_GENERIC = "about:blank"
_PREFIX = "urn:mskray:"

KINDS: dict[str, tuple[int, str]] = {
    "malformed-form": (400, "The form cannot be read"),
    "malformed-json": (400, "The JSON cannot be read"),
    "wrong-token": (401, "A valid bearer token is needed"),
    "not-allowed": (403, "The token is not for this"),
    "no-page": (404, "There is no such page"),
    "foreign-page": (403, "The request comes from another page"),
    "too-slow": (408, "The request arrives too slowly"),
    "too-large": (413, "The request is too large"),
    "not-a-form": (415, "The body is not multipart/form-data"),
    "not-found": (404, "There is no such thing"),
    "not-served": (404, "This server does not answer that"),
    "key-in-use": (409, "A request with this key is being answered"),
    "no-files": (422, "The form has no file"),
    "too-many-files": (422, "The form has too many files"),
    "key-used": (422, "The key was used for another request"),
    "unreadable-views": (422, "Views of the study cannot be read"),
    "unreadable-volume": (422, "There is no volume to read a spine in"),
    "unjudged-pair": (422, "The pair cannot be judged"),
    "invalid-value": (422, "A value is not allowed"),
    "too-busy": (429, "The server has too much to do"),
    "unavailable": (503, "The ensemble does not answer"),
    "given-up": (503, "The job was given up"),
    "no-store": (503, "This server keeps nothing"),
}
"""What can go wrong beside what HTTP itself names: kind to status and title."""

# Serve hands this logger to its log files, one a replica, with the request id in each line.
_log = logging.getLogger("ray.serve")


class InvalidValue(BaseModel):
    """A value that is not allowed."""

    where: str = Field(description="Where it stands.", examples=["query.partial"])
    what: str = Field(description="What is wrong with it.", examples=["must be true or false"])


class ProblemDetails(BaseModel):
    """RFC 9457 problem details."""

    type: str = Field(description="The kind of problem, for programs.", examples=[_PREFIX + "unreadable-views"])
    title: str = Field(description="The kind of problem, for people.", examples=[KINDS["unreadable-views"][1]])
    status: int = Field(description="The HTTP status.", examples=[422])
    detail: str | None = Field(
        None,
        description="What was wrong this time, and what to do.",
        examples=["1 of 2 views cannot be read: send them again, or ask for the others alone with ?partial=true"],
    )
    request_id: str | None = Field(None, description="The X-Request-Id of the response, for the server's logs.")
    views: list[UnreadableView] | None = Field(None, description="The views that could not be read.")
    errors: list[InvalidValue] | None = Field(None, description="The values that are not allowed.")


class Problem(HTTPException):
    """An error of one of `KINDS`, to be raised anywhere in a request.

    Args:
        kind: key of `KINDS`.
        detail: what was wrong this time, and what to do.
        more: `views` or `errors` of `ProblemDetails`.
    """

    def __init__(self, kind: str, detail: str, headers: Mapping[str, str] | None = None, **more: Any) -> None:
        status, self.title = KINDS[kind]
        self.kind, self.more = kind, more
        super().__init__(status, detail, headers=dict(headers) if headers else None)


def unavailable(detail: str) -> Problem:
    """Return a 503 that tells the client to ask again in some seconds."""
    return Problem("unavailable", detail, _LATER)


def too_busy(detail: str) -> Problem:
    """Return a 429 that tells the client to ask again in some seconds."""
    return Problem("too-busy", detail, _LATER)


def invalid(*errors: InvalidValue) -> Problem:
    """Return the problem of values that are not allowed."""
    return Problem("invalid-value", "; ".join(f"{each.where}: {each.what}" for each in errors), errors=errors)


def details_of(problem: Problem, request: str | None) -> ProblemDetails:
    """Return what is answered where this is raised, for whoever answers later.

    Args:
        request: id of the request.
    """
    return ProblemDetails(
        type=_PREFIX + problem.kind,
        title=problem.title,
        status=problem.status_code,
        detail=problem.detail,
        request_id=request,
        **problem.more,
    )


def defect(request: str | None) -> ProblemDetails:
    """Return what is answered where the server itself is at fault, without a word of how."""
    phrase = HTTPStatus.INTERNAL_SERVER_ERROR.phrase
    return _plain(500, phrase, "a defect of the server; its log has this request id", request)


def log_defect(what: str, error: BaseException) -> None:
    """Log what failed, the kind of error and where, without its message, which could quote a header."""
    where = "".join(traceback.format_tb(error.__traceback__))
    _log.error("%s failed with %s at\n%s", what, type(error).__qualname__, where)


def request_id(request: Request) -> str | None:
    """Return the request's id, which `Accounts` gives every request."""
    return request.headers.get("x-request-id")


def install(app: FastAPI) -> None:
    """Make every error of `app` a problem detail."""

    async def ours(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        if error.status_code == HTTPStatus.BAD_REQUEST and not isinstance(error, Problem):
            # FastAPI's word for a body that is no text, or nested without end.
            error = Problem("malformed-json", "send one JSON object in UTF-8, as /openapi.json describes it")
        if isinstance(error, Problem):
            return _written(details_of(error, request_id(request)), error.headers)
        phrase = HTTPStatus(error.status_code).phrase
        # Starlette repeats the phrase where it has nothing to add.
        detail = _WHAT_TO_DO.get(error.status_code, None if error.detail == phrase else error.detail)
        return _written(_plain(error.status_code, phrase, detail, request_id(request)), error.headers)

    async def not_valid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        found = [(".".join(str(part) for part in each["loc"]), each["msg"]) for each in error.errors()]
        problem = invalid(*(InvalidValue(where=where, what=what) for where, what in found))
        return _written(details_of(problem, request_id(request)))

    async def store_away(request: Request, error: Exception) -> JSONResponse:
        _log.error("a request could not be answered: %s", error)
        problem = unavailable("what the server needs to keep or to read is away: ask again")
        return _written(details_of(problem, request_id(request)), problem.headers)

    app.add_exception_handler(UserError, store_away)
    app.add_exception_handler(HTTPException, ours)
    app.add_exception_handler(RequestValidationError, not_valid)
    app.add_middleware(Unexpected)


def refusal(problem: Problem, scope: Scope) -> JSONResponse:
    """Return the response of a problem, for a middleware: what these raise nobody turns into one."""
    return _written(details_of(problem, request_id(Request(scope))), problem.headers)


class Unexpected:
    """Middleware: what nobody caught becomes a 500 without a word of its message, which could quote a header."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except ClientDisconnect:
            return
        except Exception as error:
            log_defect("request", error)
            if started:
                raise
            response = _written(defect(request_id(Request(scope))))
            await response(scope, receive, send)


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe error responses for OpenAPI, each with an example for every kind of problem."""
    described: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        kinds = {kind: title for kind, (number, title) in KINDS.items() if number == status}
        types = {_PREFIX + kind: title for kind, title in kinds.items()} or {_GENERIC: HTTPStatus(status).phrase}
        described[status] = {
            "description": "; ".join(types.values()) + ".",
            "content": {
                MEDIA_TYPE: {
                    "schema": {"$ref": f"#/components/schemas/{SCHEMA_NAME}"},
                    "examples": {
                        kind.removeprefix(_PREFIX): {"value": {"type": kind, "title": title, "status": status}}
                        for kind, title in types.items()
                    },
                }
            },
        }
    return described


_WHAT_TO_DO = {
    404: "there is nothing at this path; /openapi.json lists what there is",
    405: "this path does not know the method; the Allow header lists those it knows",
}


def _plain(status: int, phrase: str, detail: str | None, request: str | None) -> ProblemDetails:
    """What HTTP itself names."""
    return ProblemDetails(
        type=_GENERIC, title=phrase, status=status, detail=detail, request_id=request, views=None, errors=None
    )


def _written(details: ProblemDetails, headers: Mapping[str, str] | None = None) -> JSONResponse:
    # Fields that say nothing are left out; those of `views` and `errors` are all needed by who reads them.
    content = {name: value for name, value in details.model_dump(mode="json").items() if value is not None}
    return JSONResponse(content, details.status, headers=dict(headers) if headers else None, media_type=MEDIA_TYPE)
