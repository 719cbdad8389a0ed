"""DICOM series → volumes: order, geometry and contrasts come from headers, and what does not fit is told."""

import random
from pathlib import Path

import numpy as np
import pytest
from dicom_making import make_dicom, transcode
from pydicom.uid import ExplicitVRBigEndian, JPEGLosslessSV1
from series_making import AXIAL, SAGITTAL, levels, make_enhanced, make_series, make_slice

from mskray.imaging.decode import DecodeError, DecodeLimits
from mskray.imaging.volumes import orientation, read_series, to_sagittal

SHUFFLE = random.Random(0)


def shuffled(files: list) -> list:
    return SHUFFLE.sample(files, len(files))


def test_slices_are_ordered_by_position_whatever_their_names_and_numbers_say() -> None:
    files = [(f"{9 - index}.dcm", make_slice(index, InstanceNumber=(7 * index) % 5)) for index in range(5)]
    found = read_series(shuffled(files))
    volume = found.only()
    np.testing.assert_array_equal(volume.pixels, [levels(index) for index in range(5)])
    assert volume.pixels.dtype == np.float32
    assert found.files == (("9.dcm", "8.dcm", "7.dcm", "6.dcm", "5.dcm"),)
    assert volume.spacing_mm == pytest.approx((4.0, 0.5, 0.75))
    assert (volume.thickness_mm, volume.modality, volume.notes) == (3.0, "MR", ())
    assert found.rejected == ()


def test_the_affine_places_every_voxel() -> None:
    volume = read_series(make_series(3)).only()
    # Columns run to +y by 0.75 mm, rows to −z by 0.5 mm, slices along their cross product −x by 4 mm.
    np.testing.assert_allclose(volume.affine @ [2, 3, 1, 1], [10 - 4, 20 + 2 * 0.75, 30 - 3 * 0.5, 1])
    view = to_sagittal(volume)
    np.testing.assert_array_equal(view.pixels, [levels(index) for index in (2, 1, 0)])  # right → left
    assert view.affine[0, 3] == pytest.approx(2)


@pytest.mark.parametrize("degrees", [3.0, 12.0, 40.0])
def test_oblique_slices(degrees: float) -> None:
    turn = np.radians(degrees)
    axes = (np.sin(turn), np.cos(turn), 0, 0, 0, -1)
    volume = read_series(shuffled(make_series(6, axes=axes))).only()
    np.testing.assert_array_equal(volume.pixels, [levels(index) for index in range(6)])
    assert volume.spacing_mm == pytest.approx((4.0, 0.5, 0.75), abs=1e-5)
    assert orientation(volume) == ("sagittal", pytest.approx(degrees, abs=1e-3))
    position = np.array([10, 20, 30]) + 2 * 4.0 * np.cross(axes[:3], axes[3:])
    np.testing.assert_allclose(volume.affine[:3] @ [0, 0, 2, 1], position, atol=1e-5)


def echoes() -> list[tuple[str, bytes]]:
    return [
        (f"e{number}-{index}", make_slice(index, stored=levels(index + 10 * number), EchoNumbers=number, EchoTime=time))
        for number, time in ((2, 80.0), (1, 12.5))
        for index in range(3)
    ]


def test_echoes_are_volumes_of_their_own() -> None:
    found = read_series(shuffled(echoes()))
    assert [volume.notes for volume in found.volumes] == [("echo 1 of 2 (TE 12.5 ms)",), ("echo 2 of 2 (TE 80 ms)",)]
    for number, volume in enumerate(found.volumes, start=1):
        np.testing.assert_array_equal(volume.pixels, [levels(index + 10 * number) for index in range(3)])
    assert found.files[0] == ("e1-0", "e1-1", "e1-2")
    assert not found.rejected
    with pytest.raises(DecodeError, match="2 volumes where one is expected"):
        found.only()


