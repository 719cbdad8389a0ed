"""`mskray find-vertebrae` on files: what is read, what is left out, what is refused."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from series_files import write_series
from small_run import untrained_bundle
from spine_run import vertebra_bundle

from mskray import ensemble
from mskray.cohorts.corners import Body, read_corners, write_corners
from mskray.cohorts.sources import Item, get_source
from mskray.errors import UserError
from mskray.families import Images
from mskray.families.vertebra_detector import VertebraDetectorConfig
from mskray.families.vertebra_finding import Spine, VertebraPredictor, load_vertebra_detector
from mskray.imaging.spine import FoundVertebra, Vertebra
from mskray.imaging.spine_levels import ASSUMED
from mskray.imaging.volumes import Volume
from mskray.progress import Progress
from mskray.serving.run import serve_forever
from mskray.serving.settings import Offer
from mskray.storage import locate
from mskray.verbs.find_vertebrae import find_vertebrae

SMALL = {"network": {"backbone": "mobilenet_v3_small", "weights": "none", "channels": 8}, "data": {"image_size": 64}}


@pytest.fixture
def detector(tmp_path: Path) -> str:
    """A bundle that nothing was learned for: it finds no body."""
    return vertebra_bundle(tmp_path / "bundle", VertebraDetectorConfig.model_validate(SMALL))


def write_volume(path: Path, across: int = 0, slices: int = 9) -> None:
    """Slices of 4 mm across the left (0), anterior (1) or superior (2) axis."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape, spacing = [50, 50, 50], [1.0, 1.0, 1.0, 1.0]
    shape[across], spacing[across] = slices, 4.0
    pixels = np.random.default_rng(0).integers(0, 900, shape).astype(np.int16)
    affine = np.diag(spacing)
    nibabel.save(nibabel.Nifti1Image(pixels, affine), path)


def test_volumes_of_a_folder_are_searched_and_other_files_counted(detector: str, tmp_path: Path) -> None:
    given = tmp_path / "given"
    write_volume(given / "a" / "one.nii.gz")
    write_volume(given / "two.nii")
    (given / "a" / "readme.txt").write_text("not a volume")
    (given / "empty.nii").write_bytes(b"")
    out, overlay = tmp_path / "corners.json", tmp_path / "overlays"
    done = find_vertebrae(detector, str(given), str(out), str(overlay))
    assert sorted(done.spines) == ["a/one.nii.gz", "two.nii"]
    lines = done.lines().splitlines()
    assert "a/one.nii.gz  no vertebral body was found" in lines
    assert sum(line.startswith("left out: 1 × ") for line in lines) == 2
    assert sorted(read_corners(locate(out))) == ["a/one.nii.gz", "two.nii"]
    assert (overlay / "a" / "one.nii.gz.png").read_bytes().startswith(b"\x89PNG")
    alone = find_vertebrae(detector, str(given / "two.nii"), str(out))
    assert sorted(alone.spines) == ["two.nii"]


def test_what_holds_no_volume_is_refused_and_nothing_is_written(detector: str, tmp_path: Path) -> None:
    given, out = tmp_path / "given", tmp_path / "corners.json"
    given.mkdir()
    (given / "readme.txt").write_text("not a volume")
    with pytest.raises(UserError, match=r"holds no volume \(1 × not DICOM, NIfTI or MetaImage, such as readme.txt\)"):
        find_vertebrae(detector, str(given), str(out))
    with pytest.raises(UserError, match="vertebrae are found by a vertebra_detector"):
        find_vertebrae(untrained_bundle(tmp_path / "classifier"), str(given), str(out))
    assert not out.exists()


