"""A search from its config to its page: trials on Ray, gone on with, killed at random, refused in one line."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from searches import description
from small_pairs import pair_cohort
from small_run import small_job, untrained_bundle
from stack_cohort import PICTURES, SIDE, TILT, write_cohort

from mskray.bundles import DESCRIPTION
from mskray.cohorts import open_cohort
from mskray.errors import UserError
from mskray.families import families, family
from mskray.storage import locate
from mskray.tuning.job import TuneJob
from mskray.tuning.ledger import Ledger, TrialRecord
from mskray.tuning.page import PAGE
from mskray.verbs.searching import tried_again
from mskray.verbs.tune import parse_search, tune
from mskray.verbs.tune_show import show

WITHOUT_CLUSTER = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
SPACE = {"vocabulary": {"choice": [4, 6]}, "classifier.name": {"choice": ["svm", "gaussian_nb"]}}


@pytest.fixture
def job(tmp_path: Path) -> dict[str, Any]:
    splits = {"train": [0, 1, 2] * 6, "validation": [0, 1, 2] * 3, "test": [0, 1, 2]}
    return {
        "family": "pair_bovw",
        "cohort": str(pair_cohort(tmp_path / "cohort", splits).location),
        "out": str(tmp_path / "search"),
        "preset": "none",
        "space": SPACE,
        "search": {"method": "grid"},
        "budget": {"trials": 4},
        "keypoints": {"most": 20},
    }


def run(job: dict[str, Any]) -> dict[str, TrialRecord]:
    return {record.id: record for record in tune(*parse_search(job, "test"), "test").trials()}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_search_ends_is_shown_and_goes_on_without_repeating_a_trial(job: dict[str, Any], ray_cluster: str) -> None:
    first = run(job)
    assert [record.state for record in first.values()] == ["finished"] * 4
    assert all(0 <= record.figures["validation.study.f1"] <= 1 for record in first.values())
    assert all(record.figures["size_mb"] > 0 < record.figures["latency_ms"] for record in first.values())
    ledger = Ledger(locate(job["out"]))
    best = max(first.values(), key=lambda record: record.figures["validation.study.kappa"])
    table = ledger.predictions(best.id)
    assert table.num_rows == 9
    assert f"{best.figures['validation.study.kappa']:.3f}" in show(job["out"])
    assert best.id in ledger.folder.join(PAGE).read_bytes().decode()
    more = run({**job, "repeats": {"best": 1, "seeds": 2}})
    assert {name: more[name] for name in first} == first, "a finished trial was run again"
    again = [record for name, record in more.items() if name not in first]
    assert [(record.parameters, record.seed) for record in again] == [(best.parameters, 1), (best.parameters, 2)]


@pytest.fixture
def torch_job(tmp_path: Path) -> dict[str, Any]:
    """A network of a second an epoch."""
    random = np.random.default_rng(0)
    splits = {
        split: (
            random.integers(0, 255, (count, *PICTURES.shape)).astype(np.uint8),
            {SIDE.name: np.arange(count) % 3, TILT.name: np.arange(count) % 2},
        )
        for split, count in (("train", 24), ("validation", 12))
    }
    cohort = write_cohort(tmp_path / "pictures", splits, image=PICTURES, kind="radiograph")
    return {
        **small_job(cohort, locate(tmp_path / "search"), schedule={"name": "none"}),
        "data": {"image_size": 48, "batch_size": 8, "shuffle_window": 64},
        "preset": "none",
        "space": {"optimizer.learning_rate": {"loguniform": [1e-4, 1e-1]}},
        "metric": "validation.image.auroc",
        "search": {"method": "random"},
    }


def alone(job: dict[str, Any], folder: Path) -> dict[str, TrialRecord]:
    """Run the command as a user does, on a cluster of its own with a dashboard: what stops trials asks it."""
    done = subprocess.run(command(job, folder), capture_output=True, timeout=900, env=WITHOUT_CLUSTER)
    assert done.returncode == 0, done.stderr.decode()
    return {record.id: record for record in Ledger(locate(job["out"])).trials()}


def command(job: dict[str, Any], folder: Path) -> list[str]:
    config = folder / "search.yaml"
    config.write_text(json.dumps(job))
    return [sys.executable, "-m", "mskray.cli", "tune", str(config)]


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.own_cluster
@pytest.mark.timeout(900)
def test_a_scheduler_stops_trials_that_fall_behind(torch_job: dict[str, Any], tmp_path: Path) -> None:
    job = {**torch_job, "scheduler": {"name": "asha", "reduction": 2}, "budget": {"trials": 5}, "loop": {"epochs": 4}}
    records = alone(job, tmp_path)
    states = Counter(record.state for record in records.values())
    assert states["finished"] + states["stopped"] == 5
    assert states["finished"] >= 1 <= states["stopped"]
    for record in records.values():
        assert [entry["epoch"] for entry in record.history] == list(range(1, len(record.history) + 1))
        assert len(record.history) == 4 or record.state == "stopped"


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.own_cluster
@pytest.mark.timeout(1800)
def test_a_population_takes_over_weights_and_values(torch_job: dict[str, Any], tmp_path: Path) -> None:
    """Four members, three rounds of an epoch: at each exchange the worst goes on from the best, its rate changed."""
    more = {"scheduler": {"name": "pbt", "interval": 1}, "budget": {"trials": 4}, "loop": {"epochs": 3}}
    records = alone({**torch_job, **more}, tmp_path)
    assert {(each.state, each.rounds, len(each.history)) for each in records.values()} == {("finished", 3, 3)}
    rates = [[entry["learning_rate"] for entry in record.history] for record in records.values()]
    assert sum(len(set(each)) > 1 for each in rates) >= 1, "no member's rate changed on its way"
    first = [record.history[0]["train_loss"] for record in records.values()]
    assert len(set(first)) < 4, "no member has the first epoch of another"


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.own_cluster
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("what", "times"),
    [("everything", 3), ("the command", 2), ("ray::RayTrial", 2), ("raylet/raylet", 1), ("gcs/gcs_server", 1)],
)
def test_killed_at_random_points_it_goes_on_and_repeats_no_finished_trial(
    what: str, times: int, job: dict[str, Any], tmp_path: Path
) -> None:
    """The command and all that it started, it alone, or one process of Ray's; then the same command to the end."""
    words = command({**job, "trials": {"folds": 2}}, tmp_path)
    ledger, draw = Ledger(locate(job["out"])), random.Random(what)
    seen: dict[str, TrialRecord] = {}
    hits = 0
    for _ in range(times):
        driver = subprocess.Popen(
            words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=WITHOUT_CLUSTER, start_new_session=True
        )
        try:
            hits += _kill(what, driver, draw)
            driver.wait(timeout=600)  # it ends by itself, whatever was killed
        finally:
            _kill_all(driver.pid)
        seen = _unchanged(seen, ledger)
    assert hits, "nothing was ever interrupted"
    done = subprocess.run(words, capture_output=True, timeout=900, env=WITHOUT_CLUSTER)
    assert done.returncode == 0, done.stderr.decode()
    assert len(_unchanged(seen, ledger)) == 4
    assert len(ledger.trials()) == 4


