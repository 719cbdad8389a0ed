"""Threads for arithmetic on arrays: as many as BLAS would take, each of which calls BLAS without threads of its own.

    with blas_threads() as many:
        parts = list(many.map(function, blocks))

BLAS spreads a matrix product alone; what stands around it, such as the search for the smallest of each row, lets go of
Python's lock too. Where BLAS has one thread, as in Ray's tasks of one CPU, everything runs in the caller's.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from threading import Lock
from typing import Any, TypeVar

from threadpoolctl import ThreadpoolController

T = TypeVar("T")
_ALONE = Lock()
"""The number of BLAS's threads is the process's: who finds it changed would put it back wrong."""


@dataclass(frozen=True)
class Threads:
    """How many there are, and their pool, None for the caller's own."""

    number: int
    pool: ThreadPoolExecutor | None = None

    def map(self, function: Callable[[Any], T], items: Iterable[Any]) -> Iterator[T]:
        """The function's results, in the order of the items; a thread for each at most."""
        return self.pool.map(function, items) if self.pool else map(function, items)


@contextmanager
def blas_threads() -> Iterator[Threads]:
    """Give as many threads as BLAS has, and BLAS one meanwhile."""
    with _ALONE:
        libraries = [each for each in _controller().info() if each["user_api"] == "blas"]
        number = max((each["num_threads"] for each in libraries), default=1)
        if number == 1:
            yield Threads(1)
            return
        with _controller().limit(limits=1, user_api="blas"), ThreadPoolExecutor(number) as pool:
            yield Threads(number, pool)


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()
