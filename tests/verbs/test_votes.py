"""A search of an ensemble's votes: who may be a member, what is searched, and from the winner to `ensemble.json`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from small_run import untrained_bundle
from stack_cohort import PICTURES, TILT, write_cohort

from mskray.bundles import Fitted, save_bundle
from mskray.cohorts import Cohort, Task
from mskray.ensemble import DESCRIPTION, Ensemble, describe, load
from mskray.errors import UserError
from mskray.evaluation.calibration import fit_temperature
from mskray.evaluation.metrics import weighted_figures
from mskray.families import Images
from mskray.progress import Progress
from mskray.storage import locate
from mskray.tuning.job import BudgetSection, SearchSection
from mskray.tuning.ledger import Ledger, TrialRecord
from mskray.tuning.page import PAGE
from mskray.tuning.ray_trial import RECORD
from mskray.tuning.search import StudySearch
from mskray.tuning.space import parse_space
from mskray.verbs.evaluate import parquet_bytes
from mskray.verbs.promote import promote
from mskray.verbs.tune import _description, parse_search, tune
from mskray.verbs.tune_show import show
from mskray.verbs.votes import Votes, collect

KAPPA = "validation.study.kappa"
OTHER = Task(name="side", classes=("front", "middle", "back"))


def bundle(folder: Path, **changes: Any) -> str:
    """Write a bundle that no other is the same as; return its URI."""
    entry = {"epoch": 1}
    facts: dict[str, Any] = {
        "family": "classifier",
        "config": {},
        "task": TILT.name,
        "classes": TILT.classes,
        "kind": "radiograph",
        "body_parts": ("LSPINE",),
        "image": {"size": 48, "dtype": "uint8", "fit": "pad"},
        "state": {"weight": torch.tensor([float(len(str(folder)) + sum(map(ord, str(folder))))])},
        "history": [entry],
        "best": entry,
        "labels": {"lying": 1, "standing": 1},
        "cohort": {"uri": "", "content_hash": "ab"},
    }
    save_bundle(Fitted(**{**facts, **changes}), locate(folder), "f")
    return str(folder)


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    return small_cohort(tmp_path / "cohort", np.array([0, 0, 1, 1, 1, 1, 0, 0]))


def small_cohort(folder: Path, labels: np.ndarray, **more: Any) -> Cohort:
    splits = {
        split: (np.full((len(known), *PICTURES.shape), 90, np.uint8), {TILT.name: known})
        for split, known in (("train", np.arange(8) // 2 % 2), ("validation", labels))
    }
    return write_cohort(folder, splits, (TILT,), PICTURES, **{"kind": "radiograph", **more})


@pytest.fixture
def job(cohort: Cohort, tmp_path: Path) -> dict[str, Any]:
    return {
        "family": "ensemble",
        "cohort": str(cohort.location),
        "out": str(tmp_path / "search"),
        "members": [bundle(tmp_path / "one" / "knees"), bundle(tmp_path / "two" / "knees"), bundle(tmp_path / "hips")],
    }


def said(search: str, votes: Votes, cohort: Cohort, standing: Mapping[str, list[float | None]]) -> None:
    """Write what members said, as if they had been asked."""
    rows = cohort.columns("validation", ["instance_id", "study_id", "patient_id", "body_part", TILT.column])
    for number, (name, given) in enumerate(standing.items(), start=1):
        columns: dict[str, Any] = {key: rows[key] for key in rows if key != TILT.column}
        columns |= {"label": pa.array(rows[TILT.column].astype(np.int32), mask=rows[TILT.column] < 0)}
        columns |= {"prob_lying": pa.array([None if each is None else 1 - each for each in given], pa.float32())}
        columns |= {"prob_standing": pa.array(given, pa.float32())}
        columns |= {"latency_ms": [1.0 * number] * len(given), "size_mb": [10.0 * number] * len(given)}
        member = votes.base["members"][name]
        place = locate(search).join("members", f"{member['hash']}.parquet")
        place.write_bytes(parquet_bytes(pa.table(columns)))


def test_names_are_the_bundles_numbered_where_they_must_be(tmp_path: Path) -> None:
    places = ["a/knees", "b/knees", "c/knees v.2 (old)", "d/copy", "e/_", "f/knees-2"]
    votes = Votes.of([bundle(tmp_path / place) for place in places])
    assert votes.names == ("knees", "knees-2", "knees-v-2-old", "copy-2", "bundle", "knees-2-2")
    assert votes.base["members"]["knees-2"]["uri"] == str(locate(tmp_path / "b" / "knees"))


def test_by_default_who_votes_and_the_weights_of_those_who_do_are_searched(job: dict[str, Any]) -> None:
    parsed, votes, base = parse_search(job, "test")
    space = parse_space(parsed.space, votes, base, "", "test")
    assert space.to_data()["members.hips.weight"] == {"uniform": [0.0, 1.0], "when": {"members.hips.member": [True]}}
    assert space.to_data()["members.hips.member"] == {"choice": [True, False]}
    assert len(space.parameters) == 6
    always = parse_space({"members.hips.member": None, "members.hips.weight": {"choice": [1, 2]}}, votes, base, "", "t")
    assert always.to_data()["members.hips.weight"] == {"choice": [1.0, 2.0]}
    assert parse_space({}, votes, base, "members", "test").count() == 8
    assert parse_space({}, votes, base, "weights", "test").infinite() == [
        "members.hips.weight",
        "members.knees-2.weight",
        "members.knees.weight",
    ]


def test_a_vote_of_nobody_is_refused_and_the_search_goes_on(job: dict[str, Any], cohort: Cohort) -> None:
    _, votes, base = parse_search(job, "test")
    ledger = Ledger(locate(job["out"]))
    space = parse_space({}, votes, base, "members", "test")
    searcher = StudySearch(
        ledger, [], space, SearchSection(method="grid"), BudgetSection(trials=8), (KAPPA,), votes, base, cohort, ""
    )
    given = 0
    while (suggestion := searcher.suggest(f"{given}")) != StudySearch.FINISHED:
        assert any(value for value in suggestion[RECORD]["parameters"].values())
        given += 1
    assert given == 7
    refused = [record for record in ledger.trials() if record.state == "refused"]
    assert [set(record.parameters.values()) for record in refused] == [{False}]
    assert refused[0].reason == "no member votes with a weight above 0"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"members": None}, "members = None is not allowed"),
        ({"members": ["s3://bucket/a"]}, "members = .* is not allowed .*length ≥ 2"),
        ({"trials": {"folds": 3}}, "trials.folds makes no sense for an ensemble"),
        ({"scheduler": {"name": "asha"}}, "scheduler.name makes no sense for an ensemble"),
        ({"repeats": {"best": 2}}, "repeats.best makes no sense for an ensemble"),
        ({"metric": "test.study.kappa"}, "test split cannot be tuned on"),
        ({"metric": "validation.tasks.kappa"}, "metric validation.tasks.kappa is never reported by ensemble"),
        (
            {"metric": ["latency_ms", "validation.image.loss"]},
            "metric validation.image.loss is never reported by ensemble",
        ),
        ({"loop": {"epochs": 3}}, "unknown key loop"),
        ({"task": "side"}, "the members answer type, not the task 'side'"),
        ({"space": {"members.hip.weight": {"choice": [1]}}}, "did you mean members.hips.weight"),
        ({"space": {"members.hips.weight": {"uniform": [-1, 1]}}}, "members.hips.weight = -1 is not allowed"),
        ({"space": {"members.hips.uri": {"choice": ["s3://elsewhere"]}}}, "members.hips.uri = 's3://elsewhere'"),
        ({"search": {"method": "grid"}}, "members.hips.weight.* is a range"),
        ({"preset": "member"}, "no preset 'member': did you mean members"),
    ],
)
def test_what_cannot_be_searched_is_refused_before_any_work(
    job: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        tune(*parse_search({**job, **change}, "test"), "test")
    assert "\n" not in str(caught.value)
    assert not Path(job["out"]).exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": OTHER.name, "classes": OTHER.classes}, "an ensemble needs one question"),
        ({"classes": ("standing", "lying")}, "an ensemble needs one question"),
        ({"kind": "disc"}, "an ensemble needs one question"),
        ({"family": "vertebra_detector"}, "tells no classes apart"),
        ({"merged": True}, "learned from the validation split of .*: leave it out of members"),
        ({"again": True}, "are the same: give it once"),
    ],
)
def test_who_cannot_be_a_member(
    job: dict[str, Any], cohort: Cohort, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    if changes.pop("merged", False):
        changes["cohort"] = {"uri": str(cohort.location), "content_hash": cohort.merged().content_hash}
    more = job["members"][0] if changes.pop("again", False) else bundle(tmp_path / "more", **changes)
    with pytest.raises(UserError, match=message):
        tune(*parse_search({**job, "members": [*job["members"], more]}, "test"), "test")
    assert not Path(job["out"]).exists()


@pytest.mark.parametrize(
    ("labels", "kind", "message"),
    [
        (np.ones(4, int), "radiograph", "votes are judged on labels of two classes"),
        (np.array([0, 1]), "disc", "the members read radiograph cohorts, .* holds discs"),
    ],
)
def test_a_cohort_that_cannot_judge_votes(
    job: dict[str, Any], tmp_path: Path, labels: np.ndarray, kind: str, message: str
) -> None:
    other = small_cohort(tmp_path / "other", labels, kind=kind)
    with pytest.raises(UserError, match=message):
        tune(*parse_search({**job, "cohort": str(other.location)}, "test"), "test")


def test_images_that_some_member_could_not_judge_have_no_vote_and_are_told(tmp_path: Path, job: dict[str, Any]) -> None:
    cohort = small_cohort(tmp_path / "gaps", np.array([0, 0, 1, 1, -1, 1]))
    _, votes, _ = parse_search(job, "test")
    given = [0.1, 0.2, 0.9, 0.8, 0.5, 0.6]
    said(job["out"], votes, cohort, {"knees": given, "knees-2": [None, *given[1:]], "hips": given[::-1]})
    heard: list[Progress] = []
    members = votes.base["members"]
    ballots = collect(locate(job["out"]), members, cohort, TILT, heard.append)
    assert ballots.rows["instance_id"].to_pylist() == [f"validation-00{number}" for number in (1, 2, 3, 5)]
    np.testing.assert_allclose(ballots.prob[:, :, 1], [[0.2, 0.9, 0.8, 0.6]] * 2 + [[0.5, 0.8, 0.9, 0.1]], rtol=1e-6)
    assert [str(each) for each in heard] == ["1 of 5 labelled images some member could not judge: no vote is on them"]
    assert ballots.judged({"knees": 1.0, "hips": 0.5})["latency_ms"] == 4.0

    place = locate(job["out"]).join("members", f"{members['hips']['hash']}.parquet")
    said(job["out"], votes, small_cohort(tmp_path / "few", np.array([0, 1])), {"hips": [0.1, 0.2]})
    with pytest.raises(UserError, match=r"is not of the images of .*: delete it"):
        collect(locate(job["out"]), members, cohort, TILT)
    place.write_bytes(b"PAR1 no more")
    with pytest.raises(UserError, match=r"\.parquet cannot be read .*: delete it, and mskray tune asks hips again"):
        collect(locate(job["out"]), members, cohort, TILT)
    place.delete()
    with pytest.raises(UserError, match=r"\.parquet is not there: run mskray tune of this search again"):
        collect(locate(job["out"]), members, cohort, TILT)


@pytest.fixture
def searched(job: dict[str, Any], cohort: Cohort) -> tuple[str, Votes]:
    """A search with two trials: what its ledger and its members left."""
    parsed, votes, base = parse_search(job, "test")
    ledger = Ledger(locate(job["out"]))
    space = parse_space({}, votes, base, "", "test")
    ledger.describe_as(_description(parsed, votes, base, space, (KAPPA,), cohort, TILT.name))
    best = {
        "members.knees.member": False,
        "members.knees-2.member": True,
        "members.hips.member": True,
        "members.hips.weight": 0.75,
        "members.knees-2.weight": 0.25,
    }
    for number, (values, kappa) in enumerate(((best, 0.6), ({"members.hips.member": False}, 0.5))):
        record = TrialRecord(id=f"{number:012x}", number=number, parameters=values, state="finished")
        ledger.write(record.model_copy(update={"figures": {KAPPA: kappa}}))
    lists: dict[str, list[float | None]] = {
        "knees": [0.5] * 8,
        "knees-2": [0.1, 0.7, 0.6, 0.9, 0.8, 0.3, 0.4, 0.2],
        "hips": [0.3, 0.2, 0.4, 0.7, 0.9, 0.6, 0.6, 0.1],
    }
    said(job["out"], votes, cohort, lists)
    return job["out"], votes


def test_the_winners_members_and_weights_become_the_ensemble(
    searched: tuple[str, Votes], cohort: Cohort, tmp_path: Path
) -> None:
    search, votes = searched
    made = promote([search], str(tmp_path / "out"))
    assert isinstance(made, Ensemble)
    assert made == describe(str(tmp_path / "out"))
    hashes = {member["uri"]: member["hash"] for member in votes.base["members"].values()}
    hips, knees = (votes.base["members"][name]["uri"] for name in ("hips", "knees-2"))
    assert {member.uri: member.weight for member in made.members} == {knees: 0.25, hips: 0.75}
    assert all(member.hash == hashes[member.uri] for member in made.members)
    mean = np.array([0.25, 0.325, 0.45, 0.75, 0.875, 0.525, 0.55, 0.125])
    labels = np.array([0, 0, 1, 1, 1, 1, 0, 0])
    expected = fit_temperature(np.stack([1 - mean, mean], axis=1), labels)
    assert made.calibration.temperature == pytest.approx(expected, rel=1e-4)
    assert made.calibration.fitted_on is not None
    assert str(cohort.location) in made.calibration.fitted_on
    assert promote([search], str(tmp_path / "out")) == made, "the same again"
    assert f"mskray tune promote {locate(search)} writes the ensemble of {0:012x}" in show(search)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("number", "is a search of an ensemble's votes: promote it alone"),
        ("two", "is a search of an ensemble's votes: promote it alone"),
        ("bundle", "holds a bundle: give the ensemble a folder of its own"),
        ("ensemble", r"already holds another ensemble \(1 members\)"),
        ("changed", "has changed since the search .*: search anew, or bring it back"),
    ],
)
def test_what_cannot_be_promoted(searched: tuple[str, Votes], tmp_path: Path, how: str, message: str) -> None:
    search, _ = searched
    out = tmp_path / "out"
    if how == "bundle":
        bundle(out)
    elif how == "ensemble":
        member = {"uri": "file:///elsewhere", "hash": "ab"}
        made = Ensemble(name="other", task=TILT.name, classes=TILT.classes, members=[member])
        locate(out).join(DESCRIPTION).write_json(made.model_dump(mode="json"))
    elif how == "changed":
        bundle(tmp_path / "hips", image={"size": 32, "dtype": "uint8", "fit": "pad"})
    with pytest.raises(UserError, match=message):
        promote([search] * (2 if how == "two" else 1), str(out), ensemble=2 if how == "number" else 0)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(300)
def test_votes_are_searched_each_bundle_is_asked_once_and_the_winner_votes_so(tmp_path: Path, ray_cluster: str) -> None:
    """What the search says of its winner is what the ensemble that is written says of the same images."""
    task = Task(name="abnormality", classes=("normal", "abnormal"))
    random = np.random.default_rng(0)
    images, labels = random.integers(0, 255, (24, *PICTURES.shape)).astype(np.uint8), np.arange(24) % 3 % 2
    cohort = write_cohort(
        tmp_path / "cohort", {"validation": (images, {task.name: labels})}, (task,), PICTURES, "radiograph"
    )
    members = [
        untrained_bundle(tmp_path / name, "mobilenet_v3_small", 64, seed, 48)
        for seed, name in enumerate(("one", "two"))
    ]
    auroc = "validation.image.auroc"
    job: dict[str, Any] = {"family": "ensemble", "cohort": str(cohort.location), "out": str(tmp_path / "search")}
    job |= {"members": members, "metric": auroc, "search": {"method": "random"}, "budget": {"trials": 3}}
    first = tune(*parse_search(job, "test"), "test").trials()
    kept = sorted((tmp_path / "search" / "members").iterdir())
    assert len(kept) == 2
    before = [path.stat().st_mtime_ns for path in kept]
    records = tune(*parse_search({**job, "budget": {"trials": 5}}, "test"), "test").trials()
    assert [path.stat().st_mtime_ns for path in kept] == before, "asked again"
    assert {record.id: record for record in first}.items() <= {record.id: record for record in records}.items()
    done = [record for record in records if record.state == "finished"]
    assert len(done) == 5
    assert all(record.figures["latency_ms"] > 0 < record.figures["size_mb"] for record in done)
    best = max(done, key=lambda record: record.figures[auroc])
    assert best.id in (tmp_path / "search" / PAGE).read_text()

    made = promote([job["out"]], str(tmp_path / "out"))
    written = json.loads((tmp_path / "out" / DESCRIPTION).read_text())
    chosen = {key.split(".")[1]: value for key, value in best.parameters.items() if key.endswith("weight")}
    assert {Path(member["uri"]).name: member["weight"] for member in written["members"]} == chosen
    assert made.classes == task.classes
    vote = load(str(tmp_path / "out"))(Images(list(images)))
    there = weighted_figures(labels, vote.probabilities.astype(np.float64), np.ones((1, 24)))
    assert float(there["auroc"][0]) == pytest.approx(best.figures[auroc], abs=0.01)
