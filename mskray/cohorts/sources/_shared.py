"""Files that several rows need: read once, though several threads ask for them at the same time.

A volume gives six discs, and a row of a shard is a disc. Rows of a volume follow each other, so that keeping the files
read last is enough; they are kept by what identifies their content, so that a later ingest never sees old bytes.
"""

from collections.abc import Callable, Hashable
from concurrent.futures import Future
from threading import Lock


class SharedFiles:
    """Keeps what was read last, up to `most_bytes` together; what is being read is not counted."""

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._lock = Lock()
        self._kept: dict[Hashable, Future[bytes]] = {}

    def get(self, key: Hashable, read: Callable[[], bytes]) -> bytes:
        """Return what `read` gave for this key. What it raises, all raise who wait for it; the next one reads again."""
        with self._lock:
            future = self._kept.pop(key, None)
            reads = future is None
            future = future or Future()
            self._kept[key] = future  # the last one is the youngest
        if reads:
            try:
                future.set_result(read())
            except BaseException as error:
                with self._lock:
                    self._kept.pop(key, None)
                future.set_exception(error)
            self._drop()
        return future.result()

    def _drop(self) -> None:
        with self._lock:
            done = {key: len(each.result()) for key, each in self._kept.items() if each.done() and not each.exception()}
            total = sum(done.values())
            for key, size in done.items():
                if total <= self._most:
                    break
                del self._kept[key]
                total -= size
