"""A request that comes again with the same `Idempotency-Key` is answered as at first, and nothing is done twice.

    curl -H "Idempotency-Key: 4f1c…" -F views=@front.dcm localhost:8000/v1/studies

As in the IETF's draft "The Idempotency-Key HTTP Header Field": the same key with another content is refused, and so is
one whose request is being answered. Only answers are remembered, no errors: those may be mended by asking again; and no
answers of more than 64 MiB. A request that shows no sign of life for 12 s is answered anew, by one of those that
repeat it: who repeats it watches it on its own clock, as clocks of different machines are not compared.
"""

import asyncio
import hashlib
import itertools
import json
import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from fastapi import Request, Response

from mskray.errors import UserError
from mskray.serving.accounts import IDEMPOTENCY_KEY
from mskray.serving.beats import beating
from mskray.serving.forms import Form
from mskray.serving.problems import InvalidValue, Problem, invalid
from mskray.serving.schemas.common import Answer
from mskray.serving.store import Store, try_read_json
from mskray.storage import Location
from mskray.storage.locations import JSON_BYTES

REPLAYED = "Idempotency-Replayed"
_KEY = re.compile(r'"?([A-Za-z0-9._:-]{8,128})"?')
_BEAT_S, _SILENT_S, _LOOK_S = 3.0, 12.0, 0.5
"""Between two signs of life; after how long without one nobody is at work; between two looks for one."""
_MOST_TAKEOVERS = 100
_log = logging.getLogger("ray.serve")
A = TypeVar("A", bound=Answer)


class Once:
    """Answers by key.

    Args:
        store: where they are kept; None where nothing is.
    """

    def __init__(self, store: Store | None) -> None:
        self._keys = None if store is None else store.keys

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
        if self._keys is None:
            raise Problem("no-store", "keys are not remembered here: ask without, or start the server with --store")
        name = hashlib.sha256(f"{who}\n{key}".encode()).hexdigest()[:32]
        place, asked = self._keys.join(f"{name}.json"), _fingerprint(request, form)
        mine = {"fingerprint": asked, "by": uuid.uuid4().hex, "beat": 0}
        replayed = await _begin(place, mine)
        if replayed is not None:
            return replayed

        beats = itertools.count(1)

        async def beat() -> None:
            await asyncio.to_thread(place.write_json, {**mine, "beat": next(beats)})

        try:
            async with beating(_BEAT_S, beat):
                made = await make(name)
        except BaseException:
            await asyncio.shield(_let_go(place))
            raise
        await _remember(place, {"fingerprint": asked, "status": status, "body": made.model_dump_json()})
        return made


async def _begin(place: Location, mine: dict[str, Any]) -> Response | None:
    """What was answered before; None where this request is to be answered, and no other of this key is.

    Raises:
        Problem: the key was used for another request, or is in use.
    """
    if await asyncio.to_thread(place.create, json.dumps(mine).encode()):
        return None
    found = await asyncio.to_thread(try_read_json, place)
    if found is not None and found.get("by") == mine["by"]:
        return None  # the store lost its first word to `create`
    if found is not None and found.get("fingerprint") != mine["fingerprint"]:
        raise Problem("key-used", "this Idempotency-Key came with another request before: take a new one")
    if (answered := _answered(found)) is not None:
        return answered
    gone = found is None and not await asyncio.to_thread(place.is_file)  # let go of just now: the next one may begin
    if not gone:
        if await _is_silent(place, found):
            if await _take_over(place, found, mine):
                return None
        elif (answered := _answered(await asyncio.to_thread(try_read_json, place))) is not None:
            return answered
    raise Problem("key-in-use", "this request is being answered: ask again in a moment", {"Retry-After": "3"})


def _answered(found: dict[str, object] | None) -> Response | None:
    if found is None or "body" not in found:
        return None
    return Response(str(found["body"]), int(str(found["status"])), {REPLAYED: "true"}, media_type="application/json")


async def _is_silent(place: Location, found: dict[str, object] | None) -> bool:
    """Watch a claim: whether nothing is written in its place for so long that nobody is at work."""
    until = time.monotonic() + _SILENT_S
    while time.monotonic() < until:
        await asyncio.sleep(_LOOK_S)
        if await asyncio.to_thread(try_read_json, place) != found:
            return False
    return True


async def _take_over(place: Location, found: dict[str, object] | None, mine: dict[str, Any]) -> bool:
    """Whether, of all that saw a claim fall silent, this request goes on; `found` is what they saw.

    Each claim is followed by one: the right to do so is named after it. Who has the right and dies before it begins is
    followed likewise, when it was silent for as long.
    """
    stem, silent = place.uri.removesuffix(".json"), str((found or {}).get("by", "nobody"))
    for _ in range(_MOST_TAKEOVERS):
        right = Location(f"{stem}.takeover-{hashlib.sha256(silent.encode()).hexdigest()[:32]}")
        if await asyncio.to_thread(right.create, json.dumps(mine).encode()):
            break
        other = await asyncio.to_thread(try_read_json, right)
        if other is not None and other.get("by") == mine["by"]:
            break
        if not await _is_silent(place, found):
            return False
        silent = str((other or {}).get("by", f"{silent} and nobody"))
    else:
        return False
    if await asyncio.to_thread(try_read_json, place) != found:
        return False
    await asyncio.to_thread(place.write_json, mine)
    return True


async def _let_go(place: Location) -> None:
    try:
        await asyncio.to_thread(place.delete)
    except UserError as error:  # a repeat waits until the signs of life are old
        _log.error("a key cannot be let go: %s", error)


async def _remember(place: Location, content: dict[str, Any]) -> None:
    """Keep an answer. It is given also where that fails: what it says has been done."""
    try:
        written = await asyncio.to_thread(lambda: json.dumps(content).encode())
        if len(written) > JSON_BYTES:
            _log.warning("an answer of %d bytes is not remembered by its key", len(written))
            await asyncio.to_thread(place.delete)
        else:
            await asyncio.to_thread(place.write_bytes, written)
    except UserError as error:
        _log.error("an answer cannot be kept by its key: %s", error)


def _key(request: Request) -> str | None:
    given = request.headers.get(IDEMPOTENCY_KEY)
    if given is None:
        return None
    found = _KEY.fullmatch(given.strip())
    if found is None:
        what = "must be 8 to 128 letters, digits, or any of . _ : -"
        raise invalid(InvalidValue(where=f"header.{IDEMPOTENCY_KEY}", what=what))
    return found[1]


def _fingerprint(request: Request, form: Form) -> str:
    digests = form.digests or [file.digest for each in form.files.values() for file in each]
    told = [request.method, request.url.path, request.url.query, *digests]
    told += [f"{name}={text}" for name, text in sorted(form.texts.items())]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()
