"""Overlays, segments and maps read back from their bytes: pixels, places, names and UIDs are those that went in."""

from copy import deepcopy
from io import BytesIO

import numpy as np
import pytest
from dicom_sources import ALGORITHM, KNEE_FINDING, multi_frame, radiograph
from highdicom.pm import ParametricMap
from highdicom.seg import Segmentation
from pydicom import Dataset, dcmread

from mskray.dicom import (
    Algorithm,
    Box,
    Group,
    Segment,
    disc_affine,
    file_bytes,
    parametric_map,
    secondary_capture,
    segmentation,
    structured_report,
)
from mskray.errors import UserError


def read(made: Dataset) -> Dataset:
    return dcmread(BytesIO(file_bytes(made)))


def place(frame: Dataset, shared: Dataset, column: float, row: float) -> np.ndarray:
    """LPS mm of a pixel of a frame, by PS3.3 C.7.6.2.1.1."""
    axes = np.reshape([float(each) for each in shared.PlaneOrientationSequence[0].ImageOrientationPatient], (2, 3))
    down, along = (float(each) for each in shared.PixelMeasuresSequence[0].PixelSpacing)
    corner = np.array([float(each) for each in frame.PlanePositionSequence[0].ImagePositionPatient])
    return corner + axes[0] * along * column + axes[1] * down * row


def test_a_picture_reads_back(knee):
    picture = np.random.default_rng(0).integers(0, 256, (knee.Rows, knee.Columns, 3), np.uint8)
    back = read(secondary_capture([knee], picture, ALGORITHM, "overlay"))
    np.testing.assert_array_equal(back.pixel_array, picture)
    assert back.PhotometricInterpretation == "RGB"
    assert back.SourceImageSequence[0].ReferencedSOPInstanceUID == knee.SOPInstanceUID
    assert "Not a medical device" in back.DerivationDescription
    assert list(back.PatientOrientation) == ["L", "F"]


def test_boxes_become_segments_with_every_pixel_that_they_touch(made, knee):
    back = Segmentation.from_dataset(read(made["boxes"]))
    pixels = back.get_pixels_by_source_instance([knee.SOPInstanceUID], ignore_spatial_locations=True)[0]
    expected = np.zeros(pixels.shape, bool)
    expected[4:17, 3:14, 0] = expected[5:14, 5:14, 1] = True
    np.testing.assert_array_equal(pixels, expected)
    assert back.SegmentationType == "BINARY"
    for number, label in ((1, "a"), (2, "b")):
        segment = back.get_segment_description(number)
        assert (segment.segment_label, segment.SegmentAlgorithmType) == (label, "AUTOMATIC")
        assert segment.algorithm_identification.name == "knees"
        assert segment.algorithm_identification.parameters["hash"] == "5f" * 32


def test_masks_lie_in_the_slices_they_were_drawn_in(made, series):
    back = read(made["masks"])
    assert back.NumberOfFrames == 2
    marked = [
        frame.DerivationImageSequence[0].SourceImageSequence[0] for frame in back.PerFrameFunctionalGroupsSequence
    ]
    assert {each.ReferencedSOPInstanceUID for each in marked} == {series[index].SOPInstanceUID for index in (2, 3)}
    for frame in back.pixel_array:
        assert frame[20:30, 30:50].all()
        assert frame.sum() == 200
    assert back.FrameOfReferenceUID == series[0].FrameOfReferenceUID


