"""No body without end: FastAPI reads a JSON body whole, and before it asks who sends it."""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mskray.serving.problems import Problem

_MOST_JSON = 1 << 20


class Bodies:
    """Middleware: a body is refused as soon as it is larger than `most` bytes, 1 MiB where it is no form."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app, self._most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # Only routes that take forms by POST read these themselves, once they know who asks.
        stated = Headers(scope=scope).get("content-type", "").lower()
        form = scope["method"] == "POST" and stated.startswith("multipart/")
        most, received = self._most if form else min(self._most, _MOST_JSON), 0

        async def limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > most:
                raise Problem("too-large", f"a request may have {most:,} bytes here: send less")
            return message

        await self._app(scope, limited, send)
