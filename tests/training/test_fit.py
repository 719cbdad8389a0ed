"""Training on Ray Train: the same weights streamed or held, cut off or not; every row validated once on any ranks."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import ray
from sklearn.metrics import log_loss
from small_run import Trained, run, small_job

from mskray.bundles import Bundle, load_bundle
from mskray.cohorts.schema import ABNORMALITY
from mskray.errors import UserError
from mskray.families import Images, load_predictor
from mskray.progress import Progress
from mskray.storage import Location, locate
from mskray.training import news
from mskray.training.on_ray.news import listener
from mskray.training.run import Resources, Run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def figures(bundle: Bundle) -> list[dict[str, float]]:
    """History without what depends on the clock; with the number and the digest of the rows seen."""
    clocks = ("images_per_s", "wait_share", "communicate_share", "report_share")
    return [{key: value for key, value in entry.items() if key not in clocks} for entry in bundle.history]


def same(first: Bundle, second: Bundle) -> None:
    assert len(first.history) == len(second.history)
    for one, other in zip(figures(first), figures(second), strict=True):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-4)


def test_a_run_leaves_a_bundle_events_and_no_checkpoints(trained: Trained) -> None:
    bundle, progress, folder = trained
    assert [entry["epoch"] for entry in bundle.history] == [1, 2]
    assert bundle.best in bundle.history
    assert load_bundle(str(folder))[0] == bundle
    assert list((folder / "tensorboard").iterdir())
    assert not (folder / "run").exists()
    steps = [each for each in progress if each.stage == "epoch 2/2"]
    assert steps[-1].rate > 0
    assert "waiting for data" in steps[-1].note
    assert [entry["samples"] for entry in bundle.history] == [steps[-1].total] * 2
    assert all(re.fullmatch("[0-9a-f]{32}", entry["rows_digest"]) for entry in bundle.history)


def test_the_same_job_again_returns_the_bundle_and_another_job_is_refused(phantom_cohort, trained: Trained) -> None:
    bundle, _, folder = trained
    before = (folder / "bundle.json").stat().st_mtime_ns
    assert run(small_job(phantom_cohort, locate(folder))) == bundle
    assert (folder / "bundle.json").stat().st_mtime_ns == before
    other = small_job(phantom_cohort, locate(folder), optimizer={"learning_rate": 1e-2})
    with pytest.raises(UserError, match="already holds a bundle of another job"):
        run(other)


@pytest.mark.long
def test_a_killed_worker_changes_nothing(phantom_cohort, trained: Trained, s3_folder: Location) -> None:
    """Streamed, with the bundle in the object store, one worker killed in mid-epoch: the same figures."""
    killed: list[int] = []

    def kill_once(progress: Progress) -> None:
        if progress.stage == "epoch 2/2" and not killed and progress.done > 24:
            killed.extend(_training_workers())
            for pid in killed:
                os.kill(pid, signal.SIGKILL)

    data = small_job(phantom_cohort, s3_folder.join("bundle"))
    # cache=stream would be another job by name; the figures must be the same.
    data["data"] = {**data["data"], "cache": "stream"}
    bundle = run(data, kill_once)
    assert killed, "no worker was there to be killed"
    same(bundle, trained.bundle)


@pytest.mark.parametrize("damaged", [False, True])
def test_a_killed_driver_goes_on_where_it_was(
    phantom_cohort, trained: Trained, tmp_path: Path, ray_cluster: str, damaged: bool
) -> None:
    """Also where its last checkpoint is damaged: from the one before."""
    config = tmp_path / "job.yaml"
    config.write_text(json.dumps(small_job(phantom_cohort, locate(tmp_path / "bundle"))))
    command = [sys.executable, "-m", "mskray.cli", "train", str(config)]
    environment = {**os.environ, "RAY_ADDRESS": ray_cluster}
    driver = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)

    def checkpoints() -> list[Path]:
        """Whole ones, the latest last."""
        return sorted(each.parent for each in tmp_path.glob("bundle/run/*/checkpoints/*/checkpoint.json"))

    try:
        _wait_until(lambda: len(checkpoints()) >= 2, driver)
    finally:
        driver.kill()
        driver.wait(timeout=30)
    assert not (tmp_path / "bundle" / "bundle.json").exists()
    _wait_until(lambda: not _training_workers())
    if damaged:
        weights = checkpoints()[-1] / "weights.safetensors"
        *rest, last = weights.read_bytes()
        weights.write_bytes(bytes([*rest, last ^ 1]))
    seen: list[Progress] = []
    bundle = run(small_job(phantom_cohort, locate(tmp_path / "bundle")), seen.append)
    first = next(each for each in seen if each.stage.startswith("epoch"))
    assert any(each.stage.startswith("goes on from the last checkpoint") for each in seen)
    told = [each.stage for each in seen if "weights.safetensors is not what was written" in each.stage]
    assert len(told) == damaged
    # A run that began anew would first speak of its first step, 8 images into epoch 1.
    assert first.stage != "epoch 1/2" or first.done > 8, "the run began anew"
    same(bundle, trained.bundle)


@pytest.mark.long
def test_after_ctrl_c_the_same_command_goes_on_where_it_said(phantom_cohort, tmp_path: Path, ray_cluster: str) -> None:
    config = tmp_path / "job.yaml"
    config.write_text(json.dumps(small_job(phantom_cohort, locate(tmp_path / "bundle"), loop={"epochs": 500})))
    first = _interrupted_at("epoch 1/500 stored", config, ray_cluster)
    told = [int(epoch) for epoch in re.findall(r"epoch (\d+)/500 stored", first)]
    assert told == list(range(1, len(told) + 1))
    assert "stopped; the same command goes on after its last checkpoint" in first
    _wait_until(lambda: not _training_workers())
    second = _interrupted_at("goes on from the last checkpoint", config, ray_cluster)
    (goes_on,) = re.findall(r"goes on from the last checkpoint, in epoch (\d+) of 500", second)
    # What was stored just before the stop may not have been told any more.
    assert int(goes_on) > told[-1]
    _wait_until(lambda: not _training_workers())


def test_two_workers_share_each_epoch(phantom_cohort, tmp_path: Path, ray_cluster: str) -> None:
    data = small_job(phantom_cohort, locate(tmp_path / "bundle"), resources={"workers": 2, "cpus_per_worker": 1})
    data["loop"] = {"epochs": 1}
    seen: list[Progress] = []
    bundle = run(data, seen.append)
    assert bundle.history[0]["val_loss"] > 0
    rows = phantom_cohort.count("train") // 16 * 16
    assert {each.total for each in seen if each.stage == "epoch 1/1"} == {rows}
    # What was validated is what was saved, BatchNorm's statistics included.
    _, predictor = load_predictor(str(tmp_path / "bundle"))
    table = phantom_cohort.metadata("validation", ["instance_id", "label_abnormality"])
    images = phantom_cohort.images("validation", table["instance_id"].to_pylist())
    probabilities = predictor(Images([images[name] for name in table["instance_id"].to_pylist()])).probabilities
    loss = log_loss(table["label_abnormality"].to_numpy(), probabilities, labels=[0, 1])
    assert bundle.history[0]["val_loss"] == pytest.approx(loss, rel=1e-5)


def test_silence_of_the_workers_is_told(tmp_path: Path, ray_cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(news, "_SIGN_OF_LIFE_S", 0.5)
    seen: list[Progress] = []
    with listener(Run(locate(tmp_path), "run", ABNORMALITY, Resources(), seen.append), "images") as queue:
        _wait_until(lambda: seen)
        queue.put({"kind": "workers", "text": "here we are"})
        _wait_until(lambda: seen[-1].stage.startswith("no news"))
    assert seen[0].stage.startswith("the training workers are starting: nothing heard of them for ")
    assert "here we are" in [each.stage for each in seen]


@pytest.mark.long
def test_a_run_that_diverges_is_told_once_and_not_tried_again(phantom_cohort, tmp_path: Path, ray_cluster: str) -> None:
    seen: list[Progress] = []
    data = small_job(phantom_cohort, locate(tmp_path / "bundle"), optimizer={"name": "sgd", "learning_rate": 10.0})
    data["loop"] = {"epochs": 3}
    data["schedule"] = {"name": "none"}
    with pytest.raises(UserError, match=r"diverged in epoch \d .* lower optimizer\.learning_rate \(now 10\)"):
        run(data, seen.append)
    assert not (tmp_path / "bundle" / "bundle.json").exists()


@pytest.mark.long
def test_workers_that_fail_too_often_are_one_line(phantom_cohort, tmp_path: Path, ray_cluster: str) -> None:
    def kill(progress: Progress) -> None:
        if progress.stage.startswith("epoch"):
            for pid in _training_workers():
                os.kill(pid, signal.SIGKILL)

    data = small_job(phantom_cohort, locate(tmp_path / "bundle"), resources={"max_failures": 0})
    with pytest.raises(UserError, match="the same command goes on from the last checkpoint") as caught:
        run(data, kill)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resources": {"workers": 4}}, r"4 × 1 CPU and 0.5 to read data, the cluster has 3: it would wait for ever"),
        ({"resources": {"gpu": True}}, r"needs 1 × 1 GPU, the cluster has 0"),
        ({"task": "grade"}, "has no task 'grade': its tasks are abnormality"),
        ({"data": {"batch_size": 4000}}, "fewer than one step"),
        ({"network": {"weights": "nowhere.pth"}}, r"nowhere\.pth"),
        ({"network": {"weights": "none", "freeze": ["layer9"]}}, "has no stage layer9"),
        ({"cohort": "nowhere"}, "nowhere"),
    ],
)
def test_what_cannot_run_is_refused_before_it_starts(
    phantom_cohort, ray_cluster: str, tmp_path: Path, changes: dict, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        run({**small_job(phantom_cohort, locate(tmp_path / "bundle")), **changes})


def _interrupted_at(words: str, config: Path, ray_cluster: str) -> str:
    """Run `mskray train` and press Ctrl-C when it has said `words`; return all that it said."""
    command = [sys.executable, "-m", "mskray.cli", "train", str(config)]
    environment = {**os.environ, "RAY_ADDRESS": ray_cluster}
    driver = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)
    timer = threading.Timer(240, driver.kill)
    timer.start()
    said = ""
    try:
        assert driver.stderr is not None
        for line in driver.stderr:
            said += line
            if words in line and said.count(words) == 1:
                driver.send_signal(signal.SIGINT)
        driver.wait(timeout=60)
    finally:
        timer.cancel()
        driver.kill()
        driver.wait(timeout=30)
    assert driver.returncode == 130, said[-2000:]
    assert "Traceback" not in said
    return said


def _training_workers() -> list[int]:
    """Processes of Ray Train's workers in this session's cluster."""
    session = ray._private.worker._global_node.get_session_dir_path()
    found = []
    for process in psutil.process_iter(["pid", "cmdline", "ppid"]):
        title = " ".join(process.info["cmdline"] or [])
        if title.startswith("ray::RayTrainWorker") or "TrainWorker" in title.split(" ")[0]:
            parent = psutil.Process(process.info["ppid"])
            if session in " ".join(parent.cmdline()):
                found.append(process.info["pid"])
    return found


def _wait_until(
    condition: Callable[[], object], driver: subprocess.Popen | None = None, timeout_s: float = 240
) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        assert driver is None or driver.poll() is None, "the driver ended by itself"
        time.sleep(0.1)
