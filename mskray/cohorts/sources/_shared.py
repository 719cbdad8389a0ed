"""Files that several rows need: read once, though several threads ask for them at the same time, and travel as one.

A volume gives six discs, and a row of a shard is a disc. Rows of a volume follow each other, so that keeping the files
read last is enough; they are kept by what identifies their content, so that a later ingest never sees old bytes.
"""

import json
from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import Future
from threading import Lock

from mskray.imaging.decode import DecodeLimits
from mskray.storage import Location


def read_files(root: Location, paths: Iterable[str], most_bytes: int = DecodeLimits().max_bytes) -> bytes:
    """Read files, `most_bytes` together at most, into what `named_files` takes apart."""
    found: list[tuple[str, bytes]] = []
    for path in paths:
        found.append((path, root.join(path).read_bytes(max_bytes=most_bytes)))
        most_bytes -= len(found[-1][1])
    return as_one(found)


def as_one(files: Iterable[tuple[str, bytes]]) -> bytes:
    """Files one after the other, after a line of JSON with their names and lengths."""
    given = list(files)
    head = json.dumps([[name, len(content)] for name, content in given]).encode()
    return b"".join([head, b"\n", *(content for _, content in given)])


def named_files(data: bytes) -> list[tuple[str, bytes]]:
    """Take apart what `as_one` has put together."""
    place = data.index(b"\n") + 1
    files = []
    for name, length in json.loads(data[:place]):
        files.append((name, data[place : place + length]))
        place += length
    return files


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
