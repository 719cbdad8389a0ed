"""Training in one process, without Ray: what comes out, what is refused, what goes on after it was stopped."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_run import Trained, run, small_job
from stack_cohort import write_cohort

from mskray.bundles import Bundle
from mskray.cohorts import Cohort
from mskray.cohorts.schema import ABNORMALITY, ImageFormat
from mskray.errors import UserError
from mskray.families import families
from mskray.storage import locate
from mskray.verbs.train import parse_job, stays_here

SIDE = 64
# As on a machine that never had it: every import of Ray fails.
WITHOUT_RAY = """
import sys
sys.modules["ray"] = None
from mskray.cli import main
main(sys.argv[1:])
"""


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    """Noise with a bright square in every second image."""
    random = np.random.default_rng(0)

    def split(count: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        images = random.integers(0, 90, (count, SIDE, SIDE), np.uint8)
        labels = np.arange(count) % 2
        images[labels == 1, 20:40, 20:40] += 120
        return images, {ABNORMALITY.name: labels}

    image = ImageFormat(size=SIDE, dtype="uint8", fit="pad")
    splits = {"train": split(84), "validation": split(24)}
    return write_cohort(tmp_path / "cohort", splits, (ABNORMALITY,), image, "radiograph", shard_rows=32)


def figures(bundle: Bundle) -> list[dict[str, Any]]:
    """History without what depends on the clock; with the number and the digest of the rows seen."""
    clocks = ("images_per_s", "wait_share", "communicate_share", "report_share")
    return [{key: value for key, value in entry.items() if key not in clocks} for entry in bundle.history]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_one_process_and_one_worker_of_ray_learn_the_same(
    phantom_cohort: Cohort, trained: Trained, tmp_path: Path
) -> None:
    """With as many threads as the worker has: others add in another order, and figures of ranks jump at ties."""
    threads = torch.get_num_threads()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    try:
        here = run(small_job(phantom_cohort, locate(tmp_path / "bundle")), local=True)
    finally:
        torch.set_num_threads(threads)
    assert here.fingerprint == trained.bundle.fingerprint, "the one must be able to go on where the other was"
    assert len(here.history) == len(trained.bundle.history)
    for one, other in zip(figures(here), figures(trained.bundle), strict=True):
        assert (one["samples"], one["rows_digest"]) == (other["samples"], other["rows_digest"])
        assert one == pytest.approx(other, rel=1e-3, abs=1e-4)
    assert here.labels == trained.bundle.labels
    assert {each.name for each in (tmp_path / "bundle").iterdir()} == {each.name for each in trained.folder.iterdir()}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_without_ray_a_run_that_is_stopped_and_killed_ends_as_one_that_was_not(cohort: Cohort, tmp_path: Path) -> None:
    """From cohort to bundle where Ray cannot be imported: Ctrl-C, the same again, SIGKILL, the same again."""
    undisturbed = run(_job(cohort, tmp_path / "undisturbed"), local=True)
    job = tmp_path / "job.json"
    job.write_text(json.dumps(_job(cohort, tmp_path / "bundle")))
    checkpoints: set[str] = set()

    def another() -> bool:
        found = {each.parent.name for each in tmp_path.glob("bundle/run/*/checkpoints/*/checkpoint.json")}
        new = bool(found - checkpoints)
        checkpoints.update(found)
        return new

    first = _said(job, another, signal.SIGINT, 130)
    assert "stopped; the same command goes on after its last checkpoint" in first
    assert "Traceback" not in first
    assert "goes on from the last checkpoint" in _said(job, another, signal.SIGKILL, -signal.SIGKILL)
    last = _said(job, None, None, 0)
    assert "goes on from the last checkpoint" in last
    assert f"bundle: {locate(tmp_path / 'bundle')}" in last
    bundle = Bundle.model_validate_json((tmp_path / "bundle" / "bundle.json").read_text())
    assert figures(bundle) == figures(undisturbed)
    assert bundle.files["weights.safetensors"] == undisturbed.files["weights.safetensors"]
    assert not (tmp_path / "bundle" / "run").exists()


def _job(cohort: Cohort, out: Path, **sections: Any) -> dict[str, Any]:
    loop = {"epochs": 6, "checkpoint_minutes": 0.002}
    return small_job(cohort, locate(out), **{"loop": loop, **sections})


def _said(job: Path, when: Callable[[], bool] | None, stop: signal.Signals | None, code: int) -> str:
    """Run `mskray train` without Ray, stop it when it is time, and return all that it said."""
    command = [sys.executable, "-c", WITHOUT_RAY, "train", str(job)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=_alone())
    ended = threading.Event()

    def watch() -> None:
        assert when is not None
        assert stop is not None
        while not ended.wait(0.02):
            if when():
                process.send_signal(stop)
                return

    watcher = threading.Thread(target=watch)
    if when is not None:
        watcher.start()
    try:
        said, _ = process.communicate(timeout=240)
    finally:
        ended.set()
        process.kill()
        if when is not None:
            watcher.join()
    assert process.returncode == code, said[-2000:]
    return said


def _alone() -> dict[str, str]:
    """As the tests' own process: one thread, so that sums are made in the same order. No cluster is named."""
    return {**os.environ, "OMP_NUM_THREADS": os.environ["OMP_NUM_THREADS"], "RAY_ADDRESS": ""}


