"""The local object store: open to its own keys alone, and gone when whoever started it is gone."""

import os
import re
import signal
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra import seaweedfs
from mskray.storage import locate

SCRIPT = Path(seaweedfs.__file__)

pytestmark = pytest.mark.skipif(not Path("/proc/self").exists(), reason="reads /proc")


@pytest.fixture
def running(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, str(SCRIPT), "--dir", str(tmp_path / "store")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    yield process
    process.kill()
    process.wait()


def weed_of(folder: Path) -> dict[int, str]:
    """Process id and command line of each weed that works in `folder`."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_text().replace("\0", " ")
        except OSError:
            continue
        if f"-dir={folder}/store/data" in command and "--guard" not in command:
            found[int(process.name)] = command
    return found


def exports(process: "subprocess.Popen[str]") -> dict[str, str]:
    assert process.stdout is not None
    variables: dict[str, str] = {}
    for line in process.stdout:
        if line.startswith("#"):
            return variables
        name, _, value = line.removeprefix("export ").strip().partition("=")
        variables[name] = value
    raise AssertionError("the store ended before it was ready")


@pytest.mark.slow
def test_it_dies_with_its_parent_and_keeps_its_data(
    running: "subprocess.Popen[str]", tmp_path: Path, aws_nothing: pytest.MonkeyPatch
) -> None:
    env = exports(running)
    for name, value in env.items():
        aws_nothing.setenv(name, value)
    locate("s3://mskray/kept").write_bytes(b"kept")
    ((_, command),) = weed_of(tmp_path).items()

    assert stat.S_IMODE((tmp_path / "store/s3.json").stat().st_mode) == 0o600
    assert env["AWS_SECRET_ACCESS_KEY"] not in command
    for server, status in (("filer", 401), ("s3", 403)):
        port = re.search(rf"-{server}\.port=(\d+)", command)
        assert port is not None
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(f"http://127.0.0.1:{port[1]}/mskray/kept", timeout=10)
        assert error.value.code == status

    os.kill(running.pid, signal.SIGKILL)
    for _ in range(100):
        if not weed_of(tmp_path):
            break
        time.sleep(0.1)
    assert weed_of(tmp_path) == {}

    with seaweedfs.start_object_store(tmp_path / "store") as again:
        for name, value in again.env.items():
            aws_nothing.setenv(name, value)
        assert locate("s3://mskray/kept").read_bytes() == b"kept"
        assert again.create_bucket("mskray") == "s3://mskray"
    assert weed_of(tmp_path) == {}


@pytest.mark.slow
def test_ctrl_c_stops_it_in_order(running: "subprocess.Popen[str]", tmp_path: Path) -> None:
    exports(running)
    running.send_signal(signal.SIGINT)
    assert running.wait(20) == 0
    assert weed_of(tmp_path) == {}


@pytest.mark.slow
def test_it_starts_elsewhere_when_another_program_takes_a_port(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, object_store: seaweedfs.ObjectStore
) -> None:
    choose = seaweedfs._free_ports
    tries: list[dict[str, int]] = []

    def clash_once(port: int | None, host: str) -> dict[str, int]:
        tries.append(choose(port, host) | ({} if tries else {"filer": object_store.port}))
        return tries[-1]

    monkeypatch.setattr(seaweedfs, "_free_ports", clash_once)
    with seaweedfs.start_object_store(tmp_path / "store") as store:
        assert store.port == tries[-1]["s3"]
    assert len(tries) == 2


def test_a_store_that_cannot_start_shows_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seaweedfs, "_weed_command", lambda *_: ["sh", "-c", "echo no such disk; exit 1"])
    with (
        pytest.raises(RuntimeError, match=r"did not start; the end of .*weed\.log:\nno such disk"),
        seaweedfs.start_object_store(tmp_path),
    ):
        pass
