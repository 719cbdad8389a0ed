"""Volumes to bodies and grades: what `mskray grade` says, where it lies, how far it is, what was noted."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from block_spine import BlockSpine
from disc_layouts import metaimage
from small_run import untrained_bundle
from small_spinenet import fitted, recipe
from spine_run import vertebra_bundle

from mskray.bundles import read_description, save_bundle
from mskray.cohorts.corners import Body, write_corners
from mskray.errors import UserError
from mskray.families.disc_grading import load_disc_grader
from mskray.families.vertebra_detector import VertebraDetectorConfig
from mskray.families.vertebra_finding import Spine
from mskray.imaging.spine import FoundVertebra
from mskray.imaging.spine_levels import ASSUMED, NOTHING
from mskray.imaging.volumes import Volume
from mskray.serving.schemas.spines import Reached, SpineReading
from mskray.serving.spines import EXPLAINING, FINDING, GRADING, SpineReader
from mskray.storage import locate
from mskray.verbs.grade import grade

SMALL = {"network": {"backbone": "mobilenet_v3_small", "weights": "none", "channels": 8}, "data": {"image_size": 64}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A grader of random weights that knows `side` and `type`, and a detector that finds nothing."""
    place = tmp_path_factory.mktemp("spines")
    save_bundle(fitted(recipe()), locate(place / "grader"), "f00")
    vertebra_bundle(place / "detector", VertebraDetectorConfig.model_validate(SMALL))
    return place


@pytest.fixture(scope="module")
def reader(folder: Path) -> SpineReader:
    return SpineReader(str(folder / "grader"), str(folder / "detector"))


def known(spine: BlockSpine, *notes: str, **changed: FoundVertebra) -> Spine:
    """The spine's bodies from below, as a detector gives them."""
    bodies = {each.level: FoundVertebra(each.level, each.slice, each.corners, 0.9) for each in spine.vertebrae.values()}
    return Spine(tuple((bodies | changed).values())[::-1], notes)


def read(reader: SpineReader, volume: Volume, spine: Spine, copies: int | None = None) -> SpineReading:
    *_, last = reader.read_known(volume, spine, copies)
    assert isinstance(last, SpineReading)
    return last


def test_grades_are_those_of_the_command(reader: SpineReader, folder: Path, tmp_path: Path) -> None:
    spine = BlockSpine(("L3", "L4", "L5"), tilt=15)
    metaimage(tmp_path / "a.mha", spine.volume)
    write_corners(locate(tmp_path / "corners.json"), {"a.mha": [Body.of(each) for each in spine.vertebrae.values()]})
    grade(str(folder / "grader"), str(tmp_path / "a.mha"), str(tmp_path / "corners.json"), str(tmp_path / "out.csv"))
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["level"]: row for row in csv.DictReader(file)}
    reading = read(reader, spine.volume, known(spine))
    assert [disc.level for disc in reading.discs] == list(rows) == ["L3/L4", "L4/L5"]
    assert [body.level for body in reading.bodies] == ["L3", "L4", "L5"]
    for disc in reading.discs:
        for task, said in disc.grades.items():
            assert said.label == rows[disc.level][task]
            for name, share in said.probabilities.items():
                assert share == pytest.approx(float(rows[disc.level][f"{task}:{name}"]), abs=1e-4)
    assert (reading.volume.slices, reading.volume.rows, reading.volume.columns) == spine.volume.pixels.shape
    assert reading.hotspots == []


@pytest.mark.parametrize(
    ("copies", "expected"),
    [
        (None, [(0, GRADING), (1, GRADING), (2, GRADING)]),
        (1, [(0, GRADING), (1, GRADING), (2, GRADING), *((done, EXPLAINING) for done in range(3, 7))]),
    ],
)
def test_progress_is_told_after_each_disc_and_task(
    reader: SpineReader, copies: int | None, expected: list[tuple[int, str]]
) -> None:
    spine = BlockSpine(("L3", "L4", "L5"))
    said = list(reader.read_known(spine.volume, known(spine), copies))
    reached = [each for each in said if isinstance(each, Reached)]
    assert [(each.done, each.what) for each in reached] == expected
    assert {each.total for each in reached} == {expected[-1][0]}
    assert isinstance(said[-1], SpineReading)


