"""A request that comes again with the same `Idempotency-Key` is answered as at first, and nothing is done twice.

    curl -H "Idempotency-Key: 4f1c…" -F views=@front.dcm localhost:8000/v1/studies

As in the IETF's draft "The Idempotency-Key HTTP Header Field": the same key with another content is refused, and so is
one whose request is being answered. Only answers are remembered, no errors: those may be mended by asking again.
"""

import asyncio
import hashlib
import json
import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

from fastapi import Request, Response

from mskray.errors import UserError
from mskray.serving.forms import Form
from mskray.serving.problems import InvalidValue, Problem, invalid
from mskray.serving.schemas.common import Answer
from mskray.serving.store import Store, try_read_json
from mskray.storage import Location

HEADER, REPLAYED = "idempotency-key", "Idempotency-Replayed"
_KEY = re.compile(r'"?([A-Za-z0-9._:-]{8,128})"?')
_BEAT_S, _SILENT_S = 3.0, 12.0
"""Between two signs of life; after how long without one nobody is at work."""
A = TypeVar("A", bound=Answer)


class Once:
    """Answers by key.

    Args:
        store: where they are kept; None where nothing is.
    """

    def __init__(self, store: Store | None) -> None:
        self._store = store

    async def answer(
        self, request: Request, who: str, form: Form, make: Callable[[str | None], Awaitable[A]], status: int = 200
    ) -> A | Response:
        """Return what `make` answers, or what it answered before.

        Args:
            make: takes 32 hex digits that stand for asker and key, None where no key was given.
        Raises:
            Problem: a key that is none, one that was used for another request or is in use, no store to remember in.
        """
        key = _key(request)
        if key is None:
            return await make(None)
        if self._store is None:
            raise Problem("no-store", "keys are not remembered here: ask without, or start the server with --store")
        name = hashlib.sha256(f"{who}\n{key}".encode()).hexdigest()[:32]
        place, asked = self._store.keys.join(f"{name}.json"), _fingerprint(request, form)
        claim = {"fingerprint": asked, "since": time.time(), "by": uuid.uuid4().hex}
        if not await asyncio.to_thread(place.create, json.dumps(claim).encode()):
            replayed = await self._known(place, claim)
            if replayed is not None:
                return replayed
            await asyncio.to_thread(place.write_json, claim)
        try:
            async with _signs_of_life(place, claim):
                made = await make(name)
        except BaseException:
            await asyncio.shield(asyncio.to_thread(place.delete))
            raise
        content = {"fingerprint": asked, "status": status, "body": made.model_dump_json()}
        await asyncio.to_thread(place.write_json, content)
        return made

    async def _known(self, place: Location, claim: dict[str, Any]) -> Response | None:
        """What was answered before; None where whoever began is gone, or the claim is this one."""
        found = await asyncio.to_thread(try_read_json, place)
        if found is None or found.get("by") == claim["by"]:
            return None
        if found.get("fingerprint") != claim["fingerprint"]:
            raise Problem("key-used", "this Idempotency-Key came with another request before: take a new one")
        if "body" in found:
            return Response(
                str(found["body"]), int(str(found["status"])), {REPLAYED: "true"}, media_type="application/json"
            )
        if time.time() - float(str(found.get("since", 0))) < _SILENT_S:
            raise Problem("key-in-use", "this request is being answered: ask again in a moment", {"Retry-After": "3"})
        return None


@asynccontextmanager
async def _signs_of_life(place: Location, claim: dict[str, Any]) -> AsyncIterator[None]:
    """Show that the request is being answered, for as long as the block runs; nothing is written after it."""
    ended = asyncio.Event()

    async def beat() -> None:
        while not ended.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), _BEAT_S)
                return
            with suppress(UserError):  # the store is away: the next beat may reach it
                await asyncio.to_thread(place.write_json, {**claim, "since": time.time()})

    beating = asyncio.create_task(beat())
    try:
        yield
    finally:
        ended.set()
        await asyncio.shield(beating)


def _key(request: Request) -> str | None:
    given = request.headers.get(HEADER)
    if given is None:
        return None
    found = _KEY.fullmatch(given.strip())
    if found is None:
        what = "must be 8 to 128 letters, digits, or any of . _ : -"
        raise invalid(InvalidValue(where=f"header.{HEADER}", what=what))
    return found[1]


def _fingerprint(request: Request, form: Form) -> str:
    told = [request.method, request.url.path, request.url.query, *form.digests]
    told += [f"{name}={text}" for name, text in sorted(form.texts.items())]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()
