"""Spines one after another, beside a loop that stays free: whoever asks which models there are waits for no reading."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

from mskray.imaging.volumes import Volume
from mskray.serving.problems import too_busy
from mskray.serving.schemas.spines import Reached, SpineReading
from mskray.serving.spines import SpineReader


class SpineQueue:
    """A reader with a queue before it.

    Args:
        waiting: volumes that may wait; whoever sends more asks again.
        thread: one thread that reads them: a piece of the work whose client has gone ends before the next begins.
    """

    def __init__(self, reader: SpineReader, waiting: int, thread: ThreadPoolExecutor) -> None:
        self._reader, self._most, self._waiting = reader, waiting, 0
        self._turn, self._thread = asyncio.Lock(), thread

    async def read(self, volume: Volume, copies: int | None) -> AsyncIterator[Reached | SpineReading]:
        """As `SpineReader.read`, after those that came before. Raises Problem where too many wait."""
        if self._turn.locked() and self._waiting >= self._most:
            raise too_busy(f"{self._waiting} volumes wait already: ask again")
        self._waiting += 1
        try:
            await self._turn.acquire()
        finally:
            self._waiting -= 1
        try:
            said, loop = self._reader.read(volume, copies), asyncio.get_running_loop()
            while (each := await loop.run_in_executor(self._thread, next, said, None)) is not None:
                yield each
        finally:
            self._turn.release()