def _kill(what: str, driver: subprocess.Popen[bytes], draw: random.Random) -> bool:
    """Kill it some seconds after the search has begun; False where the search ended before."""
    after = time.monotonic() + draw.uniform(6, 20)
    while driver.poll() is None:
        victims = [pid for pid, words in _session(driver.pid).items() if what in words]
        if what in ("everything", "the command"):
            victims = [driver.pid]
        if victims and time.monotonic() >= after:
            if what == "everything":
                _kill_all(driver.pid)
            else:
                os.kill(draw.choice(victims), signal.SIGKILL)
            return True
        time.sleep(0.2)
    return False


def _session(driver: int) -> dict[int, str]:
    """The processes that a command has started, and itself: command lines by id."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if os.getsid(int(place.name)) == driver:
                found[int(place.name)] = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    return found


def _kill_all(driver: int) -> None:
    for pid in _session(driver):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _unchanged(seen: dict[str, TrialRecord], ledger: Ledger) -> dict[str, TrialRecord]:
    """The finished trials now; those that were finished before must be as they were."""
    time.sleep(0.1)
    now = {record.id: record for record in ledger.trials() if record.state == "finished"}
    assert {name: now[name] for name in seen} == seen
    return now


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"metric": "test.study.kappa"}, "test split cannot be tuned on"),
        ({"metric": "kappa"}, "names no split, level and figure"),
        ({"space": {"vocabulari": {"choice": [4]}}}, "vocabulary"),
        ({"space": {"classifier.C": {"uniform": [2, 1]}}, "search": {"method": "random"}}, "classifier.C"),
        ({"budget": {"trials": 3}}, "4 combinations"),
        ({"space": {"classifier.C": {"loguniform": [0.1, 1.0]}}}, "is a range"),
        ({"scheduler": {"name": "asha"}}, "one go"),
        ({"trials": {"folds": 20}}, "20 folds"),
        ({"preset": "crmoo"}, "crmo"),
    ],
)
def test_what_cannot_be_searched_is_refused_before_any_work(job: dict[str, Any], change: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        run({**job, **change})
    assert not Ledger(locate(job["out"])).folder.join("trials").is_dir()


def test_trials_do_not_stand_on_a_bundle_that_has_seen_what_they_are_judged_by(
    job: dict[str, Any], tmp_path: Path
) -> None:
    uri = untrained_bundle(tmp_path / "bundle", "mobilenet_v3_small", 64)
    place = locate(uri).join(DESCRIPTION)
    merged = open_cohort(job["cohort"]).merged().content_hash
    place.write_json({**place.read_json(), "cohort": {"uri": "", "content_hash": merged}})
    del job["keypoints"]
    change = {"family": "pair_softmax", "network": {"bundle": uri}, "space": {"softmax.features": {"choice": [8]}}}
    with pytest.raises(UserError, match=r"network\.bundle .*/bundle was trained on train and validation"):
        run({**job, **change})


def test_an_unreadable_ledger_is_named(job: dict[str, Any]) -> None:
    place = locate(job["out"]).join("trials", "0123456789ab.json")
    place.write_bytes(b"{")
    with pytest.raises(UserError, match=r"0123456789ab\.json cannot be read, .*delete it"):
        run(job)


def test_another_search_in_the_same_folder_is_refused(job: dict[str, Any]) -> None:
    Ledger(locate(job["out"])).describe_as(description({"vocabulary": {"choice": [5, 6]}}, family="pair_bovw"))
    with pytest.raises(UserError, match=r"already holds another search .* with another .*space"):
        run(job)


def test_a_search_that_the_cluster_cannot_run_leaves_its_folder_free(job: dict[str, Any], ray_cluster: str) -> None:
    with pytest.raises(UserError, match=r"a trial needs 40 × 1 CPU"):
        run({**job, "resources": {"workers": 40}})
    assert not list(Path(job["out"]).glob("*.json"))


def test_failed_trials_are_tried_again_as_long_as_none_has_finished(job: dict[str, Any]) -> None:
    ledger = Ledger(locate(job["out"]))
    failed = [TrialRecord(id=f"{n:012x}", number=n, parameters={}, state="failed", reason="disk full") for n in (0, 1)]
    again = tried_again(ledger, failed)
    assert [(each.state, each.reason) for each in again] == [("open", "")] * 2
    assert ledger.trials() == again
    one = failed[0].model_copy(update={"state": "finished"})
    assert tried_again(ledger, [one, failed[1]]) == [one, failed[1]]


@pytest.mark.parametrize("name", families())
def test_no_family_has_a_section_that_a_search_has(name: str) -> None:
    assert not set(family(name).Config.model_fields) & set(TuneJob.model_fields)
