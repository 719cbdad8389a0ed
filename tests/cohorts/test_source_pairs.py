"""Sources of pairs: which two images make one, what they are called, and what is refused with its reason."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
from block_spine import BlockSpine
from cohort_layouts import dicom, knee, picture, png
from disc_layouts import series
from pydicom import dcmread
from series_files import write_series

from mskray.cohorts.sources import Item, Loaded, Rejected, Source, get_source
from mskray.cohorts.sources._pairs import Address
from mskray.errors import UserError
from mskray.imaging.decode import DecodeError, decode
from mskray.imaging.volumes import Volume
from mskray.storage import locate

PAIRS, KNEES, PHANTOMS = (get_source(name) for name in ("pairs", "knee-pairs", "phantom-pairs"))
HEAD = "before,after,patient_id"


def listing(source: Source, place: Path, **options: object) -> tuple[list[Item], list[Rejected]]:
    found = list(source.items(locate(place), source.Options(**options)))
    return [each for each in found if isinstance(each, Item)], [each for each in found if isinstance(each, Rejected)]


def table(folder: Path, *lines: str) -> Path:
    place = folder / "pairs.csv"
    place.write_text("\n".join(lines) + "\n")
    return place


def loaded(source: Source, root: Path, item: Item, **options: object) -> Loaded:
    assert item.address is not None
    return source.load(item.address, source.fetch(locate(root), item.address), source.Options(**options))


def test_a_row_is_a_pair(tmp_path: Path) -> None:
    png(tmp_path / "a.png", 1)
    png(tmp_path / "later" / "b.png", 2)
    rows = "a.png,later/b.png,p1,Improved,knee,val"
    place = table(tmp_path, HEAD + ",label,body_part,split", rows)
    (item,), rejected = listing(PAIRS, place)
    assert rejected == []
    assert [task.name for task in PAIRS.tasks(locate(place), PAIRS.Options())] == ["change", "improved"]
    assert (item.path, item.patient_id, item.body_part, item.split) == (
        "a.png → later/b.png",
        "p1",
        "KNEE",
        "validation",
    )
    assert dict(item.labels) == {"change": 2, "improved": 1}
    pixels = loaded(PAIRS, tmp_path, item).image.pixels
    np.testing.assert_array_equal(pixels, np.stack([picture(1), picture(2)]))
    assert PAIRS.format(64, "uint8", "pad", PAIRS.Options()).shape == (2, 64, 64)


@pytest.mark.parametrize(
    ("columns", "values", "tasks", "labels"),
    [
        ("label", [""], ("change", "improved"), {"change": None, "improved": None}),
        ("label", ["0"], ("change", "improved"), {"change": 0, "improved": 0}),
        ("label_change,label_improved", ["persisted,improved"], ("change", "improved"), {"change": 1, "improved": 0}),
        ("label_improved", ["not_improved"], ("improved",), {"improved": 0}),
        ("label_side", ["right", "left"], ("side",), {"side": 1}),
        ("label_side,label", ["b,2", "a,0"], ("change", "improved", "side"), {"change": 2, "improved": 1, "side": 1}),
        ("note", ["x"], (), {}),
    ],
)
def test_labels(
    tmp_path: Path, columns: str, values: list[str], tasks: tuple[str, ...], labels: dict[str, int]
) -> None:
    png(tmp_path / "a.png", 1)
    png(tmp_path / "b.png", 2)
    members = ("a.png,b.png", "b.png,a.png")
    rows = [f"{pair},p,{value}" for pair, value in zip(members, values, strict=False)]
    place = table(tmp_path, f"{HEAD},{columns}", *rows)
    assert tuple(task.name for task in PAIRS.tasks(locate(place), PAIRS.Options())) == tasks
    assert dict(listing(PAIRS, place)[0][0].labels) == labels


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("a.png,,p,", "no after"),
        ("a.png,b.png,,", "no patient_id"),
        ("a.png,c.png,p,", "after: there is no such file"),
        ("../a.png,b.png,p,", "before is not inside"),
        ("a.png,a.png,p,", "before and after are the same image"),
        ("a.png,b.png,p,better", "change 'better' is none of regressed, persisted, improved"),
    ],
)
def test_rows_that_are_no_pair(tmp_path: Path, row: str, reason: str) -> None:
    png(tmp_path / "a.png", 1)
    png(tmp_path / "b.png", 2)
    items, (rejected,) = listing(PAIRS, table(tmp_path, HEAD + ",label", row))
    assert items == []
    assert reason in rejected.reason
    assert rejected.row == 2


def test_the_same_pair_twice_and_in_reverse(tmp_path: Path) -> None:
    png(tmp_path / "a.png", 1)
    png(tmp_path / "b.png", 2)
    rows = ["a.png,b.png,p", "a.png,b.png,p", "b.png,a.png,p"]
    items, rejected = listing(PAIRS, table(tmp_path, HEAD, *rows))
    assert [item.path for item in items] == ["a.png → b.png", "b.png → a.png"]
    assert [(each.reason, each.row) for each in rejected] == [("listed more than once", 3)]


@pytest.mark.parametrize(
    ("head", "options", "message"),
    [
        ("before,patient_id", {}, "lacks the column.* after"),
        (HEAD + ",label,label_change", {}, "both label and label_change"),
        (HEAD + ",label", {"classes": {"change": ["a", "b"]}}, "classes.change: this task's classes are always"),
    ],
)
def test_tables_that_are_refused(tmp_path: Path, head: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        PAIRS.tasks(locate(table(tmp_path, head)), PAIRS.Options(**options))


def test_members_that_differ_are_refused(tmp_path: Path) -> None:
    png(tmp_path / "small.png", rows=30)
    png(tmp_path / "large.png", rows=40)
    dicom(tmp_path / "cr.dcm")
    dicom(tmp_path / "mr.dcm", Modality="MR")
    dicom(tmp_path / "fine.dcm", PixelSpacing=[0.5, 0.5])
    dicom(tmp_path / "coarse.dcm", PixelSpacing=[0.5, 0.55])
    (tmp_path / "text.png").write_text("no image")
    rows = ["small.png,large.png,p", "cr.dcm,mr.dcm,p", "fine.dcm,coarse.dcm,p", "small.png,text.png,p"]
    rows.append("cr.dcm,cr.dcm#0,p")
    items, _ = listing(PAIRS, table(tmp_path, HEAD, *rows))
    reasons = [
        "its members differ in size: before 30 × 48 px, after 40 × 48 px",
        "its members differ in modality: before CR, after MR",
        "its members differ in pixel spacing: before 0.5 × 0.5 mm, after 0.5 × 0.55 mm",
        "after: not PNG, JPEG, TIFF or DICOM",
        "after: ",
    ]
    for item, reason in zip(items, reasons, strict=True):
        with pytest.raises(DecodeError) as error:
            loaded(PAIRS, tmp_path, item)
        assert error.value.reason.startswith(reason)


@pytest.mark.parametrize("other", [{"PixelSpacing": [0.5, 0.51]}, {}], ids=["nearly the same", "not known"])
def test_spacings_that_say_the_same_make_a_pair(tmp_path: Path, other: dict[str, object]) -> None:
    dicom(tmp_path / "a.dcm", PixelSpacing=[0.5, 0.5])
    dicom(tmp_path / "b.dcm", SOPInstanceUID="1.2.4", **other)
    (item,), _ = listing(PAIRS, table(tmp_path, HEAD, "a.dcm,b.dcm,p"))
    assert loaded(PAIRS, tmp_path, item).image.pixel_spacing_mm == (0.5, 0.5)


def test_a_member_may_be_a_slice_of_one_of_two_echoes(tmp_path: Path) -> None:
    """Brightness runs from slice to slice: that in the middle of three is half as bright as the brightest."""
    write_series(tmp_path / "scan", [0, 1, 2], echo=1)
    write_series(tmp_path / "scan", [0, 1, 2, 3], echo=2)
    members = ["scan#1#1,scan#2#1", "scan#1#3,scan#2#3", "scan#3#0,scan#2#3", "scan#1,scan#2#1"]
    items, rejected = listing(PAIRS, table(tmp_path, HEAD, *(f"{each},p" for each in members)))
    assert rejected == []
    first, second = loaded(PAIRS, tmp_path, items[0]).image.pixels.mean(axis=(1, 2)) / 65535
    assert first == pytest.approx(1 / 2, abs=0.01)
    assert second in (pytest.approx(1 / 3, abs=0.01), pytest.approx(2 / 3, abs=0.01))
    for item, reason in zip(
        items[1:],
        (
            "before: slice 3 of a volume of 3 slices (0 to 2)",
            "before: no volume 3 of a folder of 2: `mskray montage` says how each is called",
            "before: 2 volumes in the folder: name one and its slice, as folder#1#12",
        ),
        strict=True,
    ):
        with pytest.raises(DecodeError) as error:
            loaded(PAIRS, tmp_path, item)
        assert error.value.reason == reason


def test_slices_of_different_planes_are_no_pair(tmp_path: Path) -> None:
    """Sizes, spacing and modality of a sagittal and a coronal series are the same."""
    levels = np.random.default_rng(0).random((4, 12, 12)).astype(np.float32) * 1000
    for name, axes in (
        ("sagittal", [(4, 0, 0), (0, 0, -1), (0, 1, 0)]),
        ("coronal", [(0, 4, 0), (0, 0, -1), (1, 0, 0)]),
    ):
        affine = np.eye(4)
        affine[:3, :3] = np.array(axes)[::-1].T
        series(tmp_path / name, Volume(levels, (4.0, 1.0, 1.0), affine))
    rows = ["sagittal#1,coronal#1,p", "sagittal#1,sagittal#2,p"]
    other, same = listing(PAIRS, table(tmp_path, HEAD, *rows))[0]
    assert loaded(PAIRS, tmp_path, same).image.pixels.shape == (2, 12, 12)
    with pytest.raises(DecodeError, match="its members differ in plane: before sagittal, after coronal"):
        loaded(PAIRS, tmp_path, other)


def test_a_slice_that_is_missing_is_no_member(tmp_path: Path) -> None:
    """The third of six is missing; seen from the right, the volume's last slice comes first."""
    write_series(tmp_path / "scan", [0, 1, 3, 4, 5])
    missing, there = listing(PAIRS, table(tmp_path, HEAD, "scan#3,scan#4,p", "scan#2,scan#4,p"))[0]
    with pytest.raises(DecodeError, match=r"^before: slice 3 is missing from its series$"):
        loaded(PAIRS, tmp_path, missing)
    found = loaded(PAIRS, tmp_path, there)
    np.testing.assert_allclose(found.image.pixels.mean(axis=(1, 2)) / 65535, [3 / 5, 1 / 5], atol=0.01)
    assert found.notes == ("1 slice missing after slice 1 (a gap of 8.00 mm = 2 × 4.00 mm): left black",)


