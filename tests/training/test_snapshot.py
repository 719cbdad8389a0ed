"""Ray Train's list of checkpoints, made anew from the checkpoints."""

import json
from pathlib import Path

import pytest
import torch
from ray.train.v2._internal.execution.checkpoint.checkpoint_manager import _CheckpointManagerState
from safetensors.torch import save_file

from mskray.storage import Location, locate
from mskray.training.checkpoint import OPTIMIZER, POSITION, WEIGHTS
from mskray.training.session import UNSCORED
from mskray.training.snapshot import SNAPSHOT, mend_snapshot


@pytest.fixture
def run(tmp_path: Path) -> Location:
    return locate(tmp_path)


def checkpoint(run: Location, name: str, scores: list[float], step: int = 0) -> None:
    folder = Path(run.path) / name
    folder.mkdir()
    save_file({"a": torch.zeros(4)}, folder / WEIGHTS)
    torch.save({"optimizer": {}}, folder / OPTIMIZER)
    history = [{"epoch": number, "score": score} for number, score in enumerate(scores, start=1)]
    content = {"steps": 10, "epoch": len(scores), "step": step, "history": history}
    (folder / POSITION).write_text(json.dumps(content))


def test_the_latest_and_the_best_are_listed_as_ray_reads_them(run: Location) -> None:
    checkpoint(run, "checkpoint_1", [0.4])
    checkpoint(run, "checkpoint_2", [0.4, 0.9])
    checkpoint(run, "checkpoint_3", [0.4, 0.9, 0.6])
    checkpoint(run, "checkpoint_4", [0.4, 0.9, 0.6], step=5)
    (Path(run.path) / "checkpoint_5").mkdir()  # cut off in the middle of its upload
    checkpoint(run, "checkpoint_6", [0.4, 0.9, 0.6, 1.0])
    weights = Path(run.path) / "checkpoint_6" / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-3])
    run.join(SNAPSHOT).write_bytes(b"")
    mend_snapshot(run)
    listed = _CheckpointManagerState.model_validate(run.join(SNAPSHOT).read_json())
    assert [(each.checkpoint_dir_name, each.metrics["score"]) for each in listed.checkpoint_results] == [
        ("checkpoint_4", UNSCORED),
        ("checkpoint_2", 0.9),
    ]
    assert listed.latest_checkpoint_result is not None
    assert listed.latest_checkpoint_result.checkpoint_dir_name == "checkpoint_4"
    assert listed.checkpoint_report_indices == [3, 1]


def test_without_a_whole_checkpoint_it_begins_anew(run: Location) -> None:
    run.join(SNAPSHOT).write_bytes(b'{"ray_vers')
    mend_snapshot(run)
    assert not run.join(SNAPSHOT).is_file()


def test_a_list_that_can_be_read_is_left_alone(run: Location) -> None:
    mend_snapshot(run)
    assert not run.join(SNAPSHOT).is_file()
    run.join(SNAPSHOT).write_bytes(b'{"any": 1}')
    mend_snapshot(run)
    assert run.join(SNAPSHOT).read_bytes() == b'{"any": 1}'