@pytest.mark.parametrize(
    ("first", "second", "note"),
    [
        ({"EchoTime": 10}, {"EchoTime": 90}, "echo {} of 2"),
        ({"TemporalPositionIdentifier": 1}, {"TemporalPositionIdentifier": 2}, "temporal position {} of 2"),
        ({}, {"ImageType": ["DERIVED", "PRIMARY", "P"]}, "image type {} of 2"),
    ],
)
def test_other_contrasts_at_the_same_places(first: dict, second: dict, note: str) -> None:
    files = [(f"{kind}-{n}", make_slice(n, **more)) for kind, more in (("a", first), ("b", second)) for n in range(3)]
    found = read_series(shuffled(files))
    assert len(found.volumes) == 2
    for number, volume in enumerate(found.volumes, start=1):
        assert volume.pixels.shape == (3, 5, 7)
        assert volume.notes[0].startswith(note.format(number))
    assert found.files == (("a-0", "a-1", "a-2"), ("b-0", "b-1", "b-2"))


def test_no_text_of_a_header_is_in_a_note() -> None:
    files = [(str(n), make_slice(n % 3, ImageType=["DERIVED", "PRIMARY", f"DOE{n // 3}"])) for n in range(6)]
    assert not any("DOE" in note for volume in read_series(files).volumes for note in volume.notes)


def test_several_series_in_one_folder() -> None:
    found = read_series(shuffled(make_series(3) + [(f"b{n}", make_slice(n, AXIAL, series="1.2.4")) for n in range(4)]))
    assert sorted((len(volume.pixels), orientation(volume)[0]) for volume in found.volumes) == [
        (3, "sagittal"),
        (4, "axial"),
    ]


def test_localisers_scouts_and_duplicates_are_rejected_by_name() -> None:
    extra = [
        ("localiser", make_slice(9, AXIAL, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])),
        ("scout", make_slice(2, AXIAL)),
        ("again", make_slice(3, InstanceNumber=90)),
        ("text", b"no image at all"),
        ("mosaic", make_slice(3, ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"])),
        ("nowhere", make_slice(4, ImagePositionPatient=[])),
        ("radiograph", make_dicom(levels(0), 16)),
    ]
    found = read_series(shuffled(make_series(8) + extra))
    np.testing.assert_array_equal(found.only().pixels, [levels(index) for index in range(8)])
    assert dict(found.rejected) == {
        "localiser": "a localiser",
        "scout": "a scout: its orientation differs from its series'",
        "again": "a duplicate: the same position as 03.dcm",
        "text": "not DICOM",
        "mosaic": "a mosaic: many slices in one picture",
        "nowhere": "DICOM without ImagePositionPatient: not a slice with a place in the patient",
        "radiograph": "DICOM without PixelSpacing: not a slice with a place in the patient",
    }


@pytest.mark.parametrize("missing", [(3,), (2, 3), (1, 5)])
def test_missing_slices_are_told_and_left_black_in_their_place(missing: tuple[int, ...]) -> None:
    files = [each for index, each in enumerate(make_series(8)) if index not in missing]
    found = read_series(shuffled(files))
    volume = found.only()
    assert volume.pixels.shape == (8, 5, 7)
    assert volume.missing == missing
    for index in range(8):
        expected = np.full((5, 7), 1) if index in missing else levels(index)
        np.testing.assert_array_equal(volume.pixels[index], expected)
        assert (found.files[0][index] is None) == (index in missing)
    notes = {
        (3,): ("1 slice missing after slice 2 (a gap of 8.00 mm = 2 × 4.00 mm): left black",),
        (2, 3): ("2 slices missing after slice 1 (a gap of 12.00 mm = 3 × 4.00 mm): left black",),
        (1, 5): (
            "1 slice missing after slice 0 (a gap of 8.00 mm = 2 × 4.00 mm): left black",
            "1 slice missing after slice 4 (a gap of 8.00 mm = 2 × 4.00 mm): left black",
        ),
    }
    assert volume.notes == notes[missing]
    assert volume.spacing_mm[0] == pytest.approx(4)


def test_a_slice_that_cannot_be_decoded_is_missing() -> None:
    files = make_series(4)
    files[2] = ("02.dcm", files[2][1][:-20])
    found = read_series(files)
    assert "1 slice missing after slice 1" in found.only().notes[0]
    assert found.rejected == (("02.dcm", "truncated DICOM: 50 of 70 bytes of pixel data"),)


def differing(**elements: object) -> list[tuple[str, bytes]]:
    return [(f"{index}", make_slice(index, **(elements if index > 3 else {}))) for index in range(6)]


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        (differing(PixelSpacing=[1, 1]), "mixed geometry: pixel spacing differs within the series"),
        (differing(stored=np.ones((5, 8), np.uint16)), "mixed geometry: rows × columns differ within the series"),
        (differing(axes=AXIAL), "mixed geometry: orientation differs within the series"),
        (
            differing(axes=AXIAL, PixelSpacing=[1, 1]),
            "mixed geometry: pixel spacing, orientation differ within the series",
        ),
        ([(str(n), make_slice(0, spacing=0, ImagePositionPatient=[x, 0, 0])) for n, x in enumerate((0, 4, 10, 14))],
         "uneven slice positions: steps of 4.00 to 6.00 mm"),
        ([(str(n), make_slice(n)) for n in (0, 1, 9)], "7 of 10 slices are missing"),
        ([(str(n), make_slice(n, ImagePositionPatient=[-4 * n, 30 * (n % 2), 0])) for n in range(4)],
         "slices do not lie behind each other"),
        ([(str(n), make_slice(n, PhotometricInterpretation="PALETTE COLOR")) for n in range(3)],
         "no slice of the series can be decoded"),
    ],
)  # fmt: skip
def test_a_series_that_is_no_volume_is_refused_and_every_file_counted(files: list, reason: str) -> None:
    found = read_series(files)
    assert not found.volumes
    assert sorted(name for name, _ in found.rejected) == sorted(name for name, _ in files)
    if "decoded" not in reason:
        assert all(each.startswith(reason) for _, each in found.rejected)
        with pytest.raises(DecodeError, match=reason):
            found.only()


