"""Whoever is at work shows it, so that work whose replica died is begun again by another, and by one alone."""

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from mskray.errors import UserError
from mskray.storage import Location

_log = logging.getLogger("ray.serve")


@asynccontextmanager
async def beating(every_s: float, beat: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Await `beat` every so many seconds while the block runs; when it has ended, none is under way.

    A thread that writes cannot be cancelled: the beat is told to end, and its last write is waited for.
    """
    ended = asyncio.Event()

    async def beats() -> None:
        while not ended.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(every_s):
                    await ended.wait()
                return
            try:
                await beat()
            except UserError as error:  # the store is away: the next beat may reach it
                _log.error("a sign of life cannot be written: %s", error)

    task = asyncio.create_task(beats())
    try:
        yield
    finally:
        ended.set()
        await asyncio.shield(task)


def claim(place: Location) -> bool:
    """Whether, of all that claim this place, the caller has it. Blocks: call it in a thread."""
    mine = uuid.uuid4().hex.encode()
    # An object store can answer "there already" to the one who wrote it, where the first answer was lost.
    return place.create(mine) or place.read_bytes(len(mine)) == mine
