"""Table 2: its arithmetic and shape, the exchange of two splits, and that nothing finished is made again."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_discs import SECOND, TASKS, disc_cohort, disc_job, untrained

from mskray.cohorts import Cohort, Task
from mskray.errors import UserError
from mskray.evaluation.grading import MAIN
from mskray.evaluation.places import evaluation_folder
from mskray.evaluation.spinenet_table import PAPER, PAPER_INTRA_RATER, Spread, blocks, summary
from mskray.imaging.inputs import InputFormat, StackFormat
from mskray.imaging.spine import SPINE_TASKS
from mskray.progress import Progress
from mskray.storage import locate
from mskray.training.disc_samples import DiscSamples
from mskray.training.feed import describe_split
from mskray.verbs.grading import GRADING
from mskray.verbs.spine_table import JSON, MARKDOWN, second_readings, spine_table

SIX = tuple(Task(name=name, classes=classes, ordinal=True) for name, classes in SPINE_TASKS.items())
# Narrowing: ¾, ½, 0, 1 of the grades right, then all; marrow: ½ and 1, then ½ and ½.
NARROWING = [
    [[3, 1, 0, 0], [0, 1, 1, 0], [1, 1, 0, 0], [0, 0, 0, 2]],
    [[4, 0, 0, 0], [0, 2, 0, 0], [0, 0, 2, 0], [0, 0, 0, 2]],
]
MARROW = [[[2, 2], [0, 3]], [[1, 1], [2, 2]]]
MODELS = [{"narrowing": first, "upper_marrow": second} for first, second in zip(NARROWING, MARROW, strict=True)]


def test_mean_and_deviation_are_over_models() -> None:
    figures = summary({"conv5": MODELS}, TASKS)["conv5"]
    one, other = (0.75 + 0.5 + 0 + 1) / 4, 1.0
    assert figures[MAIN]["narrowing"].mean == pytest.approx((one + other) / 2)
    assert figures[MAIN]["narrowing"].sd == pytest.approx(abs(one - other) / np.sqrt(2))
    # The deviation of the mean is that of each model's mean, not that of the tasks: here 0.65625 and 0.75.
    assert figures[MAIN]["mean"].mean == pytest.approx((0.65625 + 0.75) / 2)
    assert figures[MAIN]["mean"].sd == pytest.approx((0.75 - 0.65625) / np.sqrt(2))
    assert figures["within_one"]["narrowing"].mean == pytest.approx((9 / 10 + 1) / 2)
    assert "upper_marrow" not in figures["within_one"]


def test_one_model_has_no_deviation_and_a_task_that_is_missing_no_mean() -> None:
    figures = summary({"fc6": [{"upper_marrow": MARROW[0]}]}, TASKS)["fc6"]
    assert figures[MAIN] == {"upper_marrow": Spread(0.75, None)}


def test_ours_stand_over_the_papers() -> None:
    confusions = {task.name: np.eye(len(task.classes), dtype=int).tolist() for task in SIX}
    main, lootus, kappa = blocks(summary({"conv5": [confusions, confusions]}, SIX), SIX, {"pfirrmann": 0.7})
    assert main.columns == ("branch point", "whose", *SPINE_TASKS, "mean")
    assert main.rows == (
        ("conv5", "ours", *["100.0 ± 0.0"] * 7),
        ("", "paper", "71.2 ± 0.4", "73.9 ± 0.7", "84.8 ± 0.6", "87.3 ± 2.3", "90.1 ± 0.4", "89.0 ± 0.4", "82.7"),
        ("intra-rater", "ours", "70.0", *["–"] * 6),
        ("", "paper", "70.4", "72.0", "80.7", "83.3", "92.5", "91.4", "81.7"),
    )
    assert lootus.rows[0] == ("conv5", "100.0 ± 0.0", "100.0 ± 0.0")
    assert [row[1:] for row in lootus.rows[1:]] == [("96.1", "87.8"), ("87.4", "83.7")]
    assert kappa.rows == (("conv5", *["1.000 ± 0.000"] * 7),)
    assert main.markdown().splitlines()[2] == f"| {' | '.join(main.columns)} |"


def test_other_tasks_have_no_figures_of_the_paper() -> None:
    grade = Task(name="kl_grade", classes=("0", "1", "2"), ordinal=True)
    (main, _) = blocks(summary({"none": [{"kl_grade": np.eye(3, dtype=int).tolist()}]}, [grade]), [grade], {})
    assert main.rows == (("none", "ours", "100.0", "100.0"),)


def test_the_papers_figures_say_what_it_says_of_them() -> None:
    means = {branch: figures["mean"].mean for branch, figures in PAPER.items()}
    assert max(means, key=means.__getitem__) == "conv5"  # "there is a sweet spot … at Conv5"
    assert min(means, key=means.__getitem__) == "none"  # "multi-task training results in a better performance"
    assert PAPER_INTRA_RATER["mean"] < means["conv5"]


def test_an_exchanged_cohort_holds_the_same_in_other_splits(tmp_path: Path) -> None:
    cohort = disc_cohort(tmp_path)
    other = cohort.exchange()
    assert _ids(other, "test") == _ids(cohort, "validation")
    assert _ids(other, "validation") == _ids(cohort, "test")
    assert _ids(other, "train") == _ids(cohort, "train")
    assert other.content_hash != cohort.content_hash
    assert other.exchange() == cohort
    # Loaders are sent the split.
    samples = DiscSamples((TASKS[0].column,), StackFormat(*cohort.image.shape), 84)
    split, labels = describe_split(other, "test", samples, InputFormat(84))
    stored = cohort.read_shard(cohort.shards("validation")[0], ["image", TASKS[0].column])
    kept = stored[TASKS[0].column] >= 0
    assert labels.ravel().tolist() == stored[TASKS[0].column][kept].tolist()
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(split)).load(0)["image"], stored["image"][kept])


def _ids(cohort: Cohort, split: str) -> list[str]:
    return list(cohort.columns(split, ["instance_id"])["instance_id"])


def test_a_second_reading_is_no_task_and_gives_the_intra_rater_column(tmp_path: Path) -> None:
    cohort = disc_cohort(tmp_path, (*TASKS, SECOND))
    # Of 16 discs a split, 13 are read; all odd ones show a change the first time.
    first = [number % 2 for number in range(16) if number % 5 != 4]
    second = [0 if number % 4 == 1 else number % 2 for number in range(16) if number % 5 != 4]
    changed = [two for one, two in zip(first, second, strict=True) if one]
    readings = second_readings(cohort, TASKS)
    assert readings == {"upper_marrow": pytest.approx((1 + np.mean(changed)) / 2)}


def injected(
    tmp_path: Path, branches: tuple[str, ...], other: dict[str, dict[str, Any]] | None = None
) -> tuple[Cohort, dict[str, Any]]:
    """A cohort, and a job all of whose bundles and evaluations are there for these branch points.

    other: sections that differ, by branch point.
    """
    cohort = disc_cohort(tmp_path / "cohort")
    data = disc_job(cohort, tmp_path / "table")
    for branch in branches:
        for place, exchanged in enumerate((False, True)):
            out = tmp_path / "table" / (f"{branch}-exchanged" if exchanged else branch)
            named = {"names": [task.name for task in TASKS]}
            network = {**data["network"], "branch": branch}
            job = {**data, "out": str(out), "network": network, "tasks": named, "exchange": exchanged}
            bundle = untrained({**job, **(other or {}).get(branch, {})})
            seen = cohort.exchange() if exchanged else cohort
            tasks = {name: {"confusion": confusion} for name, confusion in MODELS[place].items()}
            content = {"bundle_hash": bundle.hash, "tasks": tasks}
            evaluation_folder(locate(out), seen, "test").join(GRADING).write_json(content)
    return cohort, data


def test_what_is_finished_is_not_made_again(tmp_path: Path) -> None:
    _, data = injected(tmp_path, ("none", "conv5"))
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    said: list[Progress] = []
    text, folder = spine_table(data, "job.yaml", ["conv5"], said.append)
    assert sum("already trained" in each.stage for each in said) == 2
    assert {path: path.stat().st_mtime_ns for path in files} == files
    made = {path.name for path in tmp_path.rglob("*") if path.is_file()} - {path.name for path in files}
    assert made == {JSON, MARKDOWN}
    # The branch point that was not asked for is there, so it is shown.
    rows = [line.split()[:2] for line in text.splitlines()]
    assert rows.index(["none", "ours"]) < rows.index(["conv5", "ours"])
    content = folder.join(JSON).read_json()
    assert content["figures"]["none"][MAIN]["narrowing"]["mean"] == pytest.approx(0.78125)
    assert len(content["models"]["conv5"]) == 2


def test_a_bundle_of_another_job_is_refused_before_any_training(tmp_path: Path) -> None:
    _, data = injected(tmp_path, ("conv5",), {"conv5": {"loop": {"epochs": 2}}})
    with pytest.raises(UserError, match="conv5 already holds a bundle of another job"):
        spine_table(data, "job.yaml", ["none", "conv5"])
    assert not (tmp_path / "table" / "none").exists()


def test_models_of_another_config_are_no_rows(tmp_path: Path) -> None:
    cohort, data = injected(tmp_path, ("none", "conv3", "conv4", "conv5"), {"none": {"loop": {"epochs": 2}}})
    (tmp_path / "table" / "conv3" / "bundle.json").unlink()
    stale = evaluation_folder(locate(tmp_path / "table" / "conv4"), cohort, "test").join(GRADING)
    stale.write_json({**stale.read_json(), "bundle_hash": "another bundle's"})
    text, folder = spine_table(data, "job.yaml", ["conv5"])
    rows = [line.split()[:2] for line in text.splitlines()]
    assert ["conv5", "ours"] in rows
    assert ["none", "ours"] not in rows
    content = folder.join(JSON).read_json()
    assert {name: len(models) for name, models in content["models"].items()} == {"conv3": 1, "conv4": 1, "conv5": 2}
    assert content["left_out"] == {
        "none": "loop.epochs is 2, here 1000",
        "none-exchanged": "loop.epochs is 2, here 1000",
        "conv3": "its bundle is gone",
        "conv4": "its evaluation is of another bundle",
    }
    for written in (text, folder.join(MARKDOWN).read_bytes().decode()):
        assert "left out: none (loop.epochs is 2, here 1000)" in written


@pytest.mark.long
@pytest.mark.slow
def test_a_bundle_that_was_not_evaluated_is(tmp_path: Path, ray_cluster: str) -> None:
    cohort, data = injected(tmp_path, ("fc7",))
    places = [(tmp_path / "table" / "fc7", cohort), (tmp_path / "table" / "fc7-exchanged", cohort.exchange())]
    stale = evaluation_folder(locate(places[0][0]), cohort, "test").join(GRADING)
    stale.write_json({**stale.read_json(), "bundle_hash": "another bundle's"})
    before = evaluation_folder(locate(places[1][0]), places[1][1], "test").join(GRADING).read_bytes()
    spine_table(data, "job.yaml", ["fc7"])
    found = stale.read_json()
    assert found["tasks"]["narrowing"]["n"] == 13  # 3 of 16 have no label
    assert found["tasks"]["narrowing"]["unlabelled"] == 3
    assert sum(map(sum, found["tasks"]["upper_marrow"]["confusion"])) == 13
    assert found["cohort"] == {
        "uri": str(cohort.location),
        "content_hash": cohort.content_hash,
        "source": "manifest",
        "exchanged": False,
    }
    folder = evaluation_folder(locate(places[0][0]), cohort, "test")
    assert "narrowing" in folder.join("report-narrowing.html").read_bytes().decode()
    assert evaluation_folder(locate(places[1][0]), places[1][1], "test").join(GRADING).read_bytes() == before


@pytest.mark.parametrize(
    ("change", "branches", "message"),
    [
        ({}, ["conv6"], "no branch point 'conv6': did you mean conv"),
        ({"family": "classifier", "network": {}, "predict": None}, ["conv5"], "family classifier has no branch points"),
        ({"exchange": True}, ["conv5"], "leave out exchange"),
        ({"tasks": {"names": ["narrowed"]}}, ["conv5"], "no task 'narrowed'"),
        ({"data": {"image_size": 84, "slices": 7}}, ["conv5"], "too small for"),
    ],
)
def test_what_cannot_be_trained_is_refused_first(
    tmp_path: Path, change: dict[str, Any], branches: list[str], message: str
) -> None:
    cohort = disc_cohort(tmp_path / "cohort")
    data = {name: value for name, value in (disc_job(cohort, tmp_path / "table") | change).items() if value is not None}
    if data["family"] == "classifier":
        data["data"] = {"image_size": 64}
    with pytest.raises(UserError, match=message):
        spine_table(data, "job.yaml", branches)
    assert not (tmp_path / "table").exists()


def test_second_readings_with_other_classes_are_refused_first(tmp_path: Path) -> None:
    other = SECOND.model_copy(update={"classes": ("change", "normal")})
    cohort = disc_cohort(tmp_path / "cohort", (*TASKS, other))
    with pytest.raises(UserError, match="upper_marrow_second has other classes than upper_marrow"):
        spine_table(disc_job(cohort, tmp_path / "table"), "job.yaml", ["conv5"])
    assert not (tmp_path / "table").exists()