def test_a_view_across_a_missing_slice_has_no_member(tmp_path: Path) -> None:
    """Cubic voxels and fewest columns: it is looked at across the slices of the series."""
    levels = np.random.default_rng(0).random((9, 12, 5)).astype(np.float32) * 1000
    files = series(tmp_path / "scan", Volume(levels, (1.0, 1.0, 1.0), np.eye(4)))
    (item,), _ = listing(PAIRS, table(tmp_path, HEAD, "scan#1,scan#2,p"))
    assert loaded(PAIRS, tmp_path, item).image.pixels.shape == (2, 9, 12)
    (files / "4.dcm").unlink()
    (item,), _ = listing(PAIRS, table(tmp_path, HEAD, "scan#1,scan#2,p"))
    with pytest.raises(DecodeError, match=r"^before: its series lacks slices, and every slice of its view cuts across"):
        loaded(PAIRS, tmp_path, item)


def test_pairs_of_one_volume_read_it_once(tmp_path: Path) -> None:
    place = tmp_path / "scan.nii.gz"
    values = np.random.default_rng(0).random((20, 16, 5)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([1, 1, 4, 1.0])), place)
    one, two = listing(PAIRS, table(tmp_path, HEAD, *(f"{place.name}#{index},{place.name}#4,p" for index in (0, 1))))[0]
    first = loaded(PAIRS, tmp_path, one).image.pixels
    place.unlink()
    second = loaded(PAIRS, tmp_path, two).image.pixels
    np.testing.assert_array_equal(first[1], second[1])
    assert (first[0] != second[0]).any()


