"""A CSV of discs: corners from its columns or from corners.json, NIfTI, MetaImage and DICOM alike."""

from dataclasses import replace

import nibabel
import numpy as np
import pytest
from block_spine import BlockSpine
from disc_layouts import ingest, is_level_disc, listing, metaimage, series
from pydicom import dcmread

from mskray.cohorts.corners import Body, write_corners
from mskray.cohorts.sources import get_source
from mskray.cohorts.sources._discs import read_level
from mskray.errors import UserError
from mskray.imaging.spine_levels import ASSUMED
from mskray.storage import locate

CORNERS = ["slice", *(f"{body}_{axis}{number}" for body in ("upper", "lower") for number in range(4) for axis in "xy")]


def own(spine):
    """The 17 columns of L4 and L5."""
    upper, lower = spine.vertebrae["L4"], spine.vertebrae["L5"]
    return ",".join(str(each) for each in [upper.slice, *upper.corners.ravel(), *lower.corners.ravel()])


def nifti(path, volume):
    lps = volume.affine.copy()
    ras = np.diag([-1, -1, 1, 1]) @ lps
    nibabel.save(nibabel.Nifti1Image(np.ascontiguousarray(volume.pixels.transpose(2, 1, 0)), ras), path)


def test_three_formats_and_two_ways_of_corners(tmp_path):
    root = tmp_path / "in"
    root.mkdir()
    spines = {name: BlockSpine(tilt=tilt) for name, tilt in (("a.nii.gz", 20), ("b.mha", -15), ("c/series", 5))}
    nifti(root / "a.nii.gz", spines["a.nii.gz"].volume)
    metaimage(root / "b.mha", spines["b.mha"].volume)
    series(root / "c/series", spines["c/series"].volume)
    rows = [f"{name},p{number},L4/L5,{number + 1},{{}}" for number, name in enumerate(spines)]
    header = "path,patient_id,level,label_pfirrmann," + ",".join(CORNERS)
    words = [row.format(own(spine)) for row, spine in zip(rows, spines.values(), strict=True)]
    (root / "own.csv").write_text("\n".join([header, *words]) + "\n")
    (root / "plain.csv").write_text("path,patient_id,level\n" + "".join(f"{name},p,l4-l5\n" for name in spines))
    bodies = {name: [Body.of(body) for body in spine.vertebrae.values()] for name, spine in spines.items()}
    write_corners(locate(root / "corners.json"), bodies)
    by_columns = ingest("discs", root / "own.csv", tmp_path / "columns")
    by_file = ingest("discs", root / "plain.csv", tmp_path / "file", corners=str(root / "corners.json"))
    assert by_columns.reasons == by_file.reasons == {}
    assert sorted(row["label_pfirrmann"] for row in by_columns.rows) == [0, 1, 2]
    for found in (by_columns, by_file):
        assert [row["view"] for row in found.rows] == ["L4/L5"] * 3
        assert all(is_level_disc(stack) for stack in found.image)
    assert len({row["study_id"] for row in by_file.rows}) == 3
    assert len({row["patient_id"] for row in by_file.rows}) == 1


def test_discs_whose_levels_are_a_guess_are_counted(tmp_path):
    spine = BlockSpine()
    for name in ("sure.mha", "guess.mha"):
        metaimage(tmp_path / name, spine.volume)
    found = [Body.of(body, 0.9) for body in spine.vertebrae.values()]
    bodies = {"sure.mha": found, "guess.mha": found}
    write_corners(locate(tmp_path / "corners.json"), bodies, {"guess.mha": (ASSUMED, "1 off the spine left out")})
    header = "path,patient_id,level," + ",".join(CORNERS)
    empty = "," * len(CORNERS)
    rows = [f"sure.mha,p,L4/L5{empty}", f"guess.mha,p,L4/L5{empty}"]
    (tmp_path / "t.csv").write_text("\n".join([header, *rows]) + "\n")
    found = ingest("discs", tmp_path / "t.csv", tmp_path / "out", corners=str(tmp_path / "corners.json"))
    assert len(found.rows) == 2
    assert found.notes == {f"its level is a guess ({ASSUMED})": 1}
    # A person who states the corners states the level.
    (tmp_path / "t.csv").write_text("\n".join([header, f"guess.mha,p,L4/L5,{own(spine)}"]) + "\n")
    assert not ingest("discs", tmp_path / "t.csv", tmp_path / "own", corners=str(tmp_path / "corners.json")).notes


