"""DICOM folders: grouped by headers, labelled by UID, and nothing but images let through."""

import io
import shutil
import zlib
from dataclasses import replace

import pydicom
import pytest
from cohort_layouts import BASIC_SR, dicom, png
from pydicom.data import get_testdata_file
from pydicom.uid import DeflatedExplicitVRLittleEndian

from mskray.cohorts.sources import Item, Rejected, get_source
from mskray.errors import UserError
from mskray.storage import locate

SOURCE = get_source("dicom")


def listing(folder, **options):
    found = list(SOURCE.items(locate(folder), SOURCE.Options(**options)))
    return [item for item in found if isinstance(item, Item)], {
        item.path: item.reason for item in found if isinstance(item, Rejected)
    }


def study(folder, name, instance, **values):
    defaults = {
        "PatientID": "P1",
        "StudyInstanceUID": "1.2.1",
        "SeriesInstanceUID": "1.2.1.1",
        "SeriesNumber": 1,
        "InstanceNumber": instance,
        "SOPInstanceUID": f"1.2.1.1.{instance}",
        "BodyPartExamined": "WRIST",
        "ViewPosition": "PA",
        "ImageLaterality": "L",
    }
    return dicom(folder / name, **{**defaults, **values})


def test_views_follow_series_and_instance_numbers_and_not_names(tmp_path):
    study(tmp_path, "c", 2)
    study(tmp_path, "a/b", 1)
    study(tmp_path, "a.dcm", 1, SeriesNumber=2, SeriesInstanceUID="1.2.1.2", SOPInstanceUID="1.2.1.2.1")
    study(tmp_path, "other", 1, StudyInstanceUID="1.2.9", SOPInstanceUID="1.2.9.1", PatientID="P2")
    items, rejected = listing(tmp_path)
    assert rejected == {}
    assert [(item.path, item.study_id, item.view_index) for item in items] == [
        ("a/b", "1.2.1", 0),
        ("c", "1.2.1", 1),
        ("a.dcm", "1.2.1", 2),
        ("other", "1.2.9", 0),
    ]
    first = items[0]
    assert (first.patient_id, first.instance_id) == ("P1", "1.2.1.1.1")
    assert (first.body_part, first.view, first.laterality, first.split) == ("WRIST", "PA", "L", None)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"PatientID": ""}, ("1.2.1", "WRIST", "PA", "L")),
        ({"BodyPartExamined": "", "ViewPosition": "LL"}, ("P1", "UNKNOWN", "LL", "L")),
        ({"ImageLaterality": "", "Laterality": "R"}, ("P1", "WRIST", "PA", "R")),
        ({"ImageLaterality": "B"}, ("P1", "WRIST", "PA", None)),
        ({"BodyPartExamined": "KNEE JOHN DOE"}, ("P1", "UNKNOWN", "PA", "L")),
        ({"BodyPartExamined": ["KNEE", "LEG"]}, ("P1", "UNKNOWN", "PA", "L")),
        ({"ViewPosition": "DOE^JOHN"}, ("P1", "WRIST", None, "L")),
    ],
)
def test_headers_with_gaps(tmp_path, values, expected):
    study(tmp_path, "a", 1, **values)
    ((item,), _) = listing(tmp_path)
    assert (item.patient_id, item.body_part, item.view, item.laterality) == expected


def test_what_is_no_image_is_rejected(tmp_path):
    study(tmp_path, "good", 1)
    study(tmp_path, "report", 1, rows=0, Modality="SR", SOPClassUID=BASIC_SR)
    study(tmp_path, "letter", 1, rows=0, Modality="FOR JOHN DOE")
    study(tmp_path, "nameless", 1, StudyInstanceUID="")
    png(tmp_path / "picture.dcm")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("hello")
    items, rejected = listing(tmp_path)
    assert [item.path for item in items] == ["good"]
    assert rejected == {
        "report": "DICOM SR holds no image",
        "letter": "DICOM object holds no image",
        "nameless": "no StudyInstanceUID in its DICOM header",
        "picture.dcm": "not a DICOM file",
        "empty": "not a DICOM file",
        "notes.txt": "not a DICOM file",
    }


@pytest.mark.parametrize("bounded", [True, False], ids=["skipped", "read through"])
def test_a_header_longer_than_a_page_is_read_to_its_end(tmp_path, bounded):
    """Body part and series lie behind 300 KB that are no concern of the listing's."""
    path = study(tmp_path, "long", 1)
    data = pydicom.dcmread(path)
    known = listing(tmp_path)[0]
    data.ReferencedImageSequence = [pydicom.Dataset() for _ in range(40_000)]
    data["ReferencedImageSequence"].is_undefined_length = not bounded
    data.save_as(path)
    (item,), rejected = listing(tmp_path)
    assert not rejected
    assert [replace(item, fingerprint="")] == [replace(each, fingerprint="") for each in known]


