"""RSNA 2024's tables and sagittal series become discs with five graded conditions."""

import pytest
from block_spine import lumbar
from disc_layouts import ingest, is_level_disc, listing, series

from mskray.cohorts.corners import Body, write_corners
from mskray.cohorts.sources import get_source
from mskray.cohorts.sources._discs import Address
from mskray.errors import UserError
from mskray.imaging.spine_levels import ASSUMED
from mskray.storage import locate

CONDITIONS = (
    "spinal_canal_stenosis",
    "left_neural_foraminal_narrowing",
    "right_neural_foraminal_narrowing",
    "left_subarticular_stenosis",
    "right_subarticular_stenosis",
)
LEVELS = ("l1_l2", "l2_l3", "l3_l4", "l4_l5", "l5_s1")


def layout(root, studies, descriptions):
    """studies: id → grades by column, "" for the others; descriptions: (study, series, text)."""
    columns = [f"{condition}_{level}" for condition in CONDITIONS for level in LEVELS]
    lines = [",".join(["study_id", *columns])]
    lines += [",".join([study, *(grades.get(column, "") for column in columns)]) for study, grades in studies.items()]
    root.mkdir(parents=True, exist_ok=True)
    (root / "train.csv").write_text("\n".join(lines) + "\n")
    rows = ["study_id,series_id,series_description", *(",".join(each) for each in descriptions)]
    (root / "train_series_descriptions.csv").write_text("\n".join(rows) + "\n")
    (root / "train_images").mkdir(exist_ok=True)
    return root


def corners(root, names, spine, levels=None, notes=None):
    chosen = [Body.of(body, 0.9) for level, body in spine.vertebrae.items() if levels is None or level in levels]
    write_corners(locate(root / "corners.json"), dict.fromkeys(names, chosen), notes)
    return str(root / "corners.json")


def placeholder(root, *folders):
    for folder in folders:
        (root / "train_images" / folder).mkdir(parents=True, exist_ok=True)
        (root / "train_images" / folder / "1.dcm").write_bytes(b"placeholder")


def test_grades_and_the_chosen_series(tmp_path):
    grades = {
        "spinal_canal_stenosis_l1_l2": "Normal/Mild",
        "spinal_canal_stenosis_l4_l5": "Severe",
        "left_neural_foraminal_narrowing_l4_l5": "Moderate",
    }
    root = layout(
        tmp_path,
        {"10": grades},
        [("10", "1", "Sagittal T1"), ("10", "2", "Sagittal T2/STIR"), ("10", "3", "Axial T2")],
    )
    placeholder(root, "10/1", "10/2", "10/3")
    place = corners(root, ["train_images/10/2", "10/1"], lumbar())
    source = get_source("rsna-lumbar")
    items, reasons = listing("rsna-lumbar", root, corners=place)
    # The block spine has no S1.
    assert reasons == {"train_images/10/2#L5-S1": "no corners of S1"}
    assert list(items) == [f"train_images/10/2#{level}" for level in ("L1-L2", "L2-L3", "L3-L4", "L4-L5")]
    item = items["train_images/10/2#L4-L5"]
    assert (item.patient_id, item.study_id, item.view, item.view_index) == ("10", "train_images/10/2", "L4/L5", 4)
    assert item.labels == {
        **dict.fromkeys(CONDITIONS),
        "spinal_canal_stenosis": 2,
        "left_neural_foraminal_narrowing": 1,
    }
    assert items["train_images/10/2#L1-L2"].labels["spinal_canal_stenosis"] == 0
    items, _ = listing("rsna-lumbar", root, corners=place, series="t1")
    assert {path.partition("#")[0] for path in items} == {"train_images/10/1"}
    first = {name: source.tasks(None, source.Options(series=name))[0] for name in ("t2", "t1")}
    assert {name: task.name for name, task in first.items()} == {
        "t2": "spinal_canal_stenosis",
        "t1": "left_neural_foraminal_narrowing",
    }
    assert first["t2"].classes == ("normal/mild", "moderate", "severe")
    assert first["t2"].ordinal


def test_what_is_missing_on_either_side(tmp_path):
    root = layout(
        tmp_path,
        {"10": {}, "11": {}, "12": {}, "13": {"spinal_canal_stenosis_l1_l2": "Mild"}},
        [
            ("10", "1", "Axial T2"),
            ("11", "1", "Sagittal T2/STIR"),
            ("12", "1", "Sagittal T2/STIR"),
            ("13", "1", "Sagittal T2/STIR"),
            ("14", "1", "Sagittal T2/STIR"),
        ],
    )
    placeholder(root, "10/1", "12/1", "13/1", "14/1", "15/8")
    place = corners(root, ["10/1", "11/1", "13/1", "14/1"], lumbar(), levels=("L1", "L2"))
    items, reasons = listing("rsna-lumbar", root, corners=place)
    assert items == {}
    assert reasons == {
        "train_images/15/8": "not listed in train_series_descriptions.csv",
        "train_images/10": "no Sagittal T2/STIR series in train_series_descriptions.csv",
        "train_images/11/1": "the series has no files",
        "train_images/12/1": "no corners of this series",
        "train_images/13/1#L1-L2": "spinal_canal_stenosis 'Mild' is none of Normal/Mild, Moderate, Severe",
        "train_images/13/1#L2-L3": "no corners of L3",
        "train_images/13/1#L3-L4": "no corners of L3 and L4",
        "train_images/13/1#L4-L5": "no corners of L4 and L5",
        "train_images/13/1#L5-S1": "no corners of L5 and S1",
        "train_images/14": "no labels in train.csv",
    }


def test_series_become_level_discs(tmp_path):
    spine = lumbar(-12)
    root = layout(tmp_path / "in", {"10": {}}, [("10", "2", "Sagittal T2/STIR")])
    series(root / "train_images/10/2", spine.volume)
    place = corners(root, ["10/2"], spine, notes={"10/2": (ASSUMED,)})
    found = ingest("rsna-lumbar", root, tmp_path / "out", corners=place)
    assert found.notes == {f"its level is a guess ({ASSUMED})": 4}
    assert found.reasons == {"train_images/10/2#L5-S1": "no corners of S1"}
    assert [row["view"] for row in found.rows] == ["L1/L2", "L2/L3", "L3/L4", "L4/L5"]
    assert all(is_level_disc(stack) for stack in found.image)
    assert {row["label_spinal_canal_stenosis"] for row in found.rows} == {None}


def test_volumes_of_one_series_are_told_apart(tmp_path):
    root = layout(tmp_path, {"10": {}}, [("10", "2", "Sagittal T2/STIR")])
    placeholder(root, "10/2")
    items, _ = listing("rsna-lumbar", root, corners=corners(root, ["10/2#1", "10/2#2"], lumbar(), levels=("L4", "L5")))
    assert [path for path in items if "L4-L5" in path] == [f"train_images/10/2#{number}#L4-L5" for number in (1, 2)]
    assert [Address.read(item.address).volume for item in items.values()] == [1, 2]
    assert len({item.study_id for item in items.values()}) == 2


def test_what_the_source_needs_is_one_line(tmp_path):
    source = get_source("rsna-lumbar")
    with pytest.raises(UserError, match=r"expected train\.csv, train_series_descriptions\.csv, train_images/ in it"):
        source.root(locate(tmp_path), source.Options())
    layout(tmp_path, {}, [])
    with pytest.raises(UserError, match="needs corners=…: write them with mskray find-vertebrae"):
        source.root(locate(tmp_path), source.Options())
