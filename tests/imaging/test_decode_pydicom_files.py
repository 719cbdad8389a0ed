"""pydicom's own test files, as its wheel ships them: each decodes or is refused, and this table says which.

A file that is there and in no row fails, with what `decode` makes of it: look at it, then add it to a row.
Files that other releases of pydicom no longer ship are simply not tested.
"""

import os
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom import dcmread
from pydicom.pixels import apply_modality_lut, apply_voi_lut, apply_windowing

from mskray.imaging.decode import DecodeError, decode

FILES = Path(pydicom.__file__).parent / "data"

# shape and type of the pixels → files, by name or pattern below pydicom/data
DECODED = {
    "(3, 3) uint8": "*/SC_rgb_small_odd.dcm */SC_rgb_small_odd_big_endian.dcm */SC_rgb_small_odd_jpeg.dcm",
    "(16, 16) uint16": "*/dicomdirtests/77654033/* */dicomdirtests/98892001/* */dicomdirtests/98892003/*",
    "(32, 32) uint8": """*/chrArab.dcm */chrFren.dcm */chrFrenMulti.dcm */chrGerm.dcm */chrGreek.dcm */chrH31.dcm
        */chrH32.dcm */chrHbrw.dcm */chrI2.dcm */chrRuss.dcm */chrX1.dcm */chrX2.dcm""",
    "(45, 10) uint8": "*/JPEGLSNearLossless_08.dcm",
    "(50, 10) uint16": "*/JPEGLSNearLossless_16.dcm",
    "(60, 80) uint8": "*/ExplVR_BigEnd.dcm",
    "(64, 64) uint16": """*/MR_small.dcm */MR_small_RLE.dcm */MR_small_bigendian.dcm */MR_small_expb.dcm
        */MR_small_implicit.dcm */MR_small_jp2klossless.dcm */MR_small_jpeg_ls_lossless.dcm */MR_small_padded.dcm""",
    "(100, 100) uint8": """*/SC_rgb_dcmtk_+eb+cr.dcm */SC_rgb_dcmtk_+eb+cy+n1.dcm */SC_rgb_dcmtk_+eb+cy+n2.dcm
        */SC_rgb_dcmtk_+eb+cy+np.dcm */SC_rgb_dcmtk_+eb+cy+s2.dcm */SC_rgb_dcmtk_+eb+cy+s4.dcm */SC_rgb_gdcm_KY.dcm
        */SC_rgb_jls_lossy_line.dcm */SC_rgb_jls_lossy_sample.dcm */SC_rgb_jpeg_dcmtk.dcm */SC_rgb_jpeg_gdcm.dcm
        */SC_rgb_jpeg_lossy_gdcm.dcm */SC_rgb_rle.dcm */SC_ybr_full_422_uncompressed.dcm""",
    "(100, 100) uint16": "*/SC_rgb_rle_16bit.dcm",
    "(2, 100, 100) uint8": "*/SC_rgb_rle_2frame.dcm",
    "(2, 100, 100) uint16": "*/SC_rgb_rle_16bit_2frame.dcm",
    "(128, 128) uint16": "*/CT_small.dcm",
    "(240, 320) uint8": "*/examples_rgb_color.dcm",
    "(30, 240, 320) uint8": "*/examples_ybr_color.dcm",
    "(256, 256) uint8": """*/SC_jpeg_no_color_transform.dcm */SC_jpeg_no_color_transform_2.dcm */SC_rgb_jpeg.dcm
        */SC_rgb_jpeg_app14_dcmd.dcm */SC_rgb_jpeg_dcmd.dcm""",
    "(300, 484) uint16": "*/examples_overlay.dcm",
    "(350, 800) uint8": "*/examples_palette.dcm",
    "(400, 400) uint8": "*/GDCMJ2K_TextGBR.dcm",
    "(480, 640) uint8": "*/examples_jpeg2k.dcm",
    "(512, 512) uint8": "*/image_dfl.dcm",
    "(512, 512) uint16": "*/693_J2KI.dcm */J2K_pixelrep_mismatch.dcm",
    "(1024, 256) uint16": "*/JPEG-lossy.dcm */JPEG2000.dcm */JPGExtended.dcm",
}

# how the reason begins → files
REFUSED = {
    "DICOM SR holds no image": "*/reportsi.dcm */reportsi_with_empty_number_tags.dcm */test-SR.dcm",
    "DICOM RTPLAN holds no image": """*/ExplVR_BigEndNoMeta.dcm */ExplVR_LitEndNoMeta.dcm */rtplan.dcm
        */rtplan_truncated.dcm""",
    "DICOM RTSTRUCT holds no image": "*/rtstruct.dcm",
    "DICOM RTDOSE is a dose grid": "*/badVR.dcm */rtdose*.dcm",
    "DICOM ECG holds no image": "*/waveform_ecg.dcm",
    "DICOM SEG is a mask": "*/liver_1frame.dcm */liver_expb_1frame.dcm",
    "DICOM Color Palette holds no image": "palettes/*.dcm",
    "a DICOMDIR": "*/dicomdirtests/DICOMDIR* */TINY_ALPHA/DICOMDIR",
    # headers whose pixels were cut out to keep the file small
    "DICOM image without pixel data": """*/TINY_ALPHA/PT* */chrJapMulti.dcm */chrJapMultiExplicitIR6.dcm
        */chrKoreanMulti.dcm */chrSQEncoding*.dcm */UN_sequence.dcm */no_meta_group_length.dcm */priv_SQ.dcm""",
    "DICOM image without Rows": "*/meta_missing_tsyntax.dcm */nested_priv_SQ.dcm",
    "DICOM without an image": "*/empty_charset_LEI.dcm",
    "DICOM of 32 bits in 32": "*/SC_rgb_rle_32bit.dcm */SC_rgb_rle_32bit_2frame.dcm",
    "truncated DICOM: 8130 of 8192 bytes": "*/MR_truncated.dcm",
    # its tile size was overwritten with a sequence delimiter, to test that reading goes on behind it
    "corrupt JPEG 2000": "*/JPEG2000-embedded-sequence-delimiter.dcm",
    "JSON": "*.json",
    "a gzip file": "*/zipMR.gz",
    "not PNG, JPEG, TIFF or DICOM": "*.txt *.md */README *.icc *.dump */no_meta.dcm",
}