def test_a_header_that_never_ends_is_cut(tmp_path, monkeypatch):
    monkeypatch.setattr("mskray.cohorts.sources.dicom._MOST_HEADER_BYTES", 128 * 1024)
    path = study(tmp_path, "long", 1)
    data = pydicom.dcmread(path)
    data.ReferencedImageSequence = [pydicom.Dataset() for _ in range(40_000)]
    data["ReferencedImageSequence"].is_undefined_length = True  # one of a known length would be skipped unread
    data.save_as(path)
    assert listing(tmp_path)[1] == {"long": "its DICOM header is longer than 0 MiB"}


def test_a_deflated_header_is_read(tmp_path):
    source = str(get_testdata_file("image_dfl.dcm"))
    shutil.copy(source, tmp_path)
    items, rejected = listing(tmp_path)
    assert (len(items), rejected) == (1, {})
    assert items[0].study_id == str(pydicom.dcmread(source).StudyInstanceUID)


def test_a_deflated_bomb_is_rejected(tmp_path):
    path = study(tmp_path, "bomb", 1)
    data = pydicom.dcmread(path)
    data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    del data.PixelData
    head = io.BytesIO()
    data.save_as(head, enforce_file_format=True)
    start = head.getvalue().index(DeflatedExplicitVRLittleEndian.encode())
    packer = zlib.compressobj(9, wbits=-15)
    body = b"".join(packer.compress(bytes(2**24)) for _ in range(40)) + packer.flush()
    end_of_meta = start + len(DeflatedExplicitVRLittleEndian) + len(DeflatedExplicitVRLittleEndian) % 2
    (tmp_path / "bomb").write_bytes(head.getvalue()[:end_of_meta] + body)
    items, rejected = listing(tmp_path)
    assert items == []
    assert list(rejected) == ["bomb"]


def test_labels_by_the_most_specific_uid(tmp_path):
    study(tmp_path / "in", "a", 1)
    study(tmp_path / "in", "b", 2)
    study(tmp_path / "in", "c", 3, SeriesInstanceUID="1.2.1.2")
    study(tmp_path / "in", "d", 4, StudyInstanceUID="1.2.8", SeriesInstanceUID="1.2.8.1")
    (tmp_path / "labels.csv").write_text("uid,label\n1.2.1,0\n1.2.1.1,1\n1.2.1.1.2,0\n")
    items, _ = listing(tmp_path / "in", labels=str(tmp_path / "labels.csv"))
    assert {item.path: item.labels.get("abnormality") for item in items} == {"a": 1, "b": 0, "c": 0, "d": None}


def test_labels_that_match_no_file_are_rejected_by_their_line(tmp_path):
    study(tmp_path / "in", "a", 1)
    (tmp_path / "labels.csv").write_text("uid,label\n1.2.1,0\n1.2.99,1\n1.2.1.1.1,1\n")
    items, rejected = listing(tmp_path / "in", labels=str(tmp_path / "labels.csv"))
    assert [item.labels["abnormality"] for item in items] == [1]
    assert rejected == {"labels.csv line 3": "no file has this uid"}


def test_labels_of_other_files_alone_are_an_error(tmp_path):
    study(tmp_path / "in", "a", 1)
    (tmp_path / "labels.csv").write_text("uid,label\n1.2.98,0\n1.2.99,1\n")
    with pytest.raises(UserError, match=r"none of the 2 UIDs in .*labels\.csv"):
        listing(tmp_path / "in", labels=str(tmp_path / "labels.csv"))


@pytest.mark.parametrize(("row", "message"), [("1.2.1,sick", "line 2: abnormality 'sick'"), (",1", "line 2: no uid")])
def test_labels_that_cannot_be_read_stop_before_work(tmp_path, row, message):
    (tmp_path / "labels.csv").write_text(f"uid,label\n{row}\n")
    with pytest.raises(UserError, match=message):
        listing(tmp_path, labels=str(tmp_path / "labels.csv"))


def test_without_labels_there_is_no_task(tmp_path):
    assert SOURCE.tasks(locate(tmp_path), SOURCE.Options()) == ()


@pytest.mark.slow
def test_headers_are_read_from_an_object_store(tmp_path, s3_folder):
    study(tmp_path, "a", 1)
    (tmp_path / "b").write_bytes(b"not a picture")
    for name in ("a", "b"):
        s3_folder.join(name).write_bytes((tmp_path / name).read_bytes())
    (item,) = list(SOURCE.items(s3_folder, SOURCE.Options()))[1:]
    assert (item.path, item.study_id, item.view) == ("a", "1.2.1", "PA")
    assert listing(s3_folder)[1] == {"b": "not a DICOM file"}