def test_nearly_even_positions_pass_with_a_note() -> None:
    files = [(str(n), make_slice(0, ImagePositionPatient=[-x, 20, 30])) for n, x in enumerate((0, 4, 8.5, 12, 16))]
    assert read_series(files).only().notes == ("uneven: up to 0.50 mm off a spacing of 4.00 mm",)


def test_a_leaning_stack_keeps_its_shear() -> None:
    files = [(str(n), make_slice(n, ImagePositionPatient=[-4 * n, n, 0])) for n in range(4)]
    volume = read_series(files).only()
    assert volume.notes == ("a stack that leans by 14° off its slices' normal",)
    np.testing.assert_allclose(volume.affine[:3, 2], (-4, 1, 0), atol=1e-9)


def test_one_slice_is_a_volume_that_says_so() -> None:
    volume = read_series(make_series(1)).only()
    assert volume.pixels.shape == (1, 5, 7)
    assert volume.notes == ("one slice: its spacing is not measured",)
    assert volume.spacing_mm == pytest.approx((4, 0.5, 0.75))


def test_values_are_the_scanners_not_the_windows() -> None:
    stored = np.array([[0, 100, 4095], [7, 7, 9]], np.uint16)
    options = {"WindowCenter": "50", "WindowWidth": "10", "PixelPaddingValue": 0, "BitsStored": 12, "HighBit": 11}
    files = [
        (str(n), make_slice(n, stored=stored, RescaleSlope=str(n + 1), RescaleIntercept="-10", **options))
        for n in range(2)
    ]
    np.testing.assert_array_equal(
        read_series(files).only().pixels,
        [[[-3, 90, 4085], [-3, -3, -1]], [[4, 190, 8180], [4, 4, 8]]],  # padding takes its slice's lowest
    )
    inverted = make_slice(0, stored=stored, PhotometricInterpretation="MONOCHROME1", BitsStored=12, HighBit=11)
    np.testing.assert_array_equal(read_series([("", inverted)]).only().pixels[0], 4095 - stored.astype(int))


