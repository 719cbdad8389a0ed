"""Draws of a search: from the space, never twice, resumed from the ledger, and an end when the budget is used."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray.tune.result import DONE
from ray.tune.search import Searcher
from small_pairs import pair_cohort
from small_run import untrained_bundle
from stack_cohort import PICTURES, SIDE, TILT, write_cohort

from mskray.bundles import DESCRIPTION
from mskray.cohorts import Cohort
from mskray.families import family
from mskray.storage import locate
from mskray.tuning.job import BudgetSection, SearchSection
from mskray.tuning.ledger import Ledger, TrialRecord
from mskray.tuning.ray_trial import FIGURE, RECORD, STEP
from mskray.tuning.search import StudySearch, address
from mskray.tuning.space import parse_space

METRIC = "validation.study.kappa"
GRID = {"vocabulary": {"choice": [4, 6]}, "classifier.name": {"choice": ["svm", "gaussian_nb"]}}
WIDE = {"vocabulary": {"uniform": [4, 400]}, "classifier.C": {"loguniform": [0.01, 100.0]}}


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    return pair_cohort(tmp_path / "cohort", {"train": [0, 1, 2] * 4, "validation": [0, 1, 2] * 2})


@pytest.fixture
def search(cohort: Cohort, tmp_path: Path) -> Callable[..., StudySearch]:
    """A maker of the searcher of a call: what the ledger holds is all that it knows of earlier ones."""

    def make(space: dict[str, Any], trials: int, method: str = "random", **more: Any) -> StudySearch:
        ledger, chosen = Ledger(locate(tmp_path / "search")), family(more.pop("family", "pair_bovw"))
        base, seen, task = more.pop("base", {}), more.pop("cohort", cohort), more.pop("task", "change")
        return StudySearch(
            ledger,
            ledger.trials(),
            parse_space(space, chosen, base, "none", "test"),
            SearchSection(method=method, **more),
            BudgetSection(trials=trials),
            (METRIC,),
            chosen,
            base,
            seen,
            task,
        )

    return make


def finish(searcher: StudySearch, suggestion: dict[str, Any], figure: Callable[[dict[str, Any]], float]) -> TrialRecord:
    """End a trial as its process does: the record in the ledger, then the result to the searcher."""
    record = TrialRecord.model_validate(suggestion[RECORD])
    ended = record.model_copy(update={"state": "finished", "figures": {METRIC: figure(record.parameters)}})
    searcher._ledger.write(ended)
    searcher.on_trial_complete(f"tune-{record.id}", {DONE: True})
    return ended


def drive(searcher: StudySearch, figure: Callable[[dict[str, Any]], float], most: int = 10**6) -> list[TrialRecord]:
    """Finish what is suggested, one after the other, until there is nothing more."""
    done: list[TrialRecord] = []
    while len(done) < most:
        waiting = searcher.suggest("waiting")
        if waiting == Searcher.FINISHED:
            return done
        searcher._given[f"tune-{waiting[RECORD]['id']}"] = searcher._given.pop("waiting")
        done.append(finish(searcher, waiting, figure))
    return done


def test_a_grid_gives_every_combination_once_also_over_two_calls(search: Callable[..., StudySearch]) -> None:
    first = drive(search(GRID, 4, "grid"), lambda values: 0.5, most=3)
    second = drive(search(GRID, 4, "grid"), lambda values: 0.5)
    tried = [tuple(sorted(record.parameters.items())) for record in first + second]
    assert len(tried) == len(set(tried)) == 4
    assert [record.number for record in first + second] == [0, 1, 2, 3]


def test_a_small_space_ends_before_the_budget_and_nothing_is_drawn_twice(search: Callable[..., StudySearch]) -> None:
    searcher = search(GRID, 50)
    done = drive(searcher, lambda values: 0.1)
    assert len({record.id for record in done}) == len(done) == 4
    assert searcher.used_up


def test_an_open_trial_comes_first_and_its_parameters_are_kept(search: Callable[..., StudySearch]) -> None:
    before = search(WIDE, 3).suggest("killed with its driver")[RECORD]
    done = drive(search(WIDE, 3), lambda values: 0.1)
    assert done[0].id == before["id"]
    assert done[0].parameters == before["parameters"]
    assert len(done) == 3


def test_tpe_comes_nearer_to_the_best_than_random_draws_of_the_same_number(search: Callable[..., StudySearch]) -> None:
    def figure(values: dict[str, Any]) -> float:
        return -(((values["vocabulary"] - 300) / 400) ** 2) - abs(values["classifier.C"] - 10) / 100

    learned = drive(search(WIDE, 40, "tpe", seed=1), figure)
    late = [record.figures[METRIC] for record in learned[20:]]
    early = [record.figures[METRIC] for record in learned[:8]]
    assert sum(late) / len(late) > sum(early) / len(early)
    assert max(late) > -0.05


def test_a_later_call_learns_from_the_ledger(search: Callable[..., StudySearch]) -> None:
    drive(search(WIDE, 12, "tpe"), lambda values: 0.3)
    assert len(search(WIDE, 30, "tpe")._study.trials) == 12


def test_values_that_do_not_go_together_are_refused_with_the_reason_and_do_not_count(
    search: Callable[..., StudySearch], tmp_path: Path
) -> None:
    """Training that stops before its plateau schedule can fire: each value is fine, and one pair of them is not."""
    labels = {SIDE.name: np.array([0, 1, 2, 0]), TILT.name: np.array([0, 1, 0, 1])}
    pictures = np.zeros((4, *PICTURES.shape), np.uint8)
    splits = dict.fromkeys(("train", "validation"), (pictures, labels))
    cohort = write_cohort(tmp_path / "pictures", splits, image=PICTURES, kind="radiograph")
    space = {"loop.patience": {"choice": [4, 12]}, "schedule.patience": {"choice": [1, 8]}}
    base = {"schedule": {"name": "plateau"}}
    searcher = search(space, 50, family="classifier", base=base, cohort=cohort, task="side")
    done = drive(searcher, lambda values: 0.2)
    refused = [record for record in searcher._ledger.trials() if record.state == "refused"]
    assert [record.parameters for record in refused] == [{"loop.patience": 4, "schedule.patience": 8}]
    assert "plateau" in refused[0].reason
    assert len(done) == 3


def test_a_drawn_bundle_that_has_seen_what_trials_are_judged_by_is_refused(
    search: Callable[..., StudySearch], cohort: Cohort, tmp_path: Path
) -> None:
    uris = [untrained_bundle(tmp_path / name, "mobilenet_v3_small", 64) for name in ("one", "two")]
    place = locate(uris[1]).join(DESCRIPTION)
    place.write_json({**place.read_json(), "cohort": {"uri": "", "content_hash": cohort.merged().content_hash}})
    space = {"network.bundle": {"choice": uris}}
    searcher = search(space, 2, family="pair_softmax", base={"softmax": {"features": 8}})
    drive(searcher, lambda values: 0.2)
    refused = [record for record in searcher._ledger.trials() if record.state == "refused"]
    assert [record.parameters for record in refused] == [{"network.bundle": uris[1]}]
    assert "was trained on train and validation" in refused[0].reason


@pytest.mark.parametrize("method", ["random", "tpe"])
def test_the_first_trial_is_what_would_be_trained_without_a_search(
    search: Callable[..., StudySearch], method: str
) -> None:
    """As far as the space holds it: the default of C is 1, and 40 words are not within 100 and 400."""
    space = {"vocabulary": {"uniform": [100, 400]}, "classifier.C": {"loguniform": [0.01, 100.0]}}
    base = {"vocabulary": 40, "classifier": {"name": "svm"}}
    first, second = drive(search(space, 2, method, base=base), lambda values: 0.2)
    assert first.parameters["classifier.C"] == family("pair_bovw").Config.model_validate(base).classifier.C
    assert 100 <= first.parameters["vocabulary"] <= 400
    assert second.parameters["classifier.C"] != first.parameters["classifier.C"]
    (third,) = drive(search(space, 3, method, base=base), lambda values: 0.2)
    assert third.parameters["classifier.C"] != first.parameters["classifier.C"]


def test_a_trial_that_a_scheduler_stopped_keeps_its_curve_and_is_not_repeated(
    search: Callable[..., StudySearch],
) -> None:
    searcher = search(GRID, 4)
    given = searcher.suggest("t")[RECORD]
    searcher.on_trial_result("t", {STEP: 1, FIGURE: 0.2})
    searcher.on_trial_complete("t", {STEP: 2, FIGURE: 0.1, "time_total_s": 7.0})
    stopped = searcher._ledger.trial(given["id"])
    assert (stopped.state, stopped.seconds) == ("stopped", 7.0)
    assert [entry["val_kappa"] for entry in stopped.history] == [0.2, 0.1]
    assert given["id"] not in {record.id for record in drive(search(GRID, 4), lambda values: 0.5)}


def test_a_trial_that_was_lost_before_its_first_epoch_stays_open(search: Callable[..., StudySearch]) -> None:
    searcher = search(GRID, 4)
    given = searcher.suggest("t")[RECORD]
    searcher.on_trial_complete("t", {})
    assert searcher._ledger.trial(given["id"]).state == "open"


def test_a_trial_whose_process_died_stays_open(search: Callable[..., StudySearch]) -> None:
    searcher = search(GRID, 4)
    given = searcher.suggest("t")[RECORD]
    searcher.on_trial_result("t", {STEP: 1, FIGURE: 0.2})
    searcher.on_trial_complete("t", {STEP: 1, FIGURE: 0.2}, error=True)
    assert searcher._ledger.trial(given["id"]).state == "open"


def test_a_search_in_which_every_trial_fails_ends(search: Callable[..., StudySearch]) -> None:
    searcher, begun = search(WIDE, 50), 0
    while (given := searcher.suggest(f"t{begun}")) != Searcher.FINISHED:
        record = TrialRecord.model_validate(given[RECORD])
        searcher._ledger.write(record.model_copy(update={"state": "failed", "reason": "no weights"}))
        searcher.on_trial_complete(f"t{begun}", {})
        begun += 1
    assert begun == 5


def test_an_address_does_not_depend_on_the_order_of_keys() -> None:
    assert address({"a": 1, "b": 2}, 0) == address({"b": 2, "a": 1}, 0) != address({"a": 1, "b": 2}, 1)
