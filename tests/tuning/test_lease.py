"""Two commands on one search: the second is refused while the first gives signs, and takes over when it does not."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from mskray.errors import UserError
from mskray.progress import silent
from mskray.storage import Location, locate
from mskray.tuning import lease as module
from mskray.tuning.lease import SIGN, lease


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Location:
    monkeypatch.setattr(module, "_BEAT_S", 0.3)
    monkeypatch.setattr(module, "_SILENT_S", 4.0)
    return locate(tmp_path)


def sign(folder: Location, host: str, pid: int) -> None:
    folder.join(SIGN).write_json({"host": host, "pid": pid, "beat": 7})


def test_it_is_given_back(folder: Location) -> None:
    for _ in range(2):
        with lease(folder, silent):
            time.sleep(1.0)
            assert folder.join(SIGN).read_json()["beat"] >= 1
        assert not folder.join(SIGN).is_file()


def test_another_machine_that_is_silent_is_followed(folder: Location) -> None:
    sign(folder, "elsewhere", 1)
    said: list[str] = []
    began = time.monotonic()
    with lease(folder, lambda progress: said.append(str(progress))):
        assert time.monotonic() - began >= 4.0
    assert "process 1 on elsewhere worked on this search: waiting 4 s" in said[0]


def test_a_process_of_this_machine_that_is_gone_is_followed_at_once(folder: Location) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    sign(folder, module.socket.gethostname(), gone.pid)
    began = time.monotonic()
    with lease(folder, silent):
        assert time.monotonic() - began < 2.0


def test_a_command_that_is_at_work_is_left_alone(folder: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    with lease(folder, silent):
        monkeypatch.setattr(module.os, "getpid", lambda: 1)  # the second is another process
        with (
            pytest.raises(UserError, match=r"process \d+ on .* works on the search .*: wait until it ends, or stop it"),
            lease(folder, silent),
        ):
            raise AssertionError("two at once")
        assert folder.join(SIGN).is_file()


def test_a_damaged_sign_holds_nobody_up(folder: Location) -> None:
    folder.join(SIGN).write_bytes(b"{")
    with lease(folder, silent):
        pass
