"""Work that was accepted waits for what is busy, starting or away, rather than fail."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from mskray.errors import Fault
from mskray.serving.problems import Problem

_LONGEST_S = 3600.0
_PAUSES_S = (1.0, 30.0)
"""The first and the longest between two attempts, unless the problem says how long to wait."""
_LATER = ("too-busy", "unavailable")
_log = logging.getLogger("ray.serve")
T = TypeVar("T")


async def patiently(act: Callable[[], Awaitable[T]]) -> T:
    """Return what `act` returns, tried again for an hour while models are busy or the store is away.

    Raises:
        Problem: of the server, after that hour; any other at once.
        Fault: the store is away for that hour.
    """
    deadline, pause = time.monotonic() + _LONGEST_S, _PAUSES_S[0]
    while True:
        try:
            return await act()
        except Problem as problem:
            if problem.kind not in _LATER or time.monotonic() >= deadline:
                raise
            stated = (problem.headers or {}).get("Retry-After", "")
            wait = float(stated) if stated.isdecimal() else pause
        except Fault as error:
            if time.monotonic() >= deadline:
                raise
            _log.error("work waits for what is away: %s", error)
            wait = pause
        await asyncio.sleep(min(wait, _PAUSES_S[1]))
        pause = min(2 * pause, _PAUSES_S[1])
