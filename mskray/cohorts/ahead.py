"""Reading ahead in threads, with a bound: objects arrive while others are decoded, and memory stays flat."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Given = TypeVar("Given")
Made = TypeVar("Made")


def ahead(function: Callable[[Given], Made], values: Iterable[Given], threads: int, most: int) -> Iterator[Made]:
    """Yield `function(value)` in the order of values, computed in threads; at most `most` results wait at a time.

    What `function` raises is raised when its turn comes.
    """
    waiting: deque[Future[Made]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for value in values:
                waiting.append(pool.submit(function, value))
                if len(waiting) >= most:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
