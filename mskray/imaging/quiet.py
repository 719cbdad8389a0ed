"""Silence for libraries that warn of every oddity of a file which they then read, or refuse with an exception.

One odd scanner would otherwise write a line for each of its 40,000 files into the log of every worker.
"""

import logging
import threading
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

_WARNINGS = "warnings"

_lock = threading.Lock()
_inside: Counter[str] = Counter()
_undo: dict[str, ExitStack] = {}


@contextmanager
def quiet(*loggers: str) -> Iterator[None]:
    """No Python warnings, and no log lines of the libraries whose loggers are named, inside the block.

    Warning filters and loggers belong to the whole process: of several threads inside, the first to enter silences
    them and the last to leave gives them back. Handlers that someone put on such a logger itself are still served.
    """
    with _lock:
        for name in (_WARNINGS, *loggers):
            _inside[name] += 1
            if _inside[name] == 1:
                _undo[name] = _silence(name)
    try:
        yield
    finally:
        with _lock:
            for name in (_WARNINGS, *loggers):
                _inside[name] -= 1
                if _inside[name] == 0:
                    _undo.pop(name).close()


def _silence(name: str) -> ExitStack:
    undo = ExitStack()
    if name == _WARNINGS:
        undo.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        return undo
    logger = logging.getLogger(name)
    undo.callback(setattr, logger, "propagate", logger.propagate)
    logger.propagate = False
    if not logger.handlers:  # else Python's handler of last resort would print
        logger.addHandler(logging.NullHandler())
    return undo