@pytest.mark.parametrize(("copies", "middle", "slices"), [(1, 5, [4, 5, 6]), (3, 0, [0, 1]), (3, 10, [9, 10])])
def test_hotspots_lie_on_slices_of_the_volume(
    reader: SpineReader, folder: Path, copies: int, middle: int, slices: list[int]
) -> None:
    spine = BlockSpine(tilt=15, middle=middle)
    reading = read(reader, spine.volume, known(spine), copies)
    (disc,) = reading.discs
    assert disc.placement is not None
    assert disc.placement.slices == slices
    assert [(each.level, each.task) for each in reading.hotspots] == [("L4/L5", "side"), ("L4/L5", "type")]
    for each in reading.hotspots:
        assert each.pixels.shape == (len(slices), disc.placement.rows, disc.placement.columns)
        assert each.pixels.dtype == np.uint8
        assert each.pixels.max() == 255
    # From the middle of a picture's pixel to the middle of the volume's, as the grader places its input.
    _, grader = load_disc_grader(str(folder / "grader"))
    cut = grader.cut(spine.volume, spine.vertebrae["L4"], spine.vertebrae["L5"]).cut
    assert cut is not None
    a, b, c, d, e, f = disc.placement.matrix
    for x, y in ((0, 0), (83, 0), (10, 41)):
        _, row, column = cut.matrix @ [0, y, x, 1]
        assert a * (x + 0.5) + c * (y + 0.5) + e == pytest.approx(column + 0.5)
        assert b * (x + 0.5) + d * (y + 0.5) + f == pytest.approx(row + 0.5)


def test_pictures_show_the_disc_in_their_middle(reader: SpineReader) -> None:
    spine = BlockSpine(tilt=15)
    (disc,) = read(reader, spine.volume, known(spine)).discs
    assert disc.placement is not None
    a, b, c, d, e, f = disc.placement.matrix
    x, y = disc.placement.columns / 2, disc.placement.rows / 2
    place = np.argwhere(spine.discs["L4"][int(spine.middle)]) + 0.5
    np.testing.assert_allclose([b * x + d * y + f, a * x + c * y + e], place.mean(axis=0), atol=0.5)
    assert np.degrees(np.arctan2(b, a)) == pytest.approx(15, abs=0.01)


def test_a_disc_outside_the_picture_says_so(reader: SpineReader) -> None:
    spine = BlockSpine(("L3", "L4", "L5"))
    last = spine.vertebrae["L5"]
    far = FoundVertebra("L5", last.slice, last.corners + np.array([0, 300]), 0.9)
    reading = read(reader, spine.volume, known(spine, L5=far), 1)
    outside = reading.discs[1]
    assert (outside.level, outside.grades, outside.placement) == ("L4/L5", {}, None)
    assert outside.note == "the disc L4/L5 lies outside the field of view"
    assert reading.discs[0].grades
    assert reading.discs[0].note is None
    assert {each.level for each in reading.hotspots} == {"L3/L4"}


def test_notes_are_warnings(reader: SpineReader) -> None:
    spine = BlockSpine()
    volume = replace(spine.volume, notes=("1 slice missing after slice 3",))
    reading = read(reader, volume, known(spine, ASSUMED, "1 off the spine left out"))
    assert [(each.code, each.views) for each in reading.warnings] == [
        ("volume-doubtful", []),
        ("levels-assumed", []),
        ("bodies-doubtful", []),
    ]
    assert reading.warnings[1].message == ASSUMED


def test_without_a_spine_the_answer_is_empty_and_says_so(reader: SpineReader) -> None:
    pixels = np.random.default_rng(0).uniform(0, 900, (9, 60, 50)).astype(np.float32)
    first, *rest = reader.read(Volume(pixels, (4.0, 1.0, 1.0), np.eye(4)), 8)
    assert first == Reached(0, 0, FINDING)
    reading = rest[-1]
    assert isinstance(reading, SpineReading)
    assert (reading.bodies, reading.discs, reading.hotspots) == ([], [], [])
    assert [(each.code, each.message) for each in reading.warnings] == [("no-spine", NOTHING)]


def test_both_parts_are_described(reader: SpineReader, folder: Path) -> None:
    model, members = reader.described
    assert [member.family for member in members] == ["vertebra_detector", "spinenet"]
    assert {member.serves for member in members} == {"spines"}
    assert members[1].hash == read_description(str(folder / "grader")).hash
    assert model.tasks == {"side": ["front", "middle", "back"], "type": ["lying", "standing"]}
    assert len(model.hash) == 64
    assert model.hash not in {member.hash for member in members}


@pytest.mark.parametrize(
    ("grader", "detector", "message"),
    [
        ("other", "detector", "is a classifier of radiographs: discs are graded by a spinenet"),
        ("detector", "detector", "is a vertebra_detector of spines: discs are graded by a spinenet"),
        ("grader", "grader", "is a spinenet: vertebrae are found by a vertebra_detector"),
        ("nowhere", "detector", "nowhere"),
    ],
)
def test_bundles_that_do_not_do_are_one_line(folder: Path, grader: str, detector: str, message: str) -> None:
    if not (folder / "other").exists():
        untrained_bundle(folder / "other", "mobilenet_v3_small")
    with pytest.raises(UserError, match=message) as caught:
        SpineReader(str(folder / grader), str(folder / detector))
    assert "\n" not in str(caught.value)
