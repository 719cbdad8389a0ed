"""`ray job submit` as the README says it, against a cluster that was started with token authentication."""

import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import requests

from infra.seaweedfs import ObjectStore
from mskray.bundles import read_description
from mskray.storage import Location

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Head:
    dashboard: str
    environment: dict[str, str]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def head(object_store: ObjectStore, tmp_path: Path) -> Iterator[Head]:
    """A Ray head of its own with a dashboard; it ends with its process group."""
    token = secrets.token_hex(32)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        **object_store.env,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "PATH": f"{BIN}:{os.environ['PATH']}",
    }
    dashboard = free_port()
    command = [str(BIN / "ray"), "start", "--head", "--block", "--num-cpus=2", "--node-ip-address=127.0.0.1"]
    # Every port is a free one: the session's other cluster holds the usual ones.
    names = ("port", "ray-client-server-port", "dashboard-agent-listen-port", "metrics-export-port")
    ports = [f"--dashboard-port={dashboard}", *(f"--{name}={free_port()}" for name in names)]
    log = (tmp_path / "head.log").open("w")
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
            assert process.poll() is None, (tmp_path / "head.log").read_text()[-3000:]
            assert time.monotonic() < deadline, (tmp_path / "head.log").read_text()[-3000:]
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


def submit(head: Head, words: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess:
    command = [str(BIN / "ray"), "job", "submit", "--address", head.dashboard, "--working-dir", ".", "--", *words]
    deadline = time.monotonic() + 120
    while True:
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=800)
        # The head answers some seconds before its job agent does.
        if "No available agent" not in done.stderr + done.stdout or time.monotonic() > deadline:
            return done
        time.sleep(2)


def test_a_submitted_job_trains_a_bundle_and_strangers_are_refused(
    head: Head, s3_folder: Location, tmp_path: Path
) -> None:
    stranger = {**head.environment, "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    refused = submit(head, ["python", "--version"], stranger)
    assert refused.returncode != 0
    assert "token" in (refused.stdout + refused.stderr).lower()

    cohort, out = s3_folder.join("cohort"), s3_folder.join("bundle")
    options = ["--size", "64", "--split-fractions", "0.6,0.2,0.2", "patients=40", "image_size=96"]
    made = submit(head, ["python", "jobs/ingest.py", "phantom", "--out", str(cohort), *options], head.environment)
    assert made.returncode == 0, made.stdout[-3000:] + made.stderr[-3000:]

    config = tmp_path / "job.yaml"
    config.write_text(
        json.dumps(
            {
                "family": "classifier",
                "cohort": str(cohort),
                "out": "bundles/lost",
                "network": {"backbone": "mobilenet_v3_small", "weights": "none"},
                "data": {"image_size": 64, "batch_size": 8},
                "loop": {"epochs": 1},
            }
        )
    )
    lost = submit(head, ["python", "jobs/train.py", str(config)], head.environment)
    assert lost.returncode != 0
    assert "error: bundles/lost would be lost" in lost.stdout + lost.stderr

    done = submit(head, ["python", "jobs/train.py", str(config), f"out={out}"], head.environment)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "epoch 1/1" in done.stdout
    assert len(read_description(out).history) == 1
