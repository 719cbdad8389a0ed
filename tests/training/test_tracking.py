"""Tracking against a real MLflow server and real event files; an epoch is written once, also by a resumed run."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mskray.errors import UserError
from mskray.storage import locate
from mskray.training.tracking import MLflow, TensorBoard, trackers

EPOCHS = [
    {"kind": "epoch", "epoch": 1, "epochs": 2, "train_loss": 0.7, "val_auroc": 0.6},
    {"kind": "epoch", "epoch": 2, "epochs": 2, "train_loss": 0.5, "val_auroc": 0.8},
]


@pytest.fixture(scope="module")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    store = ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "files")]
    log = (folder / "log").open("w")
    server = subprocess.Popen([*command, *store], stdout=log, stderr=log, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 180
        while True:
            try:
                if requests.get(f"{url}/health", timeout=5).ok:
                    break
            except requests.ConnectionError:
                pass
            assert server.poll() is None, (folder / "log").read_text()[-2000:]
            assert time.monotonic() < deadline, (folder / "log").read_text()[-2000:]
            time.sleep(0.5)
        yield url
    finally:
        os.killpg(server.pid, 15)
        try:
            server.wait(timeout=15)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, 9)
            server.wait(timeout=15)
        log.close()


@pytest.mark.slow
def test_mlflow_hears_of_each_epoch_once(mlflow_server: str) -> None:
    from mlflow import MlflowClient

    first = MLflow(mlflow_server, "knees", "run-1", {"family": "classifier", "loop.epochs": 2})
    first.epoch(EPOCHS[0])
    # The driver was killed here; the same run goes on and repeats what it is not sure of.
    second = MLflow(mlflow_server, "knees", "run-1", {"family": "classifier", "loop.epochs": 2})
    for event in EPOCHS:
        second.epoch(event)
    second.finish({"bundle": "s3://b/knees"})
    client = MlflowClient(tracking_uri=mlflow_server)
    (run,) = client.search_runs([client.get_experiment_by_name("knees").experiment_id])
    history = client.get_metric_history(run.info.run_id, "val_auroc")
    assert [(each.step, each.value) for each in history] == [(1, 0.6), (2, 0.8)]
    assert run.info.status == "FINISHED"
    assert run.data.params["loop.epochs"] == "2"
    assert run.data.tags["bundle"] == "s3://b/knees"


@pytest.mark.slow
def test_a_server_that_does_not_answer_is_one_line() -> None:
    with pytest.raises(UserError, match="the tracking server does not answer") as caught:
        MLflow("http://127.0.0.1:9", "knees", "run-1", {})
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_mlflow_is_used_where_its_variable_is_set(
    tmp_path: Path, mlflow_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert [type(each) for each in trackers(locate(tmp_path), "knees", "run-2", {})] == [TensorBoard]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
    assert [type(each) for each in trackers(locate(tmp_path), "knees", "run-2", {})] == [TensorBoard, MLflow]


def test_tensorboard_events_are_beside_the_bundle_after_each_epoch(tmp_path: Path) -> None:
    board = TensorBoard(locate(tmp_path / "tensorboard"))
    for event in EPOCHS:
        board.epoch(event)
        seen = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Scalars("val_auroc")
        assert seen[-1].step == event["epoch"]
        assert seen[-1].value == pytest.approx(event["val_auroc"])
    board.finish({"bundle": "here"})