def test_a_voxel_of_a_discs_map_lies_where_the_discs_affine_says(series, phantom, disc):
    affine = disc_affine(phantom.volume, disc)
    shape = disc.pixels.shape
    values = np.random.default_rng(4).random(shape).astype(np.float32)
    back = read(parametric_map(series, values, ALGORITHM, "L4/L5", affine=affine))
    stored = np.frombuffer(back.FloatPixelData, "<f4").reshape(back.NumberOfFrames, back.Rows, back.Columns)
    shared = back.SharedFunctionalGroupsSequence[0]
    assert stored.shape == shape
    used = set()
    for pixels, frame in zip(stored, back.PerFrameFunctionalGroupsSequence, strict=True):
        (index,) = (number for number in range(shape[0]) if np.array_equal(values[number], pixels))
        used.add(index)
        for column, row in ((0, 0), (shape[2] - 1, 0), (0, shape[1] - 1), (shape[2] - 1, shape[1] - 1), (7, 5)):
            wanted = (affine @ [column, row, index, 1])[:3]
            assert np.linalg.norm(place(frame, shared, column, row) - wanted) < 0.01
    assert used == set(range(shape[0]))
    assert back.FrameOfReferenceUID == series[0].FrameOfReferenceUID
    # The middle of the disc's volume is the middle between the two bodies, in the volume's own coordinates too.
    centre = [(shape[2] - 1) / 2, (shape[1] - 1) / 2, shape[0] // 2, 1]
    l4, l5 = (next(body for body in phantom.vertebrae if body.level == level) for level in ("L4", "L5"))
    between = np.concatenate([l4.corners[2:], l5.corners[:2]]).mean(0) - 0.5
    expected = phantom.volume.affine @ [*between, round((l4.slice + l5.slice) / 2), 1]
    assert np.linalg.norm((affine @ centre)[:3] - expected[:3]) < phantom.volume.spacing_mm[0] / 2 + 1


@pytest.mark.parametrize("turn", range(4))
def test_a_map_with_any_axes_keeps_its_place(series, turn):
    rng = np.random.default_rng(turn)
    affine = np.eye(4)
    affine[:3, :3] = np.linalg.qr(rng.normal(size=(3, 3)))[0] * rng.uniform(0.3, 4, 3)
    affine[:3, 3] = rng.uniform(-200, 200, 3)
    values = rng.random((4, 6, 5)).astype(np.float32)
    back = read(parametric_map(series, values, ALGORITHM, "turned", affine=affine))
    stored = np.frombuffer(back.FloatPixelData, "<f4").reshape(4, 6, 5)
    for pixels, frame in zip(stored, back.PerFrameFunctionalGroupsSequence, strict=True):
        (index,) = (number for number in range(4) if np.array_equal(values[number], pixels))
        found = place(frame, back.SharedFunctionalGroupsSequence[0], 4, 5)
        assert np.linalg.norm(found - (affine @ [4, 5, index, 1])[:3]) < 0.01


def test_a_map_says_what_its_values_are(made):
    back = ParametricMap.from_dataset(read(made["map"]))
    (mapping,) = back.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence
    assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == "1"
    quantity = mapping.QuantityDefinitionSequence[0].ConceptCodeSequence[0]
    assert (quantity.CodeValue, quantity.CodingSchemeDesignator) == ("130404", "DCM")
    assert (mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept) == (1, 0)
    assert (back.ContentQualification, back.BitsAllocated) == ("RESEARCH", 32)


def test_a_radiographs_map_lies_on_its_pixels(knee):
    values = np.random.default_rng(0).random((knee.Rows, knee.Columns)).astype(np.float32)
    back = read(parametric_map([knee], values, ALGORITHM, "guided"))
    np.testing.assert_array_equal(np.frombuffer(back.FloatPixelData, "<f4").reshape(values.shape), values)
    source = back.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0].SourceImageSequence[0]
    assert source.ReferencedSOPInstanceUID == knee.SOPInstanceUID
    shared = back.SharedFunctionalGroupsSequence[0]
    assert [float(each) for each in shared.PixelMeasuresSequence[0].PixelSpacing] == [0.15, 0.15]


def test_a_multi_frame_source_is_referred_to_by_its_frames(series):
    enhanced = multi_frame(series)
    mask = np.zeros((len(series), enhanced.Rows, enhanced.Columns), bool)
    mask[3, 5:9, 5:9] = True
    back = read(segmentation([enhanced], [Segment("a", mask=mask)], ALGORITHM))
    (frame,) = back.PerFrameFunctionalGroupsSequence
    assert frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber == 4
    heat = read(parametric_map([enhanced], np.zeros((2, 3, 3)), ALGORITHM, "a", affine=np.eye(4)))
    assert heat.FrameOfReferenceUID == series[0].FrameOfReferenceUID
    report = structured_report([enhanced], [Group("L4/L5", (KNEE_FINDING,), level="L4/L5")], ALGORITHM)
    assert report.StudyInstanceUID == enhanced.StudyInstanceUID


def test_slices_turned_against_each_other_are_refused(series):
    turned = deepcopy(series[1])
    turned.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    mask = np.ones((2, turned.Rows, turned.Columns), bool)
    with pytest.raises(UserError, match="turned against each other"):
        segmentation([series[0], turned], [Segment("a", mask=mask)], ALGORITHM)


