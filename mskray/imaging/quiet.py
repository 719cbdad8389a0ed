"""Silence for libraries that warn of every oddity of a file which they then read, or refuse with an exception.

One odd scanner would otherwise write a line for each of its 40,000 files into the log of every worker.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


class _Drop(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return False


_DROP = _Drop()


@contextmanager
def quiet(*loggers: str) -> Iterator[None]:
    """No Python warnings, and nothing from the loggers named, inside the block.

    Several threads may be inside at once: at worst one of them leaves early and a warning of another is seen.
    """
    silenced = [logging.getLogger(name) for name in loggers]
    for logger in silenced:
        logger.addFilter(_DROP)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger in silenced:
            logger.removeFilter(_DROP)
