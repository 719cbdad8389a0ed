"""One command at a time works on a search: the one that does gives a sign of life in the search's folder.

    with lease(folder, report):
        …

Another that finds the sign waits until it has seen a new one, and is refused, or has seen none for some time, and takes
over: clocks of different machines are not compared. On one machine a process that is gone is known to be.
"""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread
from typing import Any

from mskray.errors import UserError
from mskray.progress import Progress, Report
from mskray.storage import Location

SIGN = "driver.json"
_BEAT_S, _SILENT_S = 10.0, 35.0


@contextmanager
def lease(folder: Location, report: Report) -> Iterator[None]:
    """Hold a search's folder. Raises UserError where another command is at work on it."""
    place, me = folder.join(SIGN), {"host": socket.gethostname(), "pid": os.getpid()}
    _await_silence(place, me, report)
    place.write_json({**me, "beat": 0})
    ended = Event()

    def beat() -> None:
        number = 0
        while not ended.wait(_BEAT_S):
            number += 1
            with suppress(UserError, OSError):  # what does not work now may work at the next
                place.write_json({**me, "beat": number})

    thread = Thread(target=beat, name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        with suppress(UserError, OSError):
            place.delete()


def _await_silence(place: Location, me: dict[str, Any], report: Report) -> None:
    first = _read(place)
    if first is None or _is_gone(first, me):
        return
    who = f"process {first.get('pid')} on {first.get('host')}"
    report(Progress(f"{who} worked on this search: waiting {_SILENT_S:.0f} s for a sign of it"))
    until = time.monotonic() + _SILENT_S
    while time.monotonic() < until:
        time.sleep(1.0)
        now = _read(place)
        if now is None:
            return
        if now != first:
            raise UserError(f"{who} works on the search {place.uri.removesuffix(SIGN)}: wait until it ends, or stop it")


def _read(place: Location) -> dict[str, Any] | None:
    """The sign, None where none can be read."""
    try:
        found = place.read_json()
    except (UserError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _is_gone(sign: dict[str, Any], me: dict[str, Any]) -> bool:
    """Whether it is of a process of this machine that has ended; a container's first process is always number 1."""
    if sign.get("host") != me["host"]:
        return False
    try:
        pid = int(sign.get("pid", 0))
        os.kill(pid, 0)
    except (ProcessLookupError, TypeError, ValueError):
        return True
    except PermissionError:
        return False
    return pid == me["pid"]
