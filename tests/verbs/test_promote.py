"""From a search to a model: how long, of what, told how; what cannot be promoted is refused before any training."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from stack_cohort import PICTURES, TILT, write_cohort

from mskray.bundles import CARD, Fitted, load_bundle, save_bundle
from mskray.cohorts import Cohort
from mskray.config import describe as settings
from mskray.ensemble import Ensemble, describe, load, save_ensemble
from mskray.errors import UserError
from mskray.evaluation.calibration import fit_temperature
from mskray.families import Images, families, family, load_predictor
from mskray.progress import Progress, silent
from mskray.storage import locate
from mskray.training.run import Resources
from mskray.tuning.leaderboard import ranked
from mskray.tuning.ledger import Description, Ledger, TrialRecord
from mskray.unseen import check_held_out
from mskray.verbs.promote import MEMBERS, _candidates, promote
from mskray.verbs.searches import Found, epochs_of

KAPPA = "validation.image.kappa"
SVM = {"network": {"backbone": "resnet18", "weights": "none"}, "data": {"image_size": 64}}
CLASSIFIER = {
    "network": {"backbone": "mobilenet_v3_small", "weights": "none"},
    "data": {"image_size": 64, "batch_size": 8, "shuffle_window": 64},
    "loop": {"epochs": 7, "patience": 1, "metric": "accuracy"},
    "schedule": {"name": "none"},
}


def record(number: int, kappa: float, parameters: dict[str, Any] | None = None, **other: Any) -> TrialRecord:
    given = {"number": number, "parameters": parameters or {}, "state": "finished", "figures": {KAPPA: kappa}, **other}
    return TrialRecord(id=f"{number:012x}", **given)


def described(cohort: str = "s3://bucket/cohort", **other: Any) -> Description:
    values: dict[str, Any] = {"family": "feature_svm", "cohort_hash": "ab", "task": TILT.name, "base": {}, "space": {}}
    values |= {"metrics": (KAPPA,), "search": {}, "scheduler": {}, "folds": {}, "repeats": {}, "fingerprint": "f"}
    return Description(cohort=cohort, created="2026-01-01", versions={}, **{**values, **other})


def search(folder: Path, cohort: Cohort, *records: TrialRecord, said: int | None = None, **other: Any) -> str:
    """Write a ledger by hand; each finished trial leaves what it said of `said` validation images, all by default."""
    ledger = Ledger(locate(folder))
    ledger.describe_as(described(str(cohort.location), **{"cohort_hash": cohort.content_hash, "base": SVM, **other}))
    rows = cohort.columns("validation", ["instance_id", "study_id", "patient_id", "body_part", TILT.column])
    labels = rows[TILT.column]
    for each in records:
        ledger.write(each)
        if each.state != "finished":
            continue
        random = np.random.default_rng(each.number)
        sure = 0.5 + (labels - 0.5) * random.uniform(-0.3, 0.9, len(labels))
        columns = {name: rows[name] for name in ("instance_id", "study_id", "patient_id", "body_part")}
        columns |= {"label": labels, "prob_lying": 1 - sure, "prob_standing": sure, "fold": np.zeros(len(labels), int)}
        ledger.write_predictions(each.id, pa.table(columns).slice(0, said))
    return str(folder)


def pictures(count: int, seed: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Noise with a bar that lies or stands."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) // 2 % 2
    images = random.integers(90, 130, (count, *PICTURES.shape)).astype(np.uint8)
    for image, standing in zip(images, labels, strict=True):
        half = (3, 14) if standing else (14, 3)
        image[24 - half[1] : 24 + half[1], 24 - half[0] : 24 + half[0]] = 240
    return images, {TILT.name: labels}


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    splits = {"train": pictures(32, 0), "validation": pictures(16, 1), "test": pictures(8, 2)}
    return write_cohort(tmp_path / "cohort", splits, (TILT,), PICTURES, "radiograph")


def history(prefix: str, scores: list[float]) -> tuple[dict[str, float], ...]:
    return tuple({f"{prefix}epoch": number, f"{prefix}score": each} for number, each in enumerate(scores, start=1))


@pytest.mark.parametrize(
    ("name", "records", "expected"),
    [
        ("feature_svm", [record(0, 0.5)], {}),
        ("classifier", [record(0, 0.5, epochs=7.4)], {"loop.epochs": 7}),
        ("classifier", [record(0, 0.5, epochs=0.0)], {}),
        # A mean of 2.5 is rounded up, whatever is even.
        ("classifier", [record(0, 0.5, epochs=2.0), record(1, 0.4, epochs=3.0, seed=1)], {"loop.epochs": 3}),
        (
            "classifier",
            [record(0, 0.5, epochs=4.0), record(1, 0.4, epochs=9.0, seed=1, state="failed")],
            {"loop.epochs": 4},
        ),
        ("racnn", [record(0, 0.5, epochs=12.6)], {"loop.epochs": 13}),
        (
            "kalm",
            [record(0, 0.5, epochs=6.0, history=(*history("global/", [0.1, 0.4, 0.4]), *history("", [0.2, 0.1])))],
            {"loop.epochs": 2, "local.epochs": 6},
        ),
        (
            "kalm",
            [
                record(0, 0.5, epochs=6.0, history=history("global/", [0.1, 0.4])),
                record(1, 0.5, epochs=5.0, seed=1, history=history("global/", [0.1, 0.2, 0.3, 0.4, 0.5])),
            ],
            {"loop.epochs": 4, "local.epochs": 6},
        ),
        ("kalm", [record(0, 0.5, epochs=6.0)], {"local.epochs": 6}),
    ],
)
def test_as_long_as_the_best_epochs_on_average(name: str, records: list[TrialRecord], expected: dict[str, int]) -> None:
    (row,) = ranked(described(), records)
    assert epochs_of(family(name).epoch_keys, row) == expected


def test_the_keys_of_epochs_are_in_the_configs() -> None:
    for each in families().values():
        known = {setting.key for setting in settings(each.Config)}
        if any(key.startswith("loop.") for key in known):
            assert set(each.epoch_keys.values()) <= known, each.name


def test_the_job_is_the_base_with_the_trials_parameters_and_epochs(cohort: Cohort, tmp_path: Path) -> None:
    rate = {"optimizer.learning_rate": 0.02}
    place = search(tmp_path / "search", cohort, record(0, 0.6, rate, epochs=3.0), family="classifier", base=CLASSIFIER)
    found = Found.open(place)
    job, chosen, config = found.winner.job(locate(tmp_path / "out"), {"workers": 2})
    assert (job.resources.workers, job.resources.max_failures) == (2, Resources().max_failures)
    assert (chosen.name, job.merge, job.task, job.out) == ("classifier", True, TILT.name, str(locate(tmp_path / "out")))
    assert (config.optimizer.learning_rate, config.loop.epochs, config.data.batch_size) == (0.02, 3, 8)
    assert job.view(found.cohort).count("train") == 48


def test_a_row_that_could_not_judge_all_is_left_out_and_told(cohort: Cohort, tmp_path: Path) -> None:
    place = search(tmp_path / "search", cohort, record(0, 0.6, {"svm.degree": 1}), record(1, 0.5, {"svm.degree": 2}))
    ledger = Ledger(locate(place))
    ledger.write_predictions(f"{0:012x}", ledger.predictions(f"{0:012x}").slice(1))
    said: list[Progress] = []
    rows, _ = _candidates([Found.open(place)], said.append)
    assert [row.row.id for row in rows] == [f"{1:012x}"]
    assert "feature_svm-000000000000 is left out: it could judge 15 of 16 images only" in str(said[0])


def test_searches_are_merged_by_figure_and_keep_their_own_order(cohort: Cohort, tmp_path: Path) -> None:
    """In the first search the repeated row comes before a lone one with a luckier figure."""
    one = {"svm.degree": 1}
    repeated = [record(0, 0.5, one), record(1, 0.6, one, seed=1), record(2, 0.9, {"svm.degree": 2})]
    first = search(tmp_path / "first", cohort, *repeated)
    second = search(tmp_path / "second", cohort, record(5, 0.7), record(6, 0.2, one), fingerprint="g")
    rows, candidates = _candidates([Found.open(first), Found.open(second)], silent)
    assert [row.row.id[-1] for row in rows] == ["5", "0", "2", "6"]
    assert [each.name for each in candidates] == [row.name for row in rows]


def bundle(folder: Path) -> None:
    entry = {"epoch": 1}
    facts = {
        "config": {},
        "kind": "radiograph",
        "body_parts": (),
        "image": {"size": 48, "dtype": "uint8", "fit": "pad"},
    }
    known = {
        "history": [entry],
        "best": entry,
        "labels": {"lying": 1, "standing": 1},
        "cohort": {"uri": "", "content_hash": "ab"},
    }
    made = Fitted(family="classifier", task=TILT.name, classes=TILT.classes, state={}, **facts, **known)
    save_bundle(made, locate(folder), "f")


def other_ensemble(folder: Path) -> None:
    member = {"uri": "file:///elsewhere", "hash": "ab"}
    save_ensemble(Ensemble(name="other", task=TILT.name, classes=TILT.classes, members=[member]), locate(folder))


ONE = {"svm.degree": 1}


@pytest.mark.parametrize(
    ("kwargs", "ensemble", "prepare", "message"),
    [
        ({"records": []}, 0, None, "no trial of this search of feature_svm has finished"),
        ({"records": [record(0, 0.5, state="failed", reason="too few bags")]}, 2, None, "the first: too few bags"),
        ({}, -1, None, "an ensemble of -1: give the number of members, 1 at least"),
        ({}, 3, None, "an ensemble of 3: there are 2 finished trials to choose from"),
        ({"cohort_hash": "0" * 64}, 0, None, "has changed since the search .*: search anew, or bring it back"),
        ({}, 0, other_ensemble, "holds an ensemble: give the bundle a folder of its own"),
        ({}, 1, bundle, "holds a bundle: give the ensemble a folder of its own"),
        ({}, 1, other_ensemble, r"already holds another ensemble \(1 members\)"),
        ({}, 0, bundle, "already holds a bundle of another job"),
        ({"metrics": ("validation.tasks.kappa",)}, 2, None, "cannot be chosen by validation.tasks.kappa"),
        ({"base": {"svm": {"degree": 99}}, "records": [record(0, 0.5)]}, 0, None, "svm.degree = 99 is not allowed"),
    ],
)
def test_what_cannot_be_promoted_is_refused(
    cohort: Cohort, tmp_path: Path, kwargs: dict[str, Any], ensemble: int, prepare: Any, message: str
) -> None:
    records = kwargs.pop("records", [record(0, 0.6, ONE), record(1, 0.5, {"svm.degree": 2})])
    if kwargs.get("metrics"):
        records = [each.model_copy(update={"figures": {kwargs["metrics"][0]: 0.5}}) for each in records]
    place = search(tmp_path / "search", cohort, *records, **kwargs)
    if prepare:
        prepare(tmp_path / "out")
    with pytest.raises(UserError, match=message) as caught:
        promote([place], str(tmp_path / "out"), ensemble=ensemble)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out" / MEMBERS).exists()


def test_a_family_without_probabilities_has_no_vote(cohort: Cohort, tmp_path: Path) -> None:
    place = search(tmp_path / "search", cohort, record(0, 0.6))
    (tmp_path / "search" / "trials" / f"{0:012x}" / "predictions.parquet").unlink()
    with pytest.raises(UserError, match=r"left no predictions\.parquet: its family gives no class probabilities"):
        promote([place], str(tmp_path / "out"), ensemble=1)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"cohort": "another"}, "are of different cohorts"),
        ({"metrics": ("validation.study.kappa",)}, "are of different metrics"),
        ({"same": True}, "is given twice"),
        ({"said": 10}, r"were judged on different images: the latter lacks 6 of its images"),
    ],
)
def test_searches_that_do_not_go_together(cohort: Cohort, tmp_path: Path, other: dict[str, Any], message: str) -> None:
    first = search(tmp_path / "first", cohort, record(0, 0.6))
    if other.pop("cohort", None):
        splits = {"train": pictures(8, 3), "validation": pictures(8, 4)}
        cohort = write_cohort(tmp_path / "another", splits, (TILT,), PICTURES, "radiograph")
    second = first
    if not other.pop("same", False):
        figures = dict.fromkeys(other.get("metrics", (KAPPA,)), 0.5)
        second = search(tmp_path / "second", cohort, record(1, 0.5, figures=figures), **other)
    with pytest.raises(UserError, match=message):
        promote([first, second], str(tmp_path / "out"), ensemble=2)
    with pytest.raises(UserError, match="have a winner each"):
        promote([first, second], str(tmp_path / "out"))


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(300)
def test_two_families_searches_become_an_ensemble(cohort: Cohort, tmp_path: Path, ray_cluster: str) -> None:
    """Trained on train and validation, for as long as the search says; calibrated on the search's own answers."""
    spread = {"folds": ({KAPPA: 0.5}, {KAPPA: 0.7}), "spread": {KAPPA: 0.1}}
    svm = search(
        tmp_path / "svm", cohort, record(0, 0.6, {"svm.degree": 1, "bag.max_samples": 0.5}, **spread), record(1, 0.2)
    )
    rate = {"optimizer.learning_rate": 0.001}
    network = search(
        tmp_path / "network",
        cohort,
        record(5, 0.65, rate, epochs=2.4),
        record(6, 0.1, state="stopped"),
        family="classifier",
        base=CLASSIFIER,
        fingerprint="g",
    )
    out = tmp_path / "out"
    made = promote([svm, network], str(out), ensemble=2)
    assert isinstance(made, Ensemble)
    assert made == describe(str(out))
    names = {Path(member.uri).name: member for member in made.members}
    assert set(names) == {f"feature_svm-{0:012x}", f"classifier-{5:012x}"}

    bundle, fitted = load_bundle(str(out / MEMBERS / f"classifier-{5:012x}"))
    assert [entry["epoch"] for entry in bundle.history] == [1, 2], "the mean best epoch, rounded"
    assert bundle.best == bundle.history[-1]
    assert bundle.config["optimizer"]["learning_rate"] == 0.001
    assert sum(bundle.labels.values()) == 48
    assert bundle.learned == ("train", "validation")
    assert not any(key.startswith("val_") for key in bundle.best), "no figure of learned images is called validation"
    assert fitted.search is not None
    assert (fitted.search.trials, fitted.search.members, fitted.search.figures) == (2, 2, {KAPPA: 0.65})
    card = (out / MEMBERS / bundle.name / CARD).read_text()
    assert "It learned from the train and the validation split" in card
    assert f"| {KAPPA} | 0.650 |" in card
    assert "of 2 trials compared" in card

    judged = load_bundle(str(out / MEMBERS / f"feature_svm-{0:012x}"))[0]
    assert sum(judged.labels.values()) == 48
    card = (out / MEMBERS / judged.name / CARD).read_text()
    assert "## Out of bag, image level" in card
    assert f"| {KAPPA} | 0.600 ± 0.100 |" in card
    assert "by cross-validation over 2 folds" in card
    with pytest.raises(UserError, match="was trained on train and validation"):
        check_held_out(judged, cohort, "validation")
    check_held_out(judged, cohort, "test")

    weights = {name: member.weight for name, member in names.items()}
    votes = {
        name: Ledger(locate(uri)).predictions(name.partition("-")[2])
        for name, uri in zip(sorted(names), (network, svm), strict=True)
    }
    labels = votes[judged.name]["label"].to_numpy()
    mean = sum(weights[name] * table["prob_standing"].to_numpy() for name, table in votes.items()) / sum(
        weights.values()
    )
    expected = fit_temperature(np.stack([1 - mean, mean], axis=1), labels)
    assert made.calibration.temperature == pytest.approx(expected)

    test = cohort.read_shard(cohort.shards("test")[0], ["image", "body_part"])
    vote = load(str(out))(Images(list(test["image"]), test["body_part"].tolist()))
    assert vote.probabilities.shape == (8, 2)
    np.testing.assert_allclose(vote.probabilities.sum(axis=1), 1, atol=1e-5)

    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    (out / "ensemble.json").unlink()  # as if it had been cut off before the last file
    assert promote([svm, network], str(out), ensemble=2) == made
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")} == before, "trained again"

    alone = promote([svm], str(out / MEMBERS / judged.name))
    assert alone == judged, "the winner of its search: the very job that is there"
    _, predictor = load_predictor(str(out / MEMBERS / judged.name))
    assert predictor(Images(list(test["image"]))).probabilities.shape == (8, 2)
