"""Temporary folders of which none is left for ever: what a killed process had, the next one removes.

    with scratch("checkpoint") as folder:
        ...

A folder is locked for as long as its process lives. Locks hold between containers that share a disk, process ids do
not.
"""

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_YOUNG_SECONDS = 60.0
"""A folder may be this old before it is looked at: it is made first and locked then."""


@contextmanager
def scratch(what: str) -> Iterator[Path]:
    """Give an empty private folder, which is gone afterwards."""
    folder, remove = make_scratch(what)
    try:
        yield folder
    finally:
        remove()


def make_scratch(what: str) -> tuple[Path, Callable[[], None]]:
    """Return an empty private folder below TMPDIR and what removes it. Raises OSError where none can be made."""
    _tidy(what)
    folder = Path(tempfile.mkdtemp(prefix=_prefix(what)))
    handle = os.open(folder, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)

    def remove() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)

    return folder, remove


def _prefix(what: str) -> str:
    return f"mskray-{what}-"


def _tidy(what: str) -> None:
    """Remove folders of that name that no process holds; of other users none."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_prefix(what)}*"):
        try:
            if time.time() - folder.stat().st_mtime < _YOUNG_SECONDS:
                continue
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            pass
        finally:
            os.close(handle)