def test_bits_of_members_may_differ(tmp_path: Path) -> None:
    png(tmp_path / "a.png", rows=32, columns=24)
    dicom(tmp_path / "b.dcm", BurnedInAnnotation="YES")
    (item,), _ = listing(PAIRS, table(tmp_path, HEAD, "a.png,b.dcm,p"))
    image = loaded(PAIRS, tmp_path, item).image
    assert image.pixels.dtype == np.uint16
    np.testing.assert_array_equal(image.pixels[0], picture(0, 32, 24).astype(np.uint16) * 257)
    np.testing.assert_array_equal(image.pixels[1], decode((tmp_path / "b.dcm").read_bytes()).pixels)
    assert image.metadata["burned_in_annotation"] == "YES"


def test_text_drawn_into_the_volume_of_a_slice_is_known(tmp_path: Path) -> None:
    series(tmp_path / "t2", BlockSpine().volume)
    (item,), _ = listing(PAIRS, table(tmp_path, HEAD, "t2#1,t2#2,p"))
    assert loaded(PAIRS, tmp_path, item).image.metadata.get("burned_in_annotation") is None
    data = dcmread(tmp_path / "t2" / "3.dcm")
    data.BurnedInAnnotation = "YES"
    data.save_as(tmp_path / "t2" / "3.dcm")
    (item,), _ = listing(PAIRS, table(tmp_path, HEAD, "t2#1,t2#2,p"))
    assert loaded(PAIRS, tmp_path, item).image.metadata["burned_in_annotation"] == "YES"


