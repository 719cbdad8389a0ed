"""The hosts themselves: what is cut off hears nothing, what is lost is gone, and nothing of them outlives the test."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hosts import Host, Switch, why_not

ASKS = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1], timeout=2).status)"
BUILDS = """
import sys, time
from pathlib import Path
from hosts import Switch
switch = Switch(Path(sys.argv[1])).__enter__()
host = switch.host("one")
host.popen(["sleep", "1000"])
print(switch.name, switch._process.pid, host.pid, flush=True)
time.sleep(1000)
"""


@pytest.fixture(scope="module")
def switch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Switch]:
    if reason := why_not():
        pytest.skip(reason)
    with Switch(tmp_path_factory.mktemp("switch")) as made:
        yield made


@pytest.fixture(scope="module")
def pair(switch: Switch) -> tuple[Host, Host]:
    return switch.host("one"), switch.host("two")


def asks(host: Host, url: str) -> bool:
    try:
        return host.run([sys.executable, "-c", ASKS, url], timeout=20).stdout == "200\n"
    except AssertionError:
        return False


def serves(host: Host) -> None:
    """Have it answer on port 80 of its own network."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    host.popen([sys.executable, "-m", "http.server", "80", "--directory", "/dev/shm"], **quiet)
    listening = "import socket, sys; socket.create_connection(('127.0.0.1', 80), 1)"
    deadline = time.monotonic() + 20
    while subprocess.run(host.command([sys.executable, "-c", listening]), stderr=subprocess.DEVNULL).returncode:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_cable_is_pulled_and_put_back(pair: tuple[Host, Host]) -> None:
    one, two = pair
    serves(two)
    assert asks(one, "http://two"), "by name"
    assert asks(two, f"http://{two.address}")
    two.cut()
    assert not asks(one, "http://two")
    two.plug()
    assert asks(one, "http://two")


def test_a_lost_host_is_gone_but_for_its_disk(pair: tuple[Host, Host]) -> None:
    one, two = pair
    two.run(["sh", "-c", "echo kept > /tmp/disk; echo gone > /dev/shm/memory"], timeout=10)
    sleeping = two.popen(["sleep", "1000"])
    two.lose()
    assert sleeping.wait(10) != 0
    assert not asks(one, "http://two")
    two.boot()
    assert two.run(["sh", "-c", "cat /tmp/disk; ls /dev/shm; hostname"], timeout=10).stdout == "kept\ntwo\n"
    serves(two)
    assert asks(one, "http://two")


def test_a_host_has_its_own_processes_and_tmp_and_a_disk_that_all_share(
    switch: Switch, pair: tuple[Host, Host]
) -> None:
    one, two = pair
    one.run(["sh", "-c", f"echo one > /tmp/mine; echo all > {switch.small}/ours"], timeout=10)
    seen = two.run(["sh", "-c", f"ls /tmp/mine 2>&1; cat {switch.small}/ours; ps -e | wc -l"], timeout=10).stdout
    lost, shared, processes = seen.splitlines()
    assert "No such file" in lost
    assert shared == "all"
    assert (switch.small_here / "ours").read_text() == "all\n"
    assert int(processes) < 12


def test_a_command_ends_with_what_runs_it(pair: tuple[Host, Host]) -> None:
    running = pair[0].popen(["sleep", "4711"])
    seen = ["sh", "-c", "ps -e -o args | grep -c '^sleep 4711' || true"]
    deadline = time.monotonic() + 10
    while pair[0].run(seen, timeout=10).stdout != "1\n":
        assert time.monotonic() < deadline
    running.kill()
    running.wait(10)
    while pair[0].run(seen, timeout=10).stdout != "0\n":
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.usefixtures("switch")
def test_nothing_outlives_a_test_that_is_killed(tmp_path: Path) -> None:
    """By SIGKILL, of which no program hears."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-c", BUILDS, str(tmp_path)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as building:
        assert building.stdout is not None
        name, *pids = building.stdout.readline().split()
        assert Path(f"/sys/class/net/{name}").exists()
        building.kill()
    deadline = time.monotonic() + 20
    while Path(f"/sys/class/net/{name}").exists() or any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.1)