def test_rows_that_are_no_discs(tmp_path):
    for name in ("a.mha", "b.mha"):
        (tmp_path / name).write_bytes(b"placeholder")
    upper_only = [Body.of(BlockSpine().vertebrae["L4"])]
    write_corners(locate(tmp_path / "corners.json"), {"a.mha": upper_only})
    rows = [
        "a.mha,p,L4/L5,,",
        "b.mha,p,L4/L5,,",
        "b.mha,p,C3/C4,,",
        "b.mha,,L4/L5,,",
        "z.mha,p,L4/L5,,",
        "../a.mha,p,L4/L5,,",
        "a.mha,p,,,",
        "a.mha,p,L4/L5,some,",
        "a.mha,p,L4/L5,,x",
    ]
    (tmp_path / "t.csv").write_text("path,patient_id,level,split,slice\n" + "\n".join(rows) + "\n")
    items, reasons = listing("discs", tmp_path / "t.csv", corners=str(tmp_path / "corners.json"))
    assert items == {}
    assert [reason.split(":")[0].replace(str(tmp_path), "") for reason in reasons.values()] == [
        "no corners of L5",
        "no corners of this volume",
        "level 'C3/C4' is none of T12/L1, L1/L2, L2/L3, L3/L4, L4/L5, L5/S1",
        "no patient_id",
        "there is no such file or folder of files",
        "path is not inside file",
        "no level",
        "split 'some' is none of train, validation, test",
        "slice 'x' is not a number",
    ]


def test_bad_volumes_and_corners_go_to_quarantine_alone(tmp_path):
    root = tmp_path / "in"
    spine = BlockSpine()
    metaimage(root / "good.mha", spine.volume)
    metaimage(root / "flat.mha", replace(spine.volume, pixels=spine.volume.pixels[5:6]))
    (root / "text.mha").write_text("no image")
    series(root / "two", spine.volume)
    series(root / "two", replace(spine.volume, pixels=spine.volume.pixels[:, :200]), "b")
    far = BlockSpine()
    far.vertebrae["L5"] = replace(far.vertebrae["L5"], corners=far.vertebrae["L5"].corners + np.array([0, 200]))
    bodies = {
        name: [Body.of(body) for body in spine.vertebrae.values()]
        for name in ("good.mha", "flat.mha", "text.mha", "two")
    }
    write_corners(locate(root / "corners.json"), bodies)
    header = "path,patient_id,level," + ",".join(CORNERS)
    rows = [f"{name},p,L4/L5" for name in bodies]
    metaimage(root / "far.mha", spine.volume)
    (root / "t.csv").write_text("\n".join([header, *rows, f"far.mha,p,L4/L5,{own(far)}"]) + "\n")
    found = ingest("discs", root / "t.csv", tmp_path / "out", corners=str(root / "corners.json"))
    assert len(found.rows) == 1
    assert found.reasons == {
        "flat.mha#L4-L5": "a volume of one slice: at least 2 are needed",
        "text.mha#L4-L5": "not DICOM, NIfTI or MetaImage",
        "two#L4-L5": "mixed geometry: rows × columns differ within the series",
        "far.mha#L4-L5": "the disc L4/L5 lies outside the field of view",
    }


def listed_series(root, spine, *names):
    """Series of a spine in folders, and a table of their L4/L5."""
    for name in names:
        series(root / name, spine.volume)
    header = "path,patient_id,level," + ",".join(CORNERS)
    (root / "t.csv").write_text("\n".join([header, *(f"{name},p,L4/L5,{own(spine)}" for name in names)]) + "\n")
    return root / "t.csv"


def test_missing_slices_and_other_files_of_a_series_are_told(tmp_path):
    table = listed_series(tmp_path, BlockSpine(), "whole", "short")
    (tmp_path / "short" / "8.dcm").unlink()  # slice 1 of 11; from the left it is the tenth
    (tmp_path / "short" / "copy.dcm").write_bytes((tmp_path / "short" / "1.dcm").read_bytes())
    (tmp_path / "short" / "notes.txt").write_text("no slice")
    found = ingest("discs", table, tmp_path / "out")
    assert found.reasons == {}
    assert found.notes == {
        "1 slice missing after slice 8 (a gap of 8.00 mm = 2 × 4.00 mm): left black": 1,
        "1 file beside the volume (a duplicate)": 1,
        "1 file beside the volume (not DICOM, NIfTI or MetaImage)": 1,
    }


def test_a_series_with_text_drawn_into_it_stays_out_unless_it_is_allowed(tmp_path):
    table = listed_series(tmp_path, BlockSpine(), "clean", "named")
    path = tmp_path / "named" / "3.dcm"
    data = dcmread(path)
    data.BurnedInAnnotation = "YES"
    data.save_as(path)
    found = ingest("discs", table, tmp_path / "out")
    assert list(found.reasons) == ["named#L4-L5"]
    assert found.reasons["named#L4-L5"].startswith("BurnedInAnnotation is YES")
    assert ingest("discs", table, tmp_path / "allowed", allow_burned_in=True).reasons == {}


