"""What is written down of every request: its id, how long it took, who asked, which model answered.

The id is the client's X-Request-Id, Serve's, or one made here; it stands in the response, the log and the audit.
"""

import re
import time
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime

from fastapi import Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mskray.serving.audit import Audit, Row
from mskray.serving.meters import IngressMeters

REQUEST_ID, IDEMPOTENCY_KEY = "x-request-id", "idempotency-key"
_AUDITED = "/v1"
_NO_ROUTE = "none"
_NOT_SAFE, _LONGEST_ID = re.compile(r"[^A-Za-z0-9._:-]"), 128
_GONE = 499
"""Status of a request whose client did not wait for the answer, as nginx has it."""


@dataclass
class Asked:
    """What routes tell of a request, see `audit.Row`.

    Args:
        digests: whether `images` are told to anybody.
    """

    digests: bool
    who: str = ""
    images: list[str] = field(default_factory=list)
    model: str = ""


def asked(request: Request) -> Asked:
    """Return what is written down of this request, for a route to fill in."""
    found: Asked = request.state.asked
    return found


class Accounts:
    """Middleware, outermost."""

    def __init__(self, app: ASGIApp, meters: IngressMeters, audit: Audit | None) -> None:
        self._app, self._meters, self._audit = app, meters, audit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        stated = Headers(scope=scope).get(REQUEST_ID, "")
        given = _NOT_SAFE.sub("_", stated)[:_LONGEST_ID] or uuid.uuid4().hex
        others = [(name, value) for name, value in scope["headers"] if name != REQUEST_ID.encode()]
        scope["headers"] = [*others, (REQUEST_ID.encode(), given.encode())]
        told = Asked(self._audit is not None or any(name == IDEMPOTENCY_KEY.encode() for name, _ in others))
        scope.setdefault("state", {})["asked"] = told
        status, began = _GONE, time.monotonic()

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if not stated:  # Serve states one in every request, and in its response
                    MutableHeaders(scope=message)[REQUEST_ID] = given
            await send(message)

        try:
            with self._meters.open():
                await self._app(scope, receive, watched)
        finally:
            seconds = time.monotonic() - began
            route = getattr(scope.get("route"), "path", _NO_ROUTE)
            self._meters.answered(route, status, seconds)
            if self._audit is not None and scope["path"].startswith(_AUDITED):
                now, method = datetime.now(UTC), scope["method"]
                self._audit.add(
                    Row(now, given, told.who, method, route, status, seconds, tuple(told.images), told.model)
                )