def test_a_series_in_the_place_itself_goes_by_its_name_and_discs_can_be_cut_from_it(
    detector: str, tmp_path: Path
) -> None:
    write_series(tmp_path / "knee", [0, 1, 3, 4])
    out, overlay = tmp_path / "corners.json", tmp_path / "overlays"
    done = find_vertebrae(detector, str(tmp_path / "knee"), str(out), str(overlay))
    (line,) = done.lines().splitlines()
    assert line.startswith("knee  1 slice missing after slice 1")
    assert line.endswith("no vertebral body was found")
    assert [file.name for file in overlay.iterdir()] == ["knee.png"]
    corners = np.array([[5.0, 5], [20, 5], [20, 12], [5, 12]])
    found = [Body.of(Vertebra("L4", 2, corners)), Body.of(Vertebra("L5", 2, np.add(corners, (0, 15))))]
    write_corners(locate(out), dict.fromkeys(read_corners(locate(out)), found))
    table = tmp_path / "discs.csv"
    table.write_text("path,patient_id,level,label_narrowing\nknee,p1,L4/L5,none\n")
    source = get_source("discs")
    (item,) = source.items(locate(table), source.Options(corners=str(out)))
    assert isinstance(item, Item)


def test_single_slices_and_other_planes_are_left_out_with_their_reason(detector: str, tmp_path: Path) -> None:
    given = tmp_path / "given"
    write_volume(given / "sagittal.nii")
    write_volume(given / "coronal.nii", across=1)
    write_volume(given / "axial.nii", across=2)
    write_volume(given / "one.nii", slices=1)
    out = tmp_path / "corners.json"
    done = find_vertebrae(detector, str(given), str(out))
    assert list(read_corners(locate(out))) == list(done.spines) == ["sagittal.nii"]
    assert dict(done.rejected) == {
        "coronal.nii": "coronal slices: bodies are found on sagittal ones",
        "axial.nii": "axial slices: bodies are found on sagittal ones",
        "one.nii": "a volume of one slice: at least 2 are needed",
    }