def test_signed_values() -> None:
    stored = np.array([[-5, 3]], np.int16)
    np.testing.assert_array_equal(read_series([("", make_slice(0, stored=stored))]).only().pixels, [[[-5, 3]]])
    inverted = make_slice(0, stored=stored, PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_array_equal(read_series([("", inverted)]).only().pixels, [[[4, -4]]])


def test_frames_of_an_enhanced_file() -> None:
    found = read_series([("whole.dcm", make_enhanced((30.0, 20.0, 25.0)))])
    volume = found.only()
    assert found.files == (("whole.dcm frame 1", "whole.dcm frame 2", "whole.dcm frame 0"),)
    np.testing.assert_array_equal(volume.pixels, [2 * levels(index).astype(int) + index for index in (1, 2, 0)])
    assert volume.spacing_mm == pytest.approx((5, 0.5, 0.75))
    assert (volume.thickness_mm, orientation(volume)[0]) == (3, "axial")


def test_time_points_of_an_enhanced_file() -> None:
    found = read_series([("dynamic.dcm", make_enhanced((0.0, 5.0, 0.0, 5.0), times=(1, 1, 2, 2)))])
    assert [volume.notes for volume in found.volumes] == [
        ("temporal position 1 of 2",),
        ("temporal position 2 of 2",),
    ]


def test_frames_without_places_are_refused() -> None:
    data = make_dicom(np.stack([levels(0), levels(1)]), 16)
    assert "only enhanced multi-frame DICOM is a volume" in read_series([("cine", data)]).rejected[0][1]


def test_limits_hold_for_a_file_and_for_the_whole() -> None:
    files = make_series(4)
    whole = read_series(files, DecodeLimits(max_pixels=3 * 35))
    assert {reason for _, reason in whole.rejected} == {
        "5 rows × 7 columns × 4 frames is more than the limit of 105 pixels"
    }
    assert len(whole.rejected) == 4
    assert not whole.volumes
    # The slices that are missing count too: a header could put two slices a kilometre apart.
    gap = [files[0], files[1], files[3]]
    assert "more than the limit" in read_series(gap, DecodeLimits(max_pixels=3 * 35)).rejected[0][1]
    each = read_series(files, DecodeLimits(max_bytes=100))
    assert "more than the limit of 100" in each.rejected[0][1]


def test_volumes_share_what_they_may_hold_together() -> None:
    files = [*make_series(4), *make_series(4, series="1.2.9")]
    assert len(read_series(files, together=8 * 35).volumes) == 2
    found = read_series(files, together=7 * 35)
    assert [volume.pixels.size for volume in found.volumes] == [4 * 35]
    assert {reason for _, reason in found.rejected} == {
        "5 rows × 7 columns × 4 frames is more than the limit of 105 pixels"
    }


def test_nothing_to_read() -> None:
    found = read_series([])
    assert (found.volumes, found.rejected) == ((), ())
    with pytest.raises(DecodeError, match="no files"):
        found.only()


def test_axes_that_are_no_axes() -> None:
    bad = [("skew", (0, 1, 0, 0, 1, 0)), ("short", (0, 0.5, 0, 0, 0, -1))]
    files = [(name, make_slice(0, ImageOrientationPatient=list(axes))) for name, axes in bad]
    assert all("no pair of unit vectors" in reason for _, reason in read_series(files).rejected)
    assert SAGITTAL not in [axes for _, axes in bad]


def test_compressed_and_big_endian_slices(tmp_path: Path) -> None:
    files = [
        (str(index), transcode(make_slice(index), syntax, tmp_path))
        for index, syntax in enumerate((ExplicitVRBigEndian, JPEGLosslessSV1, ExplicitVRBigEndian))
    ]
    np.testing.assert_array_equal(read_series(files).only().pixels, [levels(index) for index in range(3)])
