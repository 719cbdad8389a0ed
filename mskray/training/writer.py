"""Writes a run's checkpoints behind the training's back, on rank 0.

A store that is away for a while stops nothing: the write is tried again, which is told once, and the training goes on
until the next checkpoint is due, which waits for this one. What cannot pass, a full disk or a denied write, ends the
training with one line; what was stored before stays.
"""

import errno
import threading
import time
from collections.abc import Callable, Mapping

from mskray.errors import Fault, UserError
from mskray.training.shelf import Shelf, Tell

# A store that is replaced is back within it. The ranks that wait meanwhile must not give up (`group.GROUP_TIMEOUT`).
PATIENCE_S = 600.0
_AGAIN_S = 5.0
_LASTING = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR}

Make = Callable[[], Mapping[str, bytes]]


class Writer:
    """One write at a time.

    Args:
        tell: hears of a write that fails and is tried again.
    """

    def __init__(self, shelf: Shelf, tell: Tell, patience_s: float = PATIENCE_S, again_s: float = _AGAIN_S) -> None:
        self._shelf, self._tell = shelf, tell
        self._patience, self._again = patience_s, again_s
        self._thread: threading.Thread | None = None
        self._left = threading.Event()
        self.failed = ""
        """Why the training cannot go on; one line."""

    def put(self, epoch: int, step: int, score: float | None, make: Make, stored: Callable[[], None]) -> None:
        """Wait for the write before this one, then begin this one and return.

        Args:
            make: returns the files, in the writer's thread: what it holds must not change any more.
            stored: called when the checkpoint is on the storage.
        """
        self.wait()
        if self.failed:
            return

        def write() -> None:
            try:
                self._write(epoch, step, score, make())
                stored()
            except UserError as error:
                self.failed = str(error)
            except Exception as error:  # in a thread nobody would hear of it
                self.failed = f"a checkpoint could not be written ({type(error).__name__}: {error})"

        self._thread = threading.Thread(target=write, name="checkpoint-writer", daemon=True)
        self._thread.start()

    def wait(self, seconds: float | None = None) -> None:
        """Wait until nothing is being written, or for so long."""
        if self._thread is not None:
            self._thread.join(seconds)
            if not self._thread.is_alive():
                self._thread = None

    def leave(self, seconds: float) -> None:
        """Wait until nothing is being written, or for so long; what has failed by then is not tried again."""
        self.wait(seconds)
        self._left.set()

    def _write(self, epoch: int, step: int, score: float | None, files: Mapping[str, bytes]) -> None:
        give_up, told = time.monotonic() + self._patience, False
        while True:
            try:
                self._shelf.put(epoch, step, score, files)
                return
            except Fault as error:
                if _lasts(error) or self._left.is_set() or time.monotonic() >= give_up:
                    raise type(error)(f"{error}; the same command goes on from the last checkpoint") from error
                if not told:
                    self._tell(f"a checkpoint cannot be written for now, it is tried again: {error}")
                    told = True
                self._left.wait(self._again)


def _lasts(error: Fault) -> bool:
    """Whether trying again is in vain: a disk of this machine is full, or not to be written to."""
    cause = error.__cause__
    return isinstance(cause, OSError) and cause.errno in _LASTING
