"""How a trained model is judged and what it takes; how a trial's work ends in its record."""

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray.exceptions import RayError
from small_run import untrained_bundle
from stack_cohort import PICTURES, write_cohort

from mskray.bundles import WEIGHTS, load_bundle
from mskray.cohorts import Task
from mskray.errors import Fault, UserError
from mskray.evaluation.metrics import weighted_figures
from mskray.families import Images, family
from mskray.storage import locate
from mskray.training.run import Resources
from mskray.tuning.judge import cost, judge
from mskray.tuning.ledger import Ledger, TrialRecord
from mskray.tuning.ray_trial import Plan
from mskray.tuning.trial import attempt

FINDING = Task(name="abnormality", classes=("normal", "abnormal"))


def test_a_model_is_judged_by_what_it_says_of_the_labelled_images(tmp_path: Path) -> None:
    """40 images are two batches; four of them have no label."""
    random = np.random.default_rng(0)
    images, labels = random.integers(0, 255, (40, *PICTURES.shape)).astype(np.uint8), np.arange(40) // 2 % 2
    labels[[3, 9, 20, 39]] = -1
    splits = {"validation": (images, {FINDING.name: labels})}
    cohort = write_cohort(tmp_path / "cohort", splits, (FINDING,), PICTURES, "radiograph")
    bundle, fitted = load_bundle(untrained_bundle(tmp_path / "bundle", "mobilenet_v3_small", 64, 0, 48))
    chosen = family(bundle.family)
    judged = judge(chosen, fitted, cohort, FINDING)
    said = chosen.predictor(fitted)(Images(list(images))).probabilities.astype(np.float64)
    known = labels >= 0
    there = weighted_figures(labels[known], said[known], np.ones((1, 36)))
    for name in ("accuracy", "brier"):
        assert judged.figures[f"validation.image.{name}"] == pytest.approx(float(there[name][0]), abs=1e-4)
    assert judged.predictions is not None
    assert judged.predictions.num_rows == 40
    taken = cost(chosen, fitted, cohort)
    assert taken["size_mb"] == judged.figures["size_mb"]
    weights = locate(tmp_path / "bundle").join(WEIGHTS).read_bytes()
    assert taken["size_mb"] == pytest.approx(len(weights) / 1e6, rel=0.1)
    assert 0 < taken["latency_ms"] < 10_000 > judged.figures["latency_ms"] > 0


def raising(error: Exception) -> Any:
    def work() -> dict[str, Any]:
        raise error

    return work


@pytest.mark.parametrize(
    ("work", "state", "reason"),
    [
        (lambda: {"figures": {"size_mb": 2.0}}, "finished", ""),
        (raising(UserError("nothing left")), "failed", "nothing left"),
        (raising(ValueError("a\n  b")), "failed", "ValueError: a b"),
        (raising(RuntimeError("…\nmskray.errors.UserError: diverged")), "failed", "diverged"),
        (raising(OSError("cannot identify image file")), "failed", "OSError: cannot identify image file"),
    ],
)
def test_however_the_work_ends_the_record_is_written(tmp_path: Path, work: Any, state: str, reason: str) -> None:
    ledger = Ledger(locate(tmp_path))
    plan = Plan(ledger, "classifier", "", "", {}, Resources(gpu=True, gpus_per_worker=0.5), 1, 0, "size_mb")
    record = TrialRecord(id="ab", number=0, parameters={}, seconds=100.0, started="2026-01-01T00:00:00+00:00")
    ended = attempt(plan, record, work)
    assert ledger.trial("ab") == ended
    assert (ended.state, ended.reason) == (state, reason)
    assert ended.figures == ({"size_mb": 2.0} if state == "finished" else {})
    assert ended.started == record.started < ended.ended
    assert ended.seconds >= 100
    assert ended.gpu_seconds == pytest.approx((ended.seconds - 100) / 2)


@pytest.mark.parametrize(
    "error",
    [
        RayError("a node is gone"),
        OSError(errno.ENOSPC, "no space left"),
        Fault("the store does not answer"),
        RuntimeError("…\nmskray.errors.Fault: the store does not answer"),
    ],
)
def test_a_fault_of_cluster_or_store_leaves_the_trial_open(tmp_path: Path, error: Exception) -> None:
    ledger = Ledger(locate(tmp_path))
    record = TrialRecord(id="ab", number=0, parameters={})
    ledger.write(record)
    with pytest.raises(type(error)):
        attempt(Plan(ledger, "classifier", "", "", {}, Resources(), 1, 0, "size_mb"), record, raising(error))
    assert ledger.trial("ab") == record