def test_frames_without_place_are_refused():
    frames = radiograph(NumberOfFrames=3)
    with pytest.raises(UserError, match="several images without place"):
        segmentation([frames], [Segment("a", (Box(1, 1, 2, 2),))], ALGORITHM)


def test_a_series_without_frame_of_reference_gets_one_that_stays(series):
    bare = deepcopy(series)
    for each in bare:
        del each.FrameOfReferenceUID
    values = np.zeros((2, 3, 3), np.float32)
    first, second = (parametric_map(bare, values, ALGORITHM, "x", affine=np.eye(4)) for _ in range(2))
    assert first.FrameOfReferenceUID == second.FrameOfReferenceUID


def test_the_same_image_is_the_same_object(knee):
    picture = np.zeros((4, 5, 3), np.uint8)
    other = Algorithm("knees", "0.1.0", "00")
    makers = (
        lambda model, label: secondary_capture([knee], picture, model, label),
        lambda model, label: segmentation([knee], [Segment("a", (Box(1, 1, 2, 2),))], model, label),
        lambda model, label: parametric_map([knee], np.zeros((knee.Rows, knee.Columns)), model, label),
    )
    seen = set()
    for make in makers:
        first, again = make(ALGORITHM, "one"), make(ALGORITHM, "one")
        uids = [[str(each.value) for each in made.iterall() if each.VR == "UI"] for made in (first, again)]
        assert uids[0] == uids[1]
        assert make(ALGORITHM, "two").SeriesInstanceUID == first.SeriesInstanceUID
        seen |= {str(made.SOPInstanceUID) for made in (first, make(ALGORITHM, "two"), make(other, "one"))}
    assert len(seen) == 9


BOX = (Box(1, 1, 2, 2),)
FLAT = np.zeros((60, 48), np.float32)


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: secondary_capture([radiograph()], np.zeros((4, 5), np.uint8), ALGORITHM, "x"), "a picture is"),
        (lambda: secondary_capture([radiograph()], np.zeros((4, 5, 3)), ALGORITHM, "x"), "not .4, 5, 3. float64"),
        (lambda: secondary_capture([], np.zeros((4, 5, 3), np.uint8), ALGORITHM, "x"), "no source image"),
        (lambda: segmentation([radiograph()], [], ALGORITHM), "nothing to segment"),
        (lambda: segmentation([radiograph()], [Segment("a")], ALGORITHM), "a: nothing is marked"),
        (
            lambda: segmentation([radiograph()], [Segment("a", mask=np.ones((3, 3), bool))], ALGORITHM),
            "a mask of 3 × 3",
        ),
        (
            lambda: segmentation([radiograph(), radiograph(name="2")], [Segment("a", BOX)], ALGORITHM),
            "without place in the patient",
        ),
        (
            lambda: segmentation(
                [radiograph(), radiograph(name="2", SeriesInstanceUID="1.2")], [Segment("a", BOX)], ALGORITHM
            ),
            "of several",
        ),
        (lambda: segmentation([radiograph()], [Segment("a", (Box(40, 50, 9, 9),))], ALGORITHM), "does not lie in"),
        (lambda: parametric_map([radiograph()], FLAT[:5], ALGORITHM, "x"), "a map of 5 × 48 for images of 1 × 60 × 48"),
        (lambda: parametric_map([radiograph()], FLAT - 1, ALGORITHM, "x"), "between 0 and 1"),
        (lambda: parametric_map([radiograph()], FLAT * np.nan, ALGORITHM, "x"), "between 0 and 1"),
        (lambda: parametric_map([radiograph()], FLAT[0], ALGORITHM, "x"), "a map is"),
        (lambda: parametric_map([radiograph()], FLAT, ALGORITHM, "x", affine=np.eye(4)), "no place in the patient"),
    ],
)
def test_a_wrong_image_is_one_line(make, line):
    with pytest.raises(UserError, match=line):
        make()


@pytest.mark.parametrize(
    ("affine", "line"),
    [
        (np.eye(3), "4 × 4 finite numbers"),
        (np.full((4, 4), np.nan), "4 × 4 finite numbers"),
        (np.diag([1.0, 0, 1, 1]), "have no length"),
        (np.array([[1.0, 0.5, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), "not at right angles"),
    ],
)
def test_a_wrong_affine_is_one_line(series, affine, line):
    with pytest.raises(UserError, match=line):
        parametric_map(series, np.zeros((2, 3, 3)), ALGORITHM, "x", affine=affine)
