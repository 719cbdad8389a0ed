"""A server that asks for no token trusts this machine's people, and not every web page that they look at.

A page from elsewhere can make a browser send a form to 127.0.0.1, and by a name that it lets point there even read the
answer. Where nobody shows a token, a request must therefore name a loopback address, and come from the server's own
page or from no page.
"""

from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from mskray.serving.problems import Problem, refusal
from mskray.serving.settings import is_loopback


class OwnPages:
    """Middleware."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        foreign = _foreign(Headers(scope=scope)) if scope["type"] == "http" else None
        answers = self._app if foreign is None else refusal(Problem("foreign-page", foreign), scope)
        await answers(scope, receive, send)


def _foreign(headers: Headers) -> str | None:
    """What is wrong with where a request comes from; None where nothing is."""
    host, origin = headers.get("host", ""), headers.get("origin")
    try:
        if host and not is_loopback(urlsplit(f"//{host}").hostname or ""):
            return "a server without tokens is asked at 127.0.0.1 or localhost"
        if origin is not None and urlsplit(origin).netloc != host:
            return "a server without tokens is asked by no other web page"
    except ValueError:  # what urlsplit says of brackets that hold no address
        return "the address that was asked is none"
    return None