def outcome_of(name: str, table: dict[str, str]) -> str | None:
    for outcome, patterns in table.items():
        if any(fnmatch(name, pattern) for pattern in patterns.split()):
            return outcome
    return None


def present() -> list[str]:
    return sorted(
        path.relative_to(FILES).as_posix()
        for path in FILES.rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    )


@pytest.mark.parametrize("name", present())
def test_every_file_is_decided(name: str) -> None:
    try:
        image = decode((FILES / name).read_bytes())
        outcome, table = f"{image.pixels.shape} {image.pixels.dtype}", DECODED
    except DecodeError as error:
        outcome, table = error.reason, REFUSED
    expected = outcome_of(name, DECODED) or outcome_of(name, REFUSED)
    assert expected, f"{name} of pydicom {pydicom.__version__} is in no row of the table; it gives: {outcome}"
    assert outcome.startswith(expected)
    assert outcome_of(name, table) == expected


def pydicom_levels(name: str) -> np.ndarray:
    """Display levels 0–1 by pydicom's own functions."""
    header = dcmread(FILES / "test_files" / name)
    values = apply_modality_lut(header.pixel_array, header).astype(float)
    if "WindowWidth" in header:
        bottom, top = apply_windowing(np.array([-1e9, 1e9]), header)
        levels = (apply_voi_lut(values, header) - bottom) / (top - bottom)
    else:
        levels = (values - values.min()) / np.ptp(values)
    return 1 - levels if header.PhotometricInterpretation == "MONOCHROME1" else levels


@pytest.mark.parametrize(
    "name",
    [
        "MR_small.dcm",
        "MR_small_bigendian.dcm",
        "CT_small.dcm",
        "693_J2KI.dcm",
        "J2K_pixelrep_mismatch.dcm",
        "examples_overlay.dcm",
        "JPEGLSNearLossless_16.dcm",
        "dicomdirtests/77654033/CR1/6154",
        "dicomdirtests/77654033/CT2/17106",
        "dicomdirtests/98892003/MR700/4528",
    ],
)
def test_levels_agree_with_pydicom(name: str) -> None:
    pixels = decode((FILES / "test_files" / name).read_bytes()).pixels
    expected = pydicom_levels(name) * 65_535
    padding = dcmread(FILES / "test_files" / name).get("PixelPaddingValue")
    if padding is not None:
        expected[dcmread(FILES / "test_files" / name).pixel_array == padding] = 0
    assert np.abs(pixels - expected).max() <= 1


@pytest.mark.parametrize(
    ("names", "tolerance"),
    [
        (
            ["MR_small_RLE.dcm", "MR_small_implicit.dcm", "MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm"],
            0,
        ),
        (["SC_rgb_rle.dcm", "SC_rgb_jpeg_gdcm.dcm", "SC_rgb_gdcm_KY.dcm"], 0),
        (["SC_rgb_rle.dcm", "SC_rgb_dcmtk_+eb+cr.dcm", "SC_rgb_jpeg_dcmtk.dcm", "SC_rgb_jls_lossy_line.dcm"], 4),
        (["SC_rgb_rle.dcm", "SC_rgb_dcmtk_+eb+cy+n1.dcm", "SC_rgb_dcmtk_+eb+cy+s4.dcm"], 8),
        (["SC_rgb_small_odd.dcm", "SC_rgb_small_odd_big_endian.dcm"], 0),
        (["SC_rgb_jpeg_dcmd.dcm", "SC_jpeg_no_color_transform.dcm", "SC_rgb_jpeg.dcm"], 0),
    ],
)
def test_one_picture_in_many_encodings(names: list[str], tolerance: int) -> None:
    first, *others = (decode((FILES / "test_files" / name).read_bytes()).pixels.astype(int) for name in names)
    for other in others:
        assert np.abs(other - first).max() <= tolerance


@pytest.mark.skipif("MSKRAY_DATA" not in os.environ, reason="MSKRAY_DATA does not name a folder with knee_mri_dicom")
def test_a_real_knee_in_big_endian() -> None:
    paths = sorted(Path(os.environ["MSKRAY_DATA"], "knee_mri_dicom").glob("*.dcm"))
    assert len(paths) == 48
    images = [decode(path.read_bytes()) for path in paths]
    assert {image.metadata["transfer_syntax"] for image in images} == {"Explicit VR Big Endian"}
    assert {(image.pixels.shape, image.pixels.dtype.name, image.pixel_spacing_mm) for image in images} == {
        ((256, 256), "uint16", (0.625, 0.625))
    }
    assert len({image.series_id for image in images}) == 1
    assert len({image.instance_id for image in images}) == 48
    # Air in the corners is dark, marrow and fat in the middle slices are bright.
    for image in images[16:32]:
        assert image.pixels[:20, :20].mean() < 2_000
        assert np.percentile(image.pixels[64:192, 64:192], 90) > 20_000
