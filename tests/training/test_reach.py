"""A folder that another node does not see is refused before anything is written there."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from mskray.cohorts.schema import MANIFEST

RAY = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--num-cpus=1"]
DRIVER = """
import sys, time, ray
from types import SimpleNamespace
from mskray.errors import UserError
from mskray.storage import locate
from mskray.training.reach import check_everywhere
ray.init(sys.argv[1], logging_level="ERROR")
deadline = time.monotonic() + 90
while sum(node["Alive"] for node in ray.nodes()) < 2 and time.monotonic() < deadline:
    time.sleep(0.5)
for out, cohort in zip(sys.argv[2::2], sys.argv[3::2]):
    try:
        check_everywhere(locate(out), SimpleNamespace(location=locate(cohort)))
        print("passes")
    except UserError as error:
        print(error)
"""


@contextmanager
def daemon(words: list[str]) -> Iterator[None]:
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def ports() -> list[str]:
    """Free ones: another cluster of this machine may hold the usual ones."""
    return [f"--{name}={free_port()}" for name in ("dashboard-agent-listen-port", "metrics-export-port")]


def wait_for(port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
            return
        time.sleep(0.5)
    raise AssertionError("the first node did not start")


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.own_cluster
@pytest.mark.timeout(300)
@pytest.mark.skipif(
    not shutil.which("unshare") or os.geteuid() != 0, reason="a second view of the disk takes unshare and root"
)
def test_a_folder_that_a_node_does_not_see_is_refused_and_nothing_is_left_in_others(tmp_path: Path) -> None:
    """Two nodes; the second has a file system of its own where the first has one of the folders."""
    alone, shared, bucket = tmp_path / "alone", tmp_path / "shared", "s3://bucket/elsewhere"
    for folder in (alone, shared):
        folder.mkdir()
        (folder / MANIFEST).touch()
    port = free_port()
    address = f"127.0.0.1:{port}"
    hidden = f'mount -t tmpfs none {alone} && exec "$@"'
    with ExitStack() as stack:
        stack.enter_context(
            daemon(
                [
                    *RAY,
                    *ports(),
                    "--head",
                    "--include-dashboard=false",
                    f"--port={port}",
                    f"--ray-client-server-port={free_port()}",
                ]
            )
        )
        wait_for(port)
        stack.enter_context(daemon(["unshare", "-m", "sh", "-c", hidden, "sh", *RAY, *ports(), f"--address={address}"]))
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                DRIVER,
                address,
                *map(str, (alone, bucket, bucket, alone, shared, shared, bucket, bucket)),
            ],
            capture_output=True,
            text=True,
            timeout=200,
        )
    assert done.returncode == 0, done.stderr
    of_out, of_cohort, *passed = done.stdout.splitlines()
    assert f"{alone} is a folder of this machine that node " in of_out
    assert f"{alone} is a folder of this machine that node " in of_cohort
    assert passed == ["passes", "passes"]
    assert [file.name for file in (*shared.iterdir(), *alone.iterdir())] == [MANIFEST] * 2
