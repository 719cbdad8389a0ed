"""`mskray grade`: from volumes and their bodies to a table of grades; what is left out, kept, refused."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from block_spine import BlockSpine
from disc_layouts import metaimage, series
from small_run import untrained_bundle
from small_spinenet import fitted, recipe
from stack_cohort import STACKS, TILT

from mskray.bundles import save_bundle
from mskray.cohorts.corners import Body, write_corners
from mskray.cohorts.shards import to_cell
from mskray.errors import UserError
from mskray.families import Images, load_predictor
from mskray.imaging.discs import disc_volume
from mskray.imaging.intensity import full_range
from mskray.progress import Progress, Report, silent
from mskray.storage import locate
from mskray.verbs.grade import Graded, grade


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Scans of three and of two bodies, one without corners and a text; a bundle that knows `side` and `type`."""
    save_bundle(fitted(recipe()), locate(tmp_path / "model"), "f00")
    spines = {"a.mha": BlockSpine(("L3", "L4", "L5"), tilt=15), "b/series": BlockSpine(tilt=-10)}
    metaimage(tmp_path / "in" / "a.mha", spines["a.mha"].volume)
    series(tmp_path / "in" / "b/series", spines["b/series"].volume)
    metaimage(tmp_path / "in" / "c.mha", spines["a.mha"].volume)
    (tmp_path / "in" / "notes.txt").write_text("no volume")
    bodies = {name: [Body.of(body) for body in spine.vertebrae.values()] for name, spine in spines.items()}
    write_corners(locate(tmp_path / "corners.json"), bodies)
    return tmp_path


def run(place: Path, report: Report = silent, **changes: str) -> Graded:
    given = {"bundle": "model", "source": "in", "corners": "corners.json", "out": "grades.csv", **changes}
    return grade(**{name: str(place / each) for name, each in given.items()}, report=report)


def table(place: Path) -> list[dict[str, str]]:
    with (place / "grades.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_every_disc_between_two_known_bodies_has_a_row_with_its_grades(place: Path) -> None:
    done = run(place)
    rows = table(place)
    assert [(row["volume"], row["level"]) for row in rows] == [
        ("a.mha", "L3/L4"),
        ("a.mha", "L4/L5"),
        ("b/series", "L4/L5"),
    ]
    assert (len(done.rows), done.called, done.kept) == (3, 3, 0)
    assert sorted(path for path, _ in done.rejected) == ["c.mha", "notes.txt"]
    assert "left out: 1 × no bodies of it in" in done.lines()
    # What is called is what the bundle says of the disc that a cohort would hold.
    spine = BlockSpine(("L3", "L4", "L5"), tilt=15)
    disc = disc_volume(spine.volume, spine.vertebrae["L4"], spine.vertebrae["L5"], slices=STACKS.slices)
    stack, _ = to_cell(full_range(disc.pixels, np.uint16), STACKS)
    _, predictor = load_predictor(str(place / "model"))
    (said,) = predictor(Images([stack])).parts["type"]
    row = next(row for row in rows if (row["volume"], row["level"]) == ("a.mha", "L4/L5"))
    assert row["type"] == TILT.classes[int(said.argmax())]
    assert [float(row[f"type:{name}"]) for name in TILT.classes] == pytest.approx(said.tolist(), abs=2e-4)
    assert sum(float(row[f"side:{name}"]) for name in ("front", "middle", "back")) == pytest.approx(1, abs=1e-3)


def test_what_was_graded_is_kept_until_the_bodies_change(place: Path) -> None:
    run(place)
    before = table(place)
    assert run(place).kept == 3
    assert table(place) == before
    spine = BlockSpine(tilt=-10)
    moved = replace(spine.vertebrae["L5"], corners=spine.vertebrae["L5"].corners + 3)
    write_corners(locate(place / "corners.json"), {"b/series": [Body.of(spine.vertebrae["L4"]), Body.of(moved)]})
    again = run(place)
    assert (len(again.rows), again.kept) == (1, 0)
    assert table(place)[0]["made_of"] != before[2]["made_of"]


def test_copies_of_a_volume_keep_their_names(place: Path) -> None:
    spine = BlockSpine(("L3", "L4", "L5"), tilt=15)
    bodies = [Body.of(body) for body in spine.vertebrae.values()]
    write_corners(locate(place / "corners.json"), {"a.mha": bodies, "c.mha": bodies})
    run(place)
    before = table(place)
    assert [row["volume"] for row in before] == ["a.mha", "a.mha", "c.mha", "c.mha"]
    assert run(place).kept == 4
    assert table(place) == before


def test_what_was_graded_outlives_an_interruption(place: Path) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.stage == "looked at":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(place, report=interrupt)
    assert [row["volume"] for row in table(place)] == ["a.mha", "a.mha"]
    assert run(place).kept == 2
    assert len(table(place)) == 3


def test_a_disc_outside_the_picture_is_a_row_with_its_reason(place: Path) -> None:
    spine = BlockSpine(tilt=-10)
    far = replace(spine.vertebrae["L5"], corners=spine.vertebrae["L5"].corners + np.array([0, 200]))
    write_corners(locate(place / "corners.json"), {"b/series": [Body.of(spine.vertebrae["L4"]), Body.of(far)]})
    done = run(place)
    (row,) = table(place)
    assert row["note"].startswith("not graded: ")
    assert row["side"] == row["type:lying"] == ""
    assert done.called == 0
    assert "b/series L4/L5" in done.lines()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bundle": "other"}, "is a classifier of radiographs: discs are graded by a spinenet"),
        ({"source": "nowhere"}, "nowhere"),
        ({"corners": "nowhere.json"}, r"nowhere\.json"),
        ({"out": "in/notes.txt"}, r"notes\.txt is there and is no table of grades"),
        ({"source": "empty"}, "holds no volume"),
        ({"corners": "alone.json"}, r"holds no disc to grade \(.*no two neighbouring bodies.*draw the bodies"),
    ],
)
def test_what_cannot_be_graded_is_one_line(place: Path, changes: dict[str, str], message: str) -> None:
    untrained_bundle(place / "other", "mobilenet_v3_small")
    (place / "empty").mkdir()
    one = [Body.of(next(iter(BlockSpine().vertebrae.values())))]
    write_corners(locate(place / "alone.json"), dict.fromkeys(("a.mha", "b/series", "c.mha"), one))
    with pytest.raises(UserError, match=message) as caught:
        run(place, **changes)
    assert "\n" not in str(caught.value)
    assert not (place / "grades.csv").exists()