@pytest.mark.parametrize(
    ("name", "workers", "address", "joined", "stays"),
    [
        ("classifier", 1, "", False, True),
        ("classifier", 2, "", False, False),
        ("classifier", 1, "local", False, False),
        ("classifier", 1, "", True, False),
        ("feature_svm", 1, "", False, False),
    ],
)
def test_one_worker_stays_where_no_cluster_is_named(
    name: str, workers: int, address: str, joined: bool, stays: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr("ray.is_initialized", lambda: joined)
    data = {"family": name, "cohort": "c", "out": "o", "resources": {"workers": workers}}
    job, chosen, _ = parse_job(data, "test")
    assert stays_here(job, chosen) == stays


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"resources": {"workers": 2}}, r"resources\.workers = 2 with --local, which trains in one process"),
        ({"resources": {"compile": "on"}, "family": "view_fusion"}, "not for the network of a"),
        (
            {"resources": {"compile": "graphs"}, "optimizer": {"accumulate": 2}},
            "resources.compile = graphs keeps gradients where the next step's will lie: set it to on, or",
        ),
        (
            {"resources": {"gpu": True}},
            r"resources\.gpu = true: torch finds no GPU here",
        ),
    ],
)
def test_what_one_process_cannot_do_is_refused(
    cohort: Cohort, tmp_path: Path, sections: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UserError, match=message) as caught:
        run({**_job(cohort, tmp_path / "bundle"), **sections}, local=True)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("bundle/**/checkpoint.json"))


@pytest.mark.parametrize("name", ["feature_svm", "pair_bovw", "pair_softmax"])
def test_a_family_that_needs_ray_is_refused(cohort: Cohort, tmp_path: Path, name: str) -> None:
    data = {"family": name, "cohort": str(cohort.location), "out": str(tmp_path / "bundle")}
    with pytest.raises(UserError, match=f"family {name} spreads its work over Ray tasks: leave --local out"):
        run(data, local=True)


@pytest.mark.slow
def test_the_families_that_need_no_ray_are_those_that_load_without_it() -> None:
    script = """
import sys
sys.modules["ray"] = None
from mskray.families import families, family
from mskray.errors import UserError
print(*families())
for name in ("feature_svm", "nonsense"):
    try:
        family(name)
    except UserError as error:
        print(error)
"""
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=240)
    assert said.returncode == 0, said.stderr[-2000:]
    loaded, refused, unknown = said.stdout.splitlines()
    assert loaded.split() == [name for name, each in families().items() if not each.needs_ray]
    assert "feature_svm spreads its work over Ray tasks, and Ray is not installed here" in refused
    assert "unknown family 'nonsense'" in unknown
