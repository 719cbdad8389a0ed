"""`mskray submit` as the README says it, against a head with a dashboard and a token."""

import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from job_head import Head, job_head

from infra.seaweedfs import ObjectStore
from mskray.cohorts import open_cohort
from mskray.storage import Location

pytestmark = [pytest.mark.own_cluster, pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(1500)]

PHANTOMS = ["--size", "64", "--split-fractions", "0.6,0.2,0.2", "image_size=96"]


@pytest.fixture(scope="module")
def head(object_store: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    with job_head(tmp_path_factory.mktemp("head"), object_store.env) as started:
        yield started


def command(head: Head, *words: str) -> list[str]:
    verb, *rest = words
    if verb == "jobs":
        return [sys.executable, "-m", "mskray.cli", verb, rest[0], "--address", head.dashboard, *rest[1:]]
    return [sys.executable, "-m", "mskray.cli", verb, "--address", head.dashboard, *rest]


def mskray(head: Head, *words: str, folder: Path | None = None, **more: str) -> subprocess.CompletedProcess[str]:
    """Run `mskray` where nothing of the checkout lies, with the head's token."""
    environment = {**head.environment, **more}
    return subprocess.run(
        command(head, *words), capture_output=True, text=True, timeout=500, env=environment, cwd=folder or "/"
    )


def test_a_job_from_its_submission_to_its_end(head: Head, s3_folder: Location) -> None:
    """Ingest as a job: its words and its exit code; the same again; the token is in nothing that the cluster keeps."""
    place = str(s3_folder.join("cohort"))
    asked = ["submit", "ingest", "phantom", "--out", place, *PHANTOMS, "patients=40"]
    first = mskray(head, *asked)
    assert first.returncode == 0, first.stdout + first.stderr
    name = next(line.split()[1] for line in first.stderr.splitlines() if line.startswith("submitted "))
    assert name.startswith("mskray-ingest-")
    assert "ingest" in first.stdout
    assert open_cohort(place).manifest.counts.images > 0
    again = mskray(head, *asked)
    assert again.returncode == 0, again.stdout + again.stderr
    assert f"{name} has ended well: beginning anew as {name}-2" in again.stderr
    assert re.search(r"\b0 shards written, [1-9][0-9]* kept", again.stdout), again.stdout
    listed = mskray(head, "jobs", "list")
    assert [line.split()[0] for line in listed.stdout.splitlines()[1:]] == [name, f"{name}-2"]
    kept = requests.get(
        f"{head.dashboard}/api/jobs/", headers={"Authorization": f"Bearer {head.token}"}, timeout=30
    ).text
    for text in (kept, first.stdout, first.stderr, again.stdout):
        assert head.token not in text
        assert head.environment["AWS_SECRET_ACCESS_KEY"] not in text


def test_a_mistake_there_is_the_exit_code_here(head: Head, s3_folder: Location) -> None:
    failed = mskray(head, "submit", "evaluate", str(s3_folder.join("none")), "--cohort", str(s3_folder.join("none")))
    assert failed.returncode == 2, failed.stdout + failed.stderr
    assert "error: " in failed.stdout


def test_another_token(head: Head) -> None:
    began = time.monotonic()
    refused = mskray(head, "jobs", "list", RAY_AUTH_TOKEN="a" * 64)
    assert refused.returncode == 2
    assert "does not accept the token of RAY_AUTH_TOKEN" in refused.stderr
    assert time.monotonic() - began < 60


def test_a_config_of_this_machine_and_the_code_go_along(head: Head, s3_folder: Location, tmp_path: Path) -> None:
    """A training with `--send-code`: the config is read there, and the family is unknown to nobody."""
    job = {"family": "classifier", "cohort": str(s3_folder.join("none")), "out": str(s3_folder.join("bundle"))}
    (tmp_path / "job.yaml").write_text(json.dumps(job))
    sent = mskray(head, "submit", "--send-code", "train", "job.yaml", "loop.epochs=1", folder=tmp_path)
    assert sent.returncode == 2, sent.stdout + sent.stderr
    assert f"error: there is nothing at {s3_folder.join('none')}" in sent.stdout


def test_leaving_rejoining_and_stopping(head: Head, s3_folder: Location) -> None:
    """Ctrl-C leaves the job; the same command finds it; `jobs stop` ends it, and whoever follows is told by 143."""
    asked = ["submit", "ingest", "phantom", "--out", str(s3_folder.join("large")), *PHANTOMS, "patients=6000"]
    first = subprocess.Popen(
        command(head, *asked), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=head.environment, cwd="/"
    )
    said: list[str] = []
    assert first.stdout is not None
    reading = threading.Thread(target=lambda: said.extend(iter(first.stdout.readline, "")), daemon=True)  # type: ignore[union-attr]
    reading.start()
    until = time.monotonic() + 120
    while not any("ingest" in line and "/" in line for line in said):
        assert time.monotonic() < until, said
        time.sleep(0.5)
    first.send_signal(signal.SIGINT)
    assert first.wait(timeout=60) == 130
    assert first.stderr is not None
    left = first.stderr.read()
    assert "the job goes on without you: mskray jobs follow --address" in left
    name = left.split()[-1]

    found = subprocess.Popen(
        command(head, *asked),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=head.environment,
        cwd="/",
    )
    until = time.monotonic() + 120
    while "running" not in mskray(head, "jobs", "list").stdout:
        assert time.monotonic() < until
    time.sleep(10)
    stopped = mskray(head, "jobs", "stop", name)
    assert (stopped.returncode, stopped.stdout) == (0, f"{name} was stopped\n"), stopped.stderr
    told, _ = found.communicate(timeout=120)
    assert found.returncode == 143, told
    assert f"{name} runs already: following it" in told
    assert mskray(head, "jobs", "follow", name).returncode == 143
    detached = mskray(head, "submit", "--detach", *asked[1:])
    assert detached.returncode == 0
    assert f"{name} was stopped: beginning anew as {name}-2" in detached.stderr
    assert detached.stdout.splitlines()[0] == f"{name}-2"
    assert mskray(head, "jobs", "stop", f"{name}-2").stdout == f"{name}-2 was stopped\n"