def test_what_was_found_outlives_an_interruption(
    detector: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        write_volume(tmp_path / "given" / f"{number}.nii")
    out = tmp_path / "corners.json"
    monkeypatch.setattr("mskray.verbs.find_vertebrae._BETWEEN_WRITES", 2)

    def interrupt(progress: Progress) -> None:
        if progress.stage == "searched" and progress.done == 3:
            assert list(read_corners(locate(out))) == ["0.nii", "1.nii"]  # what a kill would leave
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find_vertebrae(detector, str(tmp_path / "given"), str(out), report=interrupt)
    assert list(read_corners(locate(out))) == ["0.nii", "1.nii", "2.nii"]


def test_a_search_goes_on_with_what_is_left_and_with_what_changed(
    detector: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched: list[int] = []

    def search(predictor: object, volume: Volume) -> Spine:
        if len(searched) == 3:
            raise KeyboardInterrupt
        searched.append(len(volume.pixels))
        corners = np.array([[5.0, 5], [20, 5], [20, 12], [5, 12]])
        above = FoundVertebra("L4", 2, corners, 0.9)
        return Spine((FoundVertebra("L5", 2, np.add(corners, (0, 15)), 0.8), above), (ASSUMED,))

    monkeypatch.setattr(VertebraPredictor, "find_in", search)
    monkeypatch.setattr("mskray.verbs.find_vertebrae._BETWEEN_WRITES", 1)
    given, out = tmp_path / "given", tmp_path / "corners.json"
    for number in range(4):
        write_volume(given / f"{number}.nii", slices=5 + number)
    with pytest.raises(KeyboardInterrupt):
        find_vertebrae(detector, str(given), str(out))
    write_volume(given / "1.nii", slices=9)
    searched.clear()
    done = find_vertebrae(detector, str(given), str(out))
    assert searched == [9, 8]
    assert done.kept == 2
    assert f"0.nii  L5 L4  least score 0.80  ({ASSUMED}; searched before)" in done.lines()
    corners = read_corners(locate(out))
    assert list(corners) == [f"{number}.nii" for number in range(4)]
    assert all(list(each.bodies) == ["L4", "L5"] for each in corners.values())
    # Whoever cuts discs from them is told, however often the search was made.
    assert all(each.notes == (ASSUMED,) for each in corners.values())
    # What was written before notes were kept is searched again.
    content = json.loads(out.read_text())
    del content["notes"]["2.nii"]
    out.write_text(json.dumps(content))
    searched.clear()
    assert find_vertebrae(detector, str(given), str(out)).kept == 3
    assert searched == [7]
    assert read_corners(locate(out))["2.nii"].notes == (ASSUMED,)
    # A picture is drawn of what is known; another detector searches anew.
    searched.clear()
    assert find_vertebrae(detector, str(given / "0.nii"), str(out), str(tmp_path / "pictures")).kept == 1
    assert (tmp_path / "pictures" / "0.nii.png").is_file()
    other = VertebraDetectorConfig.model_validate({**SMALL, "loop": {"seed": 7}})
    assert find_vertebrae(vertebra_bundle(tmp_path / "other", other), str(given / "0.nii"), str(out)).kept == 0
    assert searched == [5]


def test_what_a_person_drew_stays(detector: str, tmp_path: Path) -> None:
    given, out = tmp_path / "given", tmp_path / "corners.json"
    for name in ("drawn.nii", "other.nii"):
        write_volume(given / name)
    corners = np.array([[5.0, 5], [20, 5], [20, 12], [5, 12]])
    drawn = [Body.of(Vertebra("L5", 4, corners))]
    guessed = [Body.of(Vertebra("L5", 4, corners), 0.9)]
    write_corners(locate(out), {"drawn.nii": drawn, "elsewhere.nii": drawn, "other.nii": guessed})
    done = find_vertebrae(detector, str(given), str(out), str(tmp_path / "pictures"))
    assert done.lines().splitlines()[0] == "drawn.nii  L5  (drawn by hand: not searched)"
    assert done.kept == 1
    assert (tmp_path / "pictures" / "drawn.nii.png").is_file()
    # What no person drew and this detector did not find gives way to the search, which finds nothing.
    written = read_corners(locate(out))
    assert {name: list(each.bodies) for name, each in written.items()} == {
        "drawn.nii": ["L5"],
        "elsewhere.nii": ["L5"],
        "other.nii": [],
    }
    np.testing.assert_array_equal(written["elsewhere.nii"].bodies["L5"].corners, corners)
    assert find_vertebrae(detector, str(given), str(out)).kept == 2


def test_a_file_that_is_no_search_is_not_written_over(detector: str, tmp_path: Path) -> None:
    write_volume(tmp_path / "given" / "one.nii")
    out = tmp_path / "notes.json"
    out.write_text('{"my": "work"}')
    said: list[Progress] = []
    with pytest.raises(UserError, match=r"notes.json is no corners.json .* give another --out"):
        find_vertebrae(detector, str(tmp_path / "given"), str(out), report=said.append)
    assert not said
    assert out.read_text() == '{"my": "work"}'


def test_an_interrupted_search_keeps_what_an_earlier_one_found(
    detector: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        write_volume(tmp_path / "given" / f"{number}.nii")
    out = tmp_path / "corners.json"
    find_vertebrae(detector, str(tmp_path / "given"), str(out))
    write_volume(tmp_path / "given" / "0.nii", slices=8)
    monkeypatch.setattr("mskray.verbs.find_vertebrae._BETWEEN_WRITES", 1)

    def interrupt(progress: Progress) -> None:
        if progress.stage == "searched" and progress.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find_vertebrae(detector, str(tmp_path / "given"), str(out), report=interrupt)
    assert sorted(read_corners(locate(out))) == ["0.nii", "1.nii", "2.nii"]


def test_a_detector_is_not_asked_for_classes(detector: str) -> None:
    said = "finds bodies, tells no classes apart: use mskray find-vertebrae or evaluate"
    with pytest.raises(UserError, match=said):
        ensemble.join([detector], "spines")
    with pytest.raises(UserError, match=said):
        ensemble.describe(detector)
    _, predictor = load_vertebra_detector(detector)
    images = Images([np.zeros((64, 64), np.uint8)])
    with pytest.raises(UserError, match=said):
        predictor(images)
    with pytest.raises(UserError, match=said):
        predictor.explain(images, ["grad-cam"])


def test_a_model_that_reads_no_pictures_is_not_served(tmp_path: Path) -> None:
    bundle = Path(untrained_bundle(tmp_path / "discs"))
    description = json.loads((bundle / "bundle.json").read_text())
    (bundle / "bundle.json").write_text(json.dumps(description | {"kind": "disc"}))
    with pytest.raises(UserError, match="reads discs, not radiographs: give it with --spines"):
        serve_forever(Offer(ensemble=str(bundle)))
