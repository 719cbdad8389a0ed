"""So many studies at a time, so many that wait; the next one is refused at once, and nobody waits without end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mskray.serving.problems import too_busy, unavailable
from mskray.serving.settings import Limits


class Gate:
    """Holds `max_open`, `max_waiting` and `max_seconds` of the limits."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._free = asyncio.Semaphore(limits.max_open)
        self._waiting = 0

    @asynccontextmanager
    async def enter(self) -> AsyncIterator[None]:
        """Wait for a turn, then run the block.

        Raises:
            Problem: too many wait already, or the block has not ended `max_seconds` after the call.
        """
        if self._free.locked() and self._waiting >= self._limits.max_waiting:
            raise too_busy(f"{self._waiting} studies wait already: ask again")
        try:
            async with asyncio.timeout(self._limits.max_seconds):
                self._waiting += 1
                try:
                    await self._free.acquire()
                finally:
                    self._waiting -= 1
                try:
                    yield
                finally:
                    self._free.release()
        except TimeoutError:
            raise unavailable(f"no answer within {self._limits.max_seconds:g} s: ask again") from None
