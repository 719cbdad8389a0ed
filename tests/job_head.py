"""A Ray head of its own with a dashboard, as jobs are submitted to; it ends with its process group."""

import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import requests

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Head:
    """A head.

    Args:
        dashboard: its URL.
        environment: variables with which commands may ask it: its token, and those of the object store.
    """

    dashboard: str
    environment: dict[str, str]

    @property
    def token(self) -> str:
        return self.environment["RAY_AUTH_TOKEN"]


@contextmanager
def job_head(folder: Path, more: Mapping[str, str]) -> Iterator[Head]:
    """Start a head with token authentication.

    Args:
        folder: of its log.
        more: variables of its jobs, such as the object store's.
    """
    token = secrets.token_hex(32)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        **more,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "PATH": f"{BIN}:{os.environ['PATH']}",
    }
    dashboard = _free_port()
    command = [str(BIN / "ray"), "start", "--head", "--block", "--num-cpus=2", "--node-ip-address=127.0.0.1"]
    # Every port is a free one: the session's other cluster holds the usual ones.
    names = ("port", "ray-client-server-port", "dashboard-agent-listen-port", "metrics-export-port")
    ports = [f"--dashboard-port={dashboard}", *(f"--{name}={_free_port()}" for name in names)]
    told = folder / "head.log"
    log = told.open("w")
    process = subprocess.Popen([*command, *ports], env=environment, stdout=log, stderr=log, start_new_session=True)
    url = f"http://127.0.0.1:{dashboard}"
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                if requests.get(f"{url}/api/version", headers={"Authorization": f"Bearer {token}"}, timeout=5).ok:
                    break
            except requests.RequestException:
                pass
            assert process.poll() is None, told.read_text()[-3000:]
            assert time.monotonic() < deadline, told.read_text()[-3000:]
            time.sleep(1)
        yield Head(url, environment)
    finally:
        # `ray stop` would stop every cluster of this machine; these are the processes of this one.
        started = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        psutil.wait_procs([*started, process], timeout=5)
        for each in started:
            if each.is_running():
                each.kill()
        process.kill()
        process.wait(timeout=30)
        log.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
