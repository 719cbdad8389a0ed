"""`ray job submit` as the README says it, against a cluster that was started with token authentication."""

import json
import secrets
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from job_head import BIN, ROOT, Head, job_head

from infra.seaweedfs import ObjectStore
from mskray.bundles import read_description
from mskray.storage import Location

pytestmark = [pytest.mark.own_cluster, pytest.mark.slow, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def head(object_store: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    with job_head(tmp_path_factory.mktemp("head"), object_store.env) as started:
        yield started


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
