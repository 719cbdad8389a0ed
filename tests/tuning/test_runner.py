"""How many trials run at once, on a cluster that changes."""

import time
from pathlib import Path
from typing import Any

import pytest

from mskray.storage import locate
from mskray.training.run import Resources
from mskray.tuning import runner
from mskray.tuning.job import SchedulerSection
from mskray.tuning.ledger import Ledger, TrialRecord
from mskray.tuning.ray_trial import Plan, Tell
from mskray.tuning.runner import room, run_trials
from mskray.tuning.search import Listed

METRIC = "validation.study.kappa"


def sleeping(plan: Plan, record: TrialRecord, tell: Tell) -> TrialRecord:
    """A trial of two seconds that says when it was at work."""
    began = time.time()
    time.sleep(2.0)
    ended = record.model_copy(update={"state": "finished", "figures": {METRIC: 0.5, "began": began}})
    plan.ledger.write(ended)
    return ended


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_more_trials_run_side_by_side_as_soon_as_there_is_room(
    ray_cluster: str, by_value: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alone at first; three at once after the second has begun."""
    monkeypatch.setattr(runner, "_LOOK_EVERY_S", 0.2)
    ledger = Ledger(locate(tmp_path))
    plan = Plan(ledger, "none", "none", "", {}, Resources(), 1, 0, METRIC)
    records = [TrialRecord(id=f"{number:012x}", number=number, parameters={}) for number in range(8)]
    seen: set[str] = set()

    def watch(record: dict[str, Any], result: dict[str, Any] | None) -> None:
        seen.add(record["id"])

    run_trials(plan, Listed(records), lambda: 3 if len(seen) > 1 else 1, SchedulerSection(), 1, watch, sleeping)
    began = sorted(record.figures["began"] for record in ledger.trials())
    assert len(began) == 8
    assert began[1] - began[0] >= 2.0, "the second did not wait for the first"
    assert any(later - first < 2.0 for first, later in zip(began[1:], began[3:], strict=False)), "never three at once"


@pytest.mark.slow
def test_room_is_what_the_cluster_has_and_what_is_asked_for(ray_cluster: str) -> None:
    """Three CPUs, of which half a one reads data for trainings; tasks' trials are one more than there are CPUs."""
    assert room(Resources(), torch=True) == 2
    assert room(Resources(workers=2), torch=True) == 1
    assert room(Resources(cpus_per_worker=0.5), torch=True) == 5
    assert room(Resources(), torch=False) == 4
    assert room(Resources(), torch=False, most=2) == 2