def test_a_member_may_be_a_slice_of_a_volume(tmp_path: Path) -> None:
    """Stored crosswise, as NIfTI may: slices are those along the axis with the widest spacing."""
    values = np.arange(5, dtype=np.float32)[None, None, :] * 100 + np.random.default_rng(0).random((20, 16, 5))
    nibabel.save(nibabel.Nifti1Image(values.astype(np.float32), np.diag([1, 1, 4, 1.0])), tmp_path / "scan.nii.gz")
    rows = ["scan.nii.gz#1,scan.nii.gz#3,p", "scan.nii.gz#1,scan.nii.gz#5,p", "scan.nii.gz,scan.nii.gz#3,p"]
    items, _ = listing(PAIRS, table(tmp_path, HEAD, *rows))
    pixels = loaded(PAIRS, tmp_path, items[0]).image.pixels
    assert pixels.shape == (2, 16, 20)
    np.testing.assert_allclose(pixels.mean(axis=(1, 2)) / 65535, [0.25, 0.75], atol=0.01)
    with pytest.raises(DecodeError, match=r"after: slice 5 of a volume of 5 slices \(0 to 4\)"):
        loaded(PAIRS, tmp_path, items[1])
    with pytest.raises(DecodeError, match="before: a gzip file"):
        loaded(PAIRS, tmp_path, items[2])


def test_knees_of_a_subject_are_a_pair_by_the_sign_of_their_grades(tmp_path: Path) -> None:
    better, same, worse = "9000001", "9000002", "9000003"
    knee(tmp_path, [f"3/{better}R", f"1/{better}L", f"2/{same}R", f"2/{same}L", "0/9000004L"])
    knee(tmp_path, [f"0/{worse}R", f"4/{worse}L"], "val")
    items, rejected = listing(KNEES, tmp_path)
    assert {item.patient_id: item.labels["change"] for item in items} == {better: 2, same: 1, worse: 0}
    assert {item.patient_id: item.labels["improved"] for item in items} == {better: 1, same: 0, worse: 0}
    assert {item.patient_id: item.split for item in items} == {better: "train", same: "train", worse: "validation"}
    assert items[0].path == f"train/3/{better}R.png → train/1/{better}L.png"
    assert [(each.path, each.reason) for each in rejected] == [
        ("train/0/9000004L.png", "no image of the subject's right knee: a pair needs both")
    ]
    right, left = (decode((tmp_path / path).read_bytes()).pixels for path in items[0].path.split(" → "))
    seen = loaded(KNEES, tmp_path, items[0]).image.pixels
    np.testing.assert_array_equal(seen, np.stack([right, left[:, ::-1]]))
    plain = listing(KNEES, tmp_path, mirror=False)[0][0]
    np.testing.assert_array_equal(loaded(KNEES, tmp_path, plain).image.pixels[1], left)
    assert plain.fingerprint != items[0].fingerprint


@pytest.mark.parametrize(
    ("train", "val", "reason"),
    [
        (["3/9000001R", "2/9000001R", "1/9000001L"], [], "2 images of the subject's right knee"),
        (["3/9000001R"], ["1/9000001L"], "the subject's knees are in train and validation"),
    ],
)
def test_knees_that_are_no_pair(tmp_path: Path, train: list[str], val: list[str], reason: str) -> None:
    knee(tmp_path, train)
    knee(tmp_path, val, "val")
    items, rejected = listing(KNEES, tmp_path)
    assert items == []
    assert len(rejected) == len(train) + len(val)
    assert all(each.reason.startswith(reason) for each in rejected)


def test_an_address_is_read_back_and_names_the_file_that_is_gone(tmp_path: Path) -> None:
    knee(tmp_path, ["3/9000001R", "1/9000001L"])
    (item,), _ = listing(KNEES, tmp_path)
    assert item.address is not None
    assert str(Address.read(item.address)) == item.address
    gone = tmp_path / "train/1/9000001L.png"
    gone.unlink()
    assert KNEES.file(locate(tmp_path), item.address) == locate(gone)


def test_phantom_pairs_are_labelled_and_drawn() -> None:
    options = PHANTOMS.Options(patients=6, image_size=64)
    items = [each for each in PHANTOMS.items(None, options) if isinstance(each, Item)]
    assert {item.patient_id for item in items} == {f"phantom-pairs-0-{number}" for number in range(6)}
    first = items[0]
    made = PHANTOMS.load(first.path, b"", options)
    assert made.image.pixels.shape == (2, 64, 64)
    assert made.mask is not None
    assert made.mask.shape == (2, 64, 64)
    assert first.labels["improved"] == int(first.path.endswith("improved"))
    with pytest.raises(UserError, match="shares"):
        PHANTOMS.tasks(None, PHANTOMS.Options(shares=(0, 0, 0)))
