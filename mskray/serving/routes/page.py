"""The reading page: its files as `make page` builds them, for a browser that asks for nothing from elsewhere.

http://localhost:8000/

Nobody needs a token for the page, which holds no data: it asks for one as soon as the server does.
"""

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fastapi import APIRouter, Request, Response

from mskray.serving.problems import Problem

FOLDER = Path(__file__).parents[1] / "page"
"""Where the build goes; its source is `serve/page`."""

_INDEX = "index.html"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
_HEADERS = {
    # Of a release to the next the names stay: the browser asks each time, and hears 304.
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
}


@dataclass(frozen=True)
class _Asset:
    content: bytes
    media_type: str
    tag: str


@cache
def _assets(folder: Path) -> dict[str, _Asset]:
    """Return the page's files by name, read once. Raises Problem where it is not built, which is not remembered."""
    if not (folder / _INDEX).is_file():
        raise Problem("no-page", "this server was installed without its page: build it with `make page`")
    found = {}
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix in _TYPES:
            content = path.read_bytes()
            tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
            found[path.name] = _Asset(content, _TYPES[path.suffix], tag)
    return found


def page_router(folder: Path = FOLDER) -> APIRouter:
    """Return the routes of the page: `/`, and `/page/NAME` for the files that lie in its folder and no others."""
    router = APIRouter(include_in_schema=False)

    # Plain functions: they run in a thread, because the first request reads the files.
    @router.get("/")
    def index(request: Request) -> Response:
        return _respond(request, _assets(folder)[_INDEX])

    @router.get("/page/{name}")
    def asset(request: Request, name: str) -> Response:
        found = _assets(folder).get(name)
        if found is None:
            raise Problem("no-page", "the page has no such file")
        return _respond(request, found)

    return router


def _respond(request: Request, asset: _Asset) -> Response:
    headers = {**_HEADERS, "ETag": asset.tag}
    if asset.tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(asset.content, media_type=asset.media_type, headers=headers)