def test_one_of_several_volumes_is_named_by_its_number(tmp_path):
    """The second of two series in a folder is turned; its corners fit it alone."""
    upright, turned = BlockSpine(), BlockSpine(tilt=18)
    series(tmp_path / "two", upright.volume, "a", uid="1.2.4.1")
    series(tmp_path / "two", turned.volume, "b", uid="1.2.4.2")
    series(tmp_path / "one#7", upright.volume)
    bodies = {
        name: [Body.of(each) for each in spine.vertebrae.values()]
        for name, spine in {"two#1": upright, "two#2": turned, "one#7": upright}.items()
    }
    write_corners(locate(tmp_path / "corners.json"), bodies)
    rows = [f"{name},p,L4/L5," for name in ("two#1", "two#2", "one#7", "two", "two#3")]
    header = "path,patient_id,level," + ",".join(CORNERS)
    rows += [f"two,q,L4/L5,{own(upright)}", f"two#4,q,L4/L5,{own(upright)}"]
    (tmp_path / "t.csv").write_text("\n".join([header, *rows]) + "\n")
    found = ingest("discs", tmp_path / "t.csv", tmp_path / "out", corners=str(tmp_path / "corners.json"))
    assert len(found.rows) == len(found.image) == 3
    assert all(is_level_disc(stack) for stack in found.image)
    assert len({row["study_id"] for row in found.rows}) == 3
    assert {path: reason.partition(":")[0] for path, reason in found.reasons.items()} == {
        "two line 5": "no corners of this volume",
        "two#3 line 6": "no corners of this volume",
        "two#L4-L5": "2 volumes where one is expected",
        "two#4#L4-L5": "no volume 4 of a folder of 2",
    }
    assert found.reasons["two line 5"].endswith("it is one of several, such as two#1")
    # In the folder itself they go by the folder's name.
    (tmp_path / "two" / "t.csv").write_text("path,patient_id,level\n.#2,p,L4/L5\n")
    items, reasons = listing("discs", tmp_path / "two" / "t.csv", corners=str(tmp_path / "corners.json"))
    assert reasons == {}
    assert list(items) == [".#2#L4-L5"]


def test_the_folder_of_the_table_is_a_series(tmp_path):
    spine = BlockSpine()
    table = listed_series(tmp_path / "t2", spine, ".")
    found = ingest("discs", table, tmp_path / "out")
    assert found.reasons == {}
    assert found.notes == {}
    assert is_level_disc(found.image[0])
    # find-vertebrae calls a series that is itself the place by its folder's name.
    write_corners(locate(tmp_path / "t2/corners.json"), {"t2": [Body.of(each) for each in spine.vertebrae.values()]})
    table.write_text("path,patient_id,level\n./,p,L4/L5\n")
    items, reasons = listing("discs", table, corners=str(tmp_path / "t2/corners.json"))
    assert reasons == {}
    (item,) = items.values()
    assert not any(name in item.address for name in ("t.csv", "corners.json"))


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("path,level", "lacks the column.s. patient_id"),
        ("path,patient_id,level", r"has no corners: give corners=corners.json, or the column\(s\) slice, upper_x0"),
        ("path,patient_id,level," + ",".join(CORNERS[:-1]), r"column\(s\) lower_y3$"),
    ],
)
def test_a_table_without_what_it_needs_is_one_line(tmp_path, header, message):
    (tmp_path / "t.csv").write_text(header + "\n")
    source = get_source("discs")
    with pytest.raises(UserError, match=message):
        source.tasks(locate(tmp_path / "t.csv"), source.Options())


@pytest.mark.parametrize(
    ("values", "classes", "labels"),
    [
        (["I", "iii", ""], ("I", "II", "III", "IV", "V"), [0, 2, None]),
        # A grade 1 must not become the second class.
        (["1", "iii", "5", ""], ("I", "II", "III", "IV", "V"), [0, 2, 4, None]),
    ],
)
def test_classes_of_known_tasks(tmp_path, values, classes, labels):
    spine = BlockSpine()
    header = "path,patient_id,level,label_pfirrmann," + ",".join(CORNERS)
    rows = [f"v{number}.mha,p,L4/L5,{value},{own(spine)}" for number, value in enumerate(values)]
    (tmp_path / "t.csv").write_text("\n".join([header, *rows]) + "\n")
    for number in range(len(values)):
        (tmp_path / f"v{number}.mha").write_bytes(b"placeholder")
    source = get_source("discs")
    (task,) = source.tasks(locate(tmp_path / "t.csv"), source.Options())
    assert task.classes == classes
    items, _ = listing("discs", tmp_path / "t.csv")
    assert [item.labels["pfirrmann"] for item in items.values()] == labels


