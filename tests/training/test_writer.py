"""Writing checkpoints behind the training's back: one at a time, again where the store is away, one line at the end."""

import errno
import threading
import time
from pathlib import Path

import pytest

from mskray.errors import Fault, UserError
from mskray.storage import locate
from mskray.training.shelf import Shelf
from mskray.training.writer import Writer

FILES = {"weights.safetensors": b"w", "optimizer.pt": b"o", "position.json": b"{}"}


class Away(Shelf):
    """Of a store that fails a number of times; `gate` holds writes up."""

    def __init__(self, folder: Path, times: int, error: Exception | None = None) -> None:
        super().__init__(locate(folder))
        self.times, self.error, self.gate = times, error or Fault("no answer from the store"), threading.Event()
        self.gate.set()

    def put(self, *given, **more):
        self.gate.wait(10)
        if self.times:
            self.times -= 1
            raise self.error
        return super().put(*given, **more)


def test_training_goes_on_and_the_next_write_waits_for_the_former(tmp_path: Path) -> None:
    shelf, order = Away(tmp_path, 0), list[str]()
    shelf.gate.clear()
    writer = Writer(shelf, order.append)
    writer.put(1, 0, 0.5, lambda: FILES, lambda: order.append("stored 1"))
    order.append("training")
    threading.Timer(0.2, shelf.gate.set).start()
    writer.put(2, 0, 0.5, lambda: FILES, lambda: order.append("stored 2"))
    writer.wait()
    assert order == ["training", "stored 1", "stored 2"]
    assert not writer.failed


def test_a_store_that_is_away_for_a_while_is_told_once_and_stops_nothing(tmp_path: Path) -> None:
    said, stored = list[str](), list[int]()
    writer = Writer(Away(tmp_path, 3), said.append, again_s=0.01)
    writer.put(1, 0, 0.5, lambda: FILES, lambda: stored.append(1))
    writer.wait()
    assert (stored, writer.failed) == ([1], "")
    assert said == ["a checkpoint cannot be written for now, it is tried again: no answer from the store"]


def test_whoever_leaves_has_nothing_tried_again(tmp_path: Path) -> None:
    shelf = Away(tmp_path, 10**6)
    writer = Writer(shelf, lambda line: None, again_s=60.0)
    writer.put(1, 0, 0.5, lambda: FILES, lambda: None)
    began = time.monotonic()
    writer.leave(0.2)
    writer.wait(30)
    assert time.monotonic() - began < 30
    assert shelf.times >= 10**6 - 2
    assert "no answer from the store" in writer.failed


def test_patience_ends(tmp_path: Path) -> None:
    stored = list[int]()
    writer = Writer(Away(tmp_path, 10**6), lambda line: None, patience_s=0.2, again_s=0.01)
    began = time.monotonic()
    writer.put(1, 0, 0.5, lambda: FILES, lambda: stored.append(1))
    writer.wait()
    assert time.monotonic() - began < 10
    assert writer.failed == "no answer from the store; the same command goes on from the last checkpoint"
    writer.put(2, 0, 0.5, lambda: FILES, lambda: stored.append(2))
    assert not stored


def test_what_is_wrong_with_the_run_is_not_tried_again(tmp_path: Path) -> None:
    shelf = Away(tmp_path, 1, UserError("no permission"))
    writer = Writer(shelf, pytest.fail)
    writer.put(1, 0, 0.5, lambda: FILES, lambda: None)
    writer.wait()
    assert (writer.failed, shelf.times) == ("no permission", 0)


def test_a_full_disk_is_one_line_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the storage raises it for `No space left on device`."""
    writer = Writer(Shelf(locate(tmp_path)), pytest.fail)

    def full(*given: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("mskray.storage.local.os.fsync", full)
    writer.put(1, 0, 0.5, lambda: FILES, lambda: None)
    writer.wait()
    assert "No space left on device" in writer.failed
    assert writer.failed.endswith("the same command goes on from the last checkpoint")
    assert "\n" not in writer.failed


def test_a_defect_is_not_swallowed(tmp_path: Path) -> None:
    writer = Writer(Shelf(locate(tmp_path)), pytest.fail)
    writer.put(1, 0, 0.5, lambda: {}["nothing"], lambda: None)
    writer.wait()
    assert writer.failed == "a checkpoint could not be written (KeyError: 'nothing')"
