"""How many trials run at once, on a cluster that changes."""

import time
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import RayError

from mskray.storage import locate
from mskray.training.run import Resources
from mskray.tuning import runner
from mskray.tuning.job import SchedulerSection
from mskray.tuning.ledger import Ledger, TrialRecord
from mskray.tuning.ray_trial import Plan, Tell
from mskray.tuning.runner import room, run_trials
from mskray.tuning.search import Listed

METRIC = "validation.study.kappa"


def meeting(plan: Plan, record: TrialRecord, tell: Tell) -> TrialRecord:
    """The first trial takes two seconds; the others wait until three are there."""
    folder = Path(plan.ledger.folder.path)
    began = time.time()
    (folder / f"{record.id}.began").touch()
    deadline = time.monotonic() + (120 if record.number else 2)
    while time.monotonic() < deadline and len(list(folder.glob("*.began"))) < 4:
        time.sleep(0.1)
    met = len(list(folder.glob("*.began")))
    ended = record.model_copy(update={"state": "finished", "figures": {METRIC: 0.5, "met": met, "began": began}})
    plan.ledger.write(ended)
    return ended


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_more_trials_run_side_by_side_as_soon_as_there_is_room(
    ray_cluster: str, by_value: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alone at first; three at once after the second has begun, so that the second to fourth meet."""
    monkeypatch.setattr(runner, "_LOOK_EVERY_S", 0.2)
    ledger = Ledger(locate(tmp_path))
    plan = Plan(ledger, "none", "none", "", {}, Resources(), 1, 0, METRIC)
    records = [TrialRecord(id=f"{number:012x}", number=number, parameters={}) for number in range(4)]
    seen: set[str] = set()

    def watch(record: dict[str, Any], result: dict[str, Any] | None) -> None:
        seen.add(record["id"])

    lost = run_trials(plan, Listed(records), lambda: 3 if len(seen) > 1 else 1, SchedulerSection(), 1, watch, meeting)
    assert lost == []
    first, *others = (record.figures for record in ledger.trials())
    assert first["met"] == 1, "the first was not alone"
    assert [each["met"] for each in others] == [4, 4, 4], "never three at once"
    assert others[0]["began"] - first["began"] >= 2.0


def dying(plan: Plan, record: TrialRecord, tell: Tell) -> TrialRecord:
    raise RayError("a node is gone")


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_trial_that_the_cluster_is_at_fault_of_is_told(ray_cluster: str, by_value: None, tmp_path: Path) -> None:
    ledger = Ledger(locate(tmp_path))
    plan = Plan(ledger, "none", "none", "", {}, Resources(max_failures=0), 1, 0, METRIC)
    records = [TrialRecord(id="0123456789ab", number=0, parameters={})]
    (reason,) = run_trials(plan, Listed(records), lambda: 1, SchedulerSection(), 1, lambda *_: None, dying)
    assert "a node is gone" in reason


@pytest.mark.slow
def test_room_is_what_the_cluster_has_and_what_is_asked_for(ray_cluster: str) -> None:
    """Three CPUs, of which half a one reads data for trainings; tasks' trials are one more than there are CPUs."""
    assert room(Resources(), torch=True) == 2
    assert room(Resources(workers=2), torch=True) == 1
    assert room(Resources(cpus_per_worker=0.5), torch=True) == 5
    assert room(Resources(), torch=False) == 4
    assert room(Resources(), torch=False, most=2) == 2