def test_a_word_that_is_no_grade_of_a_known_task_is_rejected(tmp_path):
    header = "path,patient_id,level,label_pfirrmann," + ",".join(CORNERS)
    rows = [f"v{number}.mha,p,L4/L5,{value},{own(BlockSpine())}" for number, value in enumerate(("IX", "III"))]
    (tmp_path / "t.csv").write_text("\n".join([header, *rows]) + "\n")
    for number in range(2):
        (tmp_path / f"v{number}.mha").write_bytes(b"placeholder")
    items, reasons = listing("discs", tmp_path / "t.csv")
    assert [item.labels["pfirrmann"] for item in items.values()] == [2]
    assert list(reasons.values()) == ["pfirrmann 'IX' is none of I, II, III, IV, V"]


def test_a_number_that_is_no_grade_of_pfirrmann_is_refused(tmp_path):
    rows = ["path,patient_id,level,label_pfirrmann," + ",".join(CORNERS), f"v.mha,p,L4/L5,0,{own(BlockSpine())}"]
    (tmp_path / "t.csv").write_text("\n".join(rows) + "\n")
    source = get_source("discs")
    with pytest.raises(UserError, match=r"t\.csv line 2: label_pfirrmann is 0: Pfirrmann's grades are I, .* or 1 to 5"):
        source.tasks(locate(tmp_path / "t.csv"), source.Options())


@pytest.mark.parametrize(
    ("first", "second", "options", "classes"),
    [
        # The names of the known task stand in their order, not in that of the alphabet.
        (["none", "severe"], ["slight", "none"], {}, ("none", "slight", "moderate", "severe")),
        # One that is no class of the first is not made one: its row is rejected.
        (["none", "severe"], ["little", "none"], {}, ("none", "slight", "moderate", "severe")),
        (["0", "1"], ["2", "0"], {}, ("0", "1", "2")),
        (["wide", "open"], ["open", ""], {"narrowing": ["wide", "open"]}, ("wide", "open")),
    ],
)
def test_a_second_reading_has_the_classes_of_the_first(tmp_path, first, second, options, classes):
    spine = BlockSpine()
    header = "path,patient_id,level,label_narrowing,label_narrowing_second," + ",".join(CORNERS)
    pairs = enumerate(zip(first, second, strict=True))
    rows = [f"v{number}.mha,p,L4/L5,{one},{two},{own(spine)}" for number, (one, two) in pairs]
    (tmp_path / "t.csv").write_text("\n".join([header, *rows]) + "\n")
    for number in range(len(rows)):
        (tmp_path / f"v{number}.mha").write_bytes(b"placeholder")
    source = get_source("discs")
    tasks = source.tasks(locate(tmp_path / "t.csv"), source.Options(classes=options))
    assert {task.name: task.classes for task in tasks} == {"narrowing": classes, "narrowing_second": classes}
    items, reasons = listing("discs", tmp_path / "t.csv", classes=options)
    assert list(reasons.values()) == [
        f"narrowing_second 'little' is none of {', '.join(classes)}" for each in second if each == "little"
    ]
    assert all(item.labels["narrowing"] is not None for item in items.values())


@pytest.mark.parametrize(
    ("task", "values", "options", "ordinal"),
    [
        ("pfirrmann", ["I", "IV"], {}, True),
        ("narrowing", ["none", "severe"], {}, True),
        ("pfirrmann_second", ["2", "3"], {}, True),
        ("pfirrmann", ["1", "3"], {}, True),
        ("pfirrmann", ["1", "3"], {"pfirrmann": ["1", "3"]}, True),
        ("narrowing", ["normal", "narrowed"], {}, False),
        ("narrowing", ["normal", "narrowed"], {"narrowing": ["normal", "narrowed"]}, True),
        ("upper_marrow", ["normal", "change"], {}, False),
        ("modic", ["0", "1"], {}, False),
    ],
)
def test_grades_are_in_order(tmp_path, task, values, options, ordinal):
    header = f"path,patient_id,level,label_{task}," + ",".join(CORNERS)
    rows = [f"v.mha,p,L4/L5,{value}" for value in values]
    (tmp_path / "t.csv").write_text("\n".join([header, *rows]) + "\n")
    source = get_source("discs")
    (found,) = source.tasks(locate(tmp_path / "t.csv"), source.Options(classes=options))
    assert found.ordinal is ordinal


@pytest.mark.parametrize("text", ["L4/L5", "l4-l5", "L4_L5", "L4 / L5"])
def test_spellings_of_a_level(text):
    assert read_level(text) == "L4/L5"
