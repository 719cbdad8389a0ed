"""The folder layouts: MURA and knee-oa become items, and what does not fit is rejected with its reason."""

import pytest
from cohort_layouts import knee, mura, png

from mskray.cohorts.sources import Item, Rejected, get_source, source_names
from mskray.errors import UserError
from mskray.storage import locate


def listing(name, folder, **options):
    source = get_source(name)
    found = list(source.items(locate(folder), source.Options(**options)))
    items = {item.path: item for item in found if isinstance(item, Item)}
    rejected = {item.path: item.reason for item in found if isinstance(item, Rejected)}
    assert len(items) + len(rejected) == len(found)
    return items, rejected


def test_the_registry_knows_each_file():
    assert source_names() == [
        "dicom",
        "discs",
        "feedback",
        "grazpedwri",
        "knee-oa",
        "knee-pairs",
        "manifest",
        "mura",
        "pairs",
        "phantom",
        "phantom-discs",
        "phantom-pairs",
        "phantom-spine",
        "rsna-lumbar",
        "spider",
    ]


def test_an_unknown_source_names_the_known_ones():
    with pytest.raises(UserError, match=", ".join(source_names())):
        get_source("mira")


def test_knee_grades_subjects_and_splits(tmp_path):
    knee(tmp_path, ["0/9000001L", "2/9000001R", "1/9000002R"], "train")
    knee(tmp_path, ["4/9000003L"], "val")
    knee(tmp_path, ["3/9000004L"], "test")
    items, rejected = listing("knee-oa", tmp_path)
    assert rejected == {}
    assert {
        path: (item.patient_id, item.study_id, item.laterality, item.view_index, item.split, dict(item.labels))
        for path, item in items.items()
    } == {
        "train/0/9000001L.png": ("9000001", "9000001", "L", 0, "train", {"abnormality": 0, "kl_grade": 0}),
        "train/2/9000001R.png": ("9000001", "9000001", "R", 1, "train", {"abnormality": 1, "kl_grade": 2}),
        "train/1/9000002R.png": ("9000002", "9000002", "R", 0, "train", {"abnormality": 0, "kl_grade": 1}),
        "val/4/9000003L.png": ("9000003", "9000003", "L", 0, "validation", {"abnormality": 1, "kl_grade": 4}),
        "test/3/9000004L.png": ("9000004", "9000004", "L", 0, "test", {"abnormality": 1, "kl_grade": 3}),
    }


@pytest.mark.parametrize("name", ["5/9000001L.png", "0/900001L.png", "0/9000001.png", "0/notes.txt", "9000001L.png"])
def test_knee_files_of_another_name_are_rejected(tmp_path, name):
    knee(tmp_path, ["0/9000001L"])
    png(tmp_path / "train" / name)
    items, rejected = listing("knee-oa", tmp_path)
    assert list(items) == ["train/0/9000001L.png"]
    assert list(rejected) == [f"train/{name}"]


STUDIES = [
    ("WRIST", "patient00001", 1, "positive", 2),
    ("ELBOW", "patient00001", 1, "negative", 1),
    ("HAND", "patient00002", 1, "negative", 1),
]


@pytest.mark.parametrize("below", ["MURA-v1.1", "."])
def test_mura_from_its_folder_or_the_one_above(tmp_path, below):
    mura(tmp_path / "MURA-v1.1", STUDIES)
    source = get_source("mura")
    given = locate(tmp_path / below)
    assert source.root(given, source.Options()) == locate(tmp_path / "MURA-v1.1")
    assert len(list(source.items(given, source.Options()))) == 4


def test_mura_items(tmp_path):
    mura(tmp_path, STUDIES)
    mura(tmp_path, [("WRIST", "patient00009", 2, "positive", 1)], "valid")
    items, rejected = listing("mura", tmp_path)
    assert rejected == {}
    item = items["train/XR_WRIST/patient00001/study1_positive/image2.png"]
    assert (item.patient_id, item.study_id, item.body_part) == ("patient00001", "WRIST/study1_positive", "WRIST")
    assert (item.view_index, item.split, dict(item.labels)) == (1, None, {"abnormality": 1})
    held_out = items["valid/XR_WRIST/patient00009/study2_positive/image1.png"]
    assert (held_out.split, dict(held_out.labels)) == ("test", {"abnormality": 1})


