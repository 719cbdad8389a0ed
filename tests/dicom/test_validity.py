"""Every object that the room makes, judged by others' checkers, and what all objects have in common."""

from io import BytesIO

import numpy as np
import pytest
from dicom_sources import ALGORITHM, KNEE_FINDING, radiograph
from pydicom import Dataset, dcmread

from mskray.dicom import Group, file_bytes, parametric_map, segmentation, structured_report
from mskray.dicom.concepts import SCHEME
from mskray.dicom.results import Box, Segment

KINDS = (
    "report of a study",
    "report of a pair",
    "report of a spine",
    "picture",
    "picture of a spine",
    "boxes",
    "masks",
    "map",
    "map of slices",
    "map of a disc",
)


def test_every_kind_is_judged(made):
    assert tuple(made) == KINDS


@pytest.mark.system("dciodvfy")
@pytest.mark.parametrize("kind", KINDS)
def test_dciodvfy_finds_no_error(made, judged, kind):
    assert judged(made[kind]) == []


@pytest.mark.system("dciodvfy")
def test_dciodvfy_would_find_an_error(made, judged):
    broken = dcmread(BytesIO(file_bytes(made["boxes"])))
    del broken.SegmentSequence
    assert any("SegmentSequence" in line for line in judged(broken))


@pytest.mark.system("dcmdump")
@pytest.mark.parametrize("kind", KINDS)
def test_dcmtk_reads_it(made, dumped, kind):
    assert str(made[kind].SOPInstanceUID) in dumped(made[kind], "dcmdump")


@pytest.mark.parametrize("kind", KINDS)
def test_patient_and_study_are_the_sources(made, knee, kind):
    read = dcmread(BytesIO(file_bytes(made[kind])))
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate"):
        assert read[keyword].value == knee[keyword].value, keyword
    for keyword in ("StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName", "StudyDescription"):
        assert read[keyword].value == knee[keyword].value, keyword
    assert read.SeriesInstanceUID != knee.SeriesInstanceUID
    assert read.file_meta.MediaStorageSOPInstanceUID == read.SOPInstanceUID
    assert (read.ManufacturerModelName, read.SoftwareVersions) == ("knees", "0.1.0")


@pytest.mark.parametrize("kind", KINDS)
def test_every_reference_is_a_source(made, knee, series, kind):
    known = {str(image.SOPInstanceUID): str(image.SOPClassUID) for image in (knee, *series)}
    before = radiograph(name="before")
    known[str(before.SOPInstanceUID)] = str(before.SOPClassUID)
    found = []

    def look(dataset: Dataset, element: object) -> None:
        if "ReferencedSOPInstanceUID" in dataset:
            found.append((str(dataset.ReferencedSOPInstanceUID), str(dataset.ReferencedSOPClassUID)))

    made[kind].walk(look)
    assert found
    assert all(known[instance] == kind_of for instance, kind_of in found)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.startswith("picture")])
def test_private_codes_are_declared(made, kind):
    schemes = made[kind].CodingSchemeIdentificationSequence
    assert [item.CodingSchemeDesignator for item in schemes] == [SCHEME]


@pytest.mark.system("dciodvfy")
@pytest.mark.parametrize(
    "elements",
    [
        {"PatientID": None, "PatientName": None, "PatientBirthDate": None, "PatientSex": None},
        {"StudyDate": None, "StudyTime": None, "StudyID": None, "AccessionNumber": None},
        {"ReferringPhysicianName": None, "Manufacturer": None, "InstanceNumber": None},
        {"ImagerPixelSpacing": None, "PatientOrientation": None, "Laterality": None, "BodyPartExamined": None},
        {"FrameOfReferenceUID": "1.2.3.4"},
        {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7", "Modality": None},
        {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.1", "Modality": "DX", "ImageLaterality": "R"},
        {"SpecificCharacterSet": "ISO_IR 100", "PatientName": "Müller^Jürgen"},
        {"LossyImageCompression": "01", "LossyImageCompressionRatio": 10, "LossyImageCompressionMethod": "ISO_10918_1"},
    ],
    ids=["no patient", "no study", "no maker", "no side", "a frame alone", "capture", "dx", "umlauts", "lossy"],
)
def test_a_source_that_lacks_much_still_makes_valid_objects(judged, elements):
    source = radiograph(**elements)
    area = Box(1, 1, 5, 5)
    assert judged(structured_report([source], [Group("image", (KNEE_FINDING,), boxes=(area,))], ALGORITHM)) == []
    assert judged(segmentation([source], [Segment("a", (area,))], ALGORITHM)) == []
    assert judged(parametric_map([source], np.zeros((60, 48)), ALGORITHM, "guided")) == []
