"""Files that several rows need are read once."""

from threading import Barrier, Thread

import pytest

from mskray.cohorts.sources._shared import SharedFiles


def test_threads_share_one_reading():
    files = SharedFiles(100)
    barrier = Barrier(4)
    calls, results = [], []

    def read():
        calls.append(1)
        return b"x" * 60

    def ask():
        barrier.wait()
        results.append(files.get("a", read))

    threads = [Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [b"x" * 60] * 4
    assert len(calls) == 1


def test_only_the_last_files_are_kept_and_failures_are_not():
    files = SharedFiles(100)
    calls = []

    def read(name, size=60):
        def call():
            calls.append(name)
            if size < 0:
                raise OSError(name)
            return bytes(size)

        return call

    for name in ("a", "a", "b", "a", "b"):
        files.get(name, read(name))
    assert calls == ["a", "b", "a", "b"], "two of 60 bytes are more than 100"
    for _ in range(2):
        with pytest.raises(OSError, match="c"):
            files.get("c", read("c", -1))
    assert calls[4:] == ["c", "c"]
    assert files.get("b", read("b")) == bytes(60)
    assert calls[6:] == []