@pytest.mark.parametrize("header", ["", "Img_Path,Label\n", "\ufeffImg_Path\n"])
@pytest.mark.parametrize("labels", [True, False])
def test_mura_lists_with_and_without_header(tmp_path, header, labels):
    root = mura(tmp_path / "MURA-v1.1", STUDIES)
    paths = sorted(path.relative_to(tmp_path).as_posix() for path in root.rglob("*.png"))
    lines = [f"{path},{int('positive' in path)}" if labels else path for path in paths]
    (root / "train_image_paths.csv").write_text(header + "\n".join(lines) + "\n", encoding="utf-8")
    studies = sorted({path.rpartition("/")[0] for path in paths})
    (root / "train_labeled_studies.csv").write_text("".join(f"{s}/,{int('positive' in s)}\n" for s in studies))
    items, rejected = listing("mura", root)
    assert (len(items), rejected) == (4, {})


def test_mura_lists_and_files_that_disagree(tmp_path):
    root = mura(tmp_path / "MURA-v1.1", STUDIES)
    folder = "train/XR_WRIST/patient00001/study1_positive"
    png(root / folder / "._image1.png")
    listed = [
        f"{folder}/image1.png",
        "train/XR_ELBOW/patient00001/study1_negative/image1.png",
        "train/XR_HAND/patient00002/study1_negative/image1.png",
        "train/XR_HAND/patient00003/study1_negative/image1.png",
    ]
    (root / "train_image_paths.csv").write_text("".join(f"MURA-v1.1/{path}\n" for path in listed))
    (root / "train_labeled_studies.csv").write_text(
        f"MURA-v1.1/{folder}/,1\n"
        "MURA-v1.1/train/XR_ELBOW/patient00001/study1_negative/,1\n"
        "MURA-v1.1/train/XR_HAND/patient00007/study1_negative/,0\n"
    )
    items, rejected = listing("mura", root)
    assert sorted(items) == ["train/XR_HAND/patient00002/study1_negative/image1.png", f"{folder}/image1.png"]
    assert {path: reason.split(",")[0] for path, reason in rejected.items()} == {
        f"{folder}/image2.png": "not listed in train_image_paths.csv",
        f"{folder}/._image1.png": "not XR_<PART>/patient<N>/study<K>_<positive|negative>/image<I>.png",
        "train/XR_ELBOW/patient00001/study1_negative/image1.png": "labelled 1 in train_labeled_studies.csv",
        "train/XR_HAND/patient00003/study1_negative/image1.png": "listed in train_image_paths.csv",
        "train/XR_HAND/patient00007/study1_negative": "listed in train_labeled_studies.csv",
    }


@pytest.mark.parametrize("name", ["mura", "knee-oa"])
def test_another_layout_is_one_line(tmp_path, name):
    png(tmp_path / "somewhere" / "image.png")
    source = get_source(name)
    with pytest.raises(UserError, match=f"not laid out like {'MURA' if name == 'mura' else name}"):
        source.root(locate(tmp_path), source.Options())


def test_an_unreadable_mura_list_is_one_line(tmp_path):
    root = mura(tmp_path, STUDIES)
    (root / "train_image_paths.csv").write_bytes(b"\xff\xfe\x00bad")
    with pytest.raises(UserError, match=r"train_image_paths\.csv is not a readable CSV"):
        listing("mura", root)


def test_a_changed_file_has_another_fingerprint(tmp_path):
    root = knee(tmp_path, ["0/9000001L"])
    before = listing("knee-oa", root)[0]["train/0/9000001L.png"].fingerprint
    png(root / "train/0/9000001L.png", seed=9, rows=50)
    assert listing("knee-oa", root)[0]["train/0/9000001L.png"].fingerprint != before


def test_phantoms_are_listed_and_loaded_with_their_truth():
    source = get_source("phantom")
    options = source.Options(patients=6, image_size=64, seed=5)
    items = list(source.items(None, options))
    assert len({item.instance_id for item in items}) == len(items) >= 6
    assert {item.patient_id for item in items}.isdisjoint(
        item.patient_id for item in source.items(None, options.model_copy(update={"seed": 6}))
    )
    loaded = source.load(items[0].path, b"", options)
    assert max(loaded.image.pixels.shape) == 64
    assert loaded.mask is not None
    assert loaded.mask.shape == loaded.image.pixels.shape
