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
from uuid import uuid4

import psutil
import pytest
import requests

from infra.seaweedfs import ObjectStore
from mskray.bundles import read_description
from mskray.storage import Location

pytestmark = [pytest.mark.own_cluster, pytest.mark.slow, pytest.mark.timeout(1500)]

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


@pytest.fixture(scope="module")
def head(object_store: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
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
    told = tmp_path_factory.mktemp("head") / "head.log"
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


def submit(head: Head, job: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess:
    command = [str(BIN / "ray"), "job", "submit", "--address", head.dashboard, "--working-dir", ".", "--", *job]
    deadline = time.monotonic() + 120
    while True:
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=800)
        # The head answers some seconds before its job agent does, and on a busy machine not every time.
        words = ("No available agent", "Failed to connect to Ray")
        if not any(each in done.stderr + done.stdout for each in words) or time.monotonic() > deadline:
            return done
        time.sleep(2)


@pytest.fixture(scope="module")
def cohort(head: Head, object_store: ObjectStore) -> str:
    """A cohort that a submitted job built."""
    place = f"s3://{object_store.bucket}/{uuid4().hex}/cohort"
    options = ["--size", "64", "--split-fractions", "0.6,0.2,0.2", "patients=40", "image_size=96"]
    made = submit(head, ["python", "jobs/ingest.py", "phantom", "--out", place, *options], head.environment)
    assert made.returncode == 0, made.stdout[-3000:] + made.stderr[-3000:]
    return place


@pytest.fixture
def config(cohort: str, tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    job = {
        "family": "classifier",
        "cohort": cohort,
        "out": "bundles/lost",
        "network": {"backbone": "mobilenet_v3_small", "weights": "none"},
        "data": {"image_size": 64, "batch_size": 8},
        "loop": {"epochs": 1},
    }
    path.write_text(json.dumps(job))
    return path


def test_strangers_are_refused(head: Head) -> None:
    stranger = {**head.environment, "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    refused = submit(head, ["python", "--version"], stranger)
    assert refused.returncode != 0
    assert "token" in (refused.stdout + refused.stderr).lower()


def test_a_submitted_job_tells_what_would_be_lost(head: Head, config: Path) -> None:
    lost = submit(head, ["python", "jobs/train.py", str(config)], head.environment)
    assert lost.returncode != 0
    assert "error: bundles/lost would be lost" in lost.stdout + lost.stderr


@pytest.mark.long
def test_a_submitted_job_trains_a_bundle(head: Head, config: Path, s3_folder: Location) -> None:
    out = s3_folder.join("bundle")
    done = submit(head, ["python", "jobs/train.py", str(config), f"out={out}"], head.environment)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "epoch 1/1" in done.stdout
    assert len(read_description(out).history) == 1
