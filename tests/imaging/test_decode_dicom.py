"""DICOM made from known arrays: every transfer syntax, the header that is kept, and every refusal."""

import base64
import logging
import threading
import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from dicom_making import encapsulated, make_dicom, to_bytes, transcode, waves
from PIL import Image
from pydicom import dcmread, uid

from mskray.imaging.decode import DecodeError, decode
from mskray.imaging.intensity import full_range

DEPTHS = {
    "8 bits": waves(60, 50, 8),
    "8 bits in 16": waves(60, 50, 8).astype(np.uint16),
    "10 bits": waves(60, 50, 10),
    "12 bits": waves(60, 50, 12),
    "14 bits": waves(60, 50, 14),
    "16 bits": waves(60, 50, 16),
    "12 bits signed": waves(60, 50, 12, signed=True),
    "16 bits signed": waves(60, 50, 16, signed=True),
}

LOSSLESS = [
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
    uid.JPEGLossless,
    uid.JPEGLosslessSV1,
    uid.JPEGLSLossless,
    uid.JPEGLSNearLossless,
    uid.JPEG2000Lossless,
    uid.JPEG2000,
    uid.RLELossless,
]


def stretched(stored: np.ndarray, bits: int) -> np.ndarray:
    low, high = float(stored.min()), float(stored.max())
    return full_range((stored - low) / (high - low), np.uint8 if bits == 8 else np.uint16)


@pytest.mark.parametrize("name", DEPTHS)
@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda syntax: syntax.keyword)
def test_lossless_transfer_syntaxes(name: str, syntax: uid.UID, tmp_path: Path) -> None:
    stored, bits = DEPTHS[name], int(name.split()[0])
    image = decode(transcode(make_dicom(stored, bits), syntax, tmp_path))
    assert image.metadata["transfer_syntax"] == syntax.name
    assert image.bits == bits
    assert np.array_equal(image.pixels, stretched(stored, bits))


@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda syntax: syntax.keyword)
def test_colour_in_every_lossless_transfer_syntax(syntax: uid.UID, tmp_path: Path) -> None:
    rgb = np.dstack([waves(60, 50, 8), waves(60, 50, 8)[::-1], waves(60, 50, 8)[:, ::-1]])
    image = decode(transcode(make_dicom(rgb, 8), syntax, tmp_path))
    assert np.abs(image.pixels - rgb @ [0.299, 0.587, 0.114]).max() <= 1


@pytest.mark.parametrize(
    ("name", "syntax", "tolerance"),
    [
        ("8 bits", uid.JPEGBaseline8Bit, 2),
        ("8 bits", uid.JPEGExtended12Bit, 2),
        ("12 bits", uid.JPEGExtended12Bit, 2 * 16),
        ("12 bits signed", uid.JPEGExtended12Bit, 2 * 16),
    ],
)
def test_lossy_jpeg(name: str, syntax: uid.UID, tolerance: int, tmp_path: Path) -> None:
    stored, bits = DEPTHS[name], int(name.split()[0])
    image = decode(transcode(make_dicom(stored, bits), syntax, tmp_path))
    assert np.abs(image.pixels.astype(int) - stretched(stored, bits)).max() <= tolerance


# Code streams of (row, column) → column + 20 row (8 bits) and 200 column + row (16 bits), 24 × 20, by OpenJPH.
HTJ2K = {
    8: "/0//UQApQAAAAAAUAAAAGAAAAAAAAAAAAAAAFAAAABgAAAAAAAAAAAABBwEB/1AACAACAAAAAv9SAAwAAgABAAUEBEAB/1wAEyBIUFBQUFBQ"
    "UFBQUFBQSEhI/2QAFwABT3BlbkpQSCBWZXIgMC4yNi4zLv+QAAoAAAAAAOQAAf+TwCX9AEd0AMASwBLAEoD0AMd0AJ4BB3QA+QBHdADAEsATgKQA"
    "S3QAIEH+AGI0AMATQBXwBOCmAEjSVQADT+ThR8D9ACEXmCH8mAAOkgyMQlUAwBXwBbUAVIAaOXSHQvDY4AjzMQj7eQAeHz189PgYGCreYmFhYWHg"
    "IjldED4xgU3bAI8P7+wY/EI2AMAtCAXVQCpA8Pg+AAD8744pnOB9YUvqAO/1/3//f/9//1+PN40xxhhjzP4FgA9gAB79gAB7LxMUNd4hAb6xD3hY"
    "Af9//jwIjBBXAP/Z",
    16: "/0//UQApQAAAAAAUAAAAGAAAAAAAAAAAAAAAFAAAABgAAAAAAAAAAAABDwEB/1AACAACAAAACv9SAAwAAgABAAUEBEAB/1wAEyCIkJCQkJCQ"
    "kJCQkJCQiIiI/2QAFwABT3BlbkpQSCBWZXIgMC4yNi4zLv+QAAoAAAAAAIsAAf+TwAAmT/MFB3QAwAATQAASgKj5A4d0AOAAB3QAwAATAO/3AIt0"
    "AMAAFTAABODv+/4AIjCCdgCI+MBJ/rUAwAAV0AAEwIILFiy4YMHYL9fiC3cAwvcf7LUAwAAtaAAFSI6Ojo6Ojo6Ojo6Oju/6enp6enGCegAA/P9Q"
    "6666lwD/2Q==",
}


@pytest.mark.parametrize("bits", HTJ2K)
@pytest.mark.parametrize("syntax", [uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL, uid.HTJ2K], ids=lambda s: s.keyword)
def test_high_throughput_jpeg_2000(bits: int, syntax: uid.UID) -> None:
    row, column = np.mgrid[:24, :20]
    stored = (column + 20 * row if bits == 8 else 200 * column + row).astype(f"u{bits // 8}")
    data = encapsulated(make_dicom(stored, bits), syntax, [base64.b64decode(HTJ2K[bits])])
    assert np.array_equal(decode(data).pixels, stretched(stored, bits))


def test_compressed_frames() -> None:
    frames = [waves(32, 40, 8), waves(32, 40, 8)[::-1], waves(32, 40, 8)[:, ::-1]]
    streams = []
    for frame in frames:
        stream = BytesIO()
        Image.fromarray(frame).save(stream, "JPEG", quality=95)
        streams.append(stream.getvalue())
    blank = make_dicom(np.stack(frames), 8)
    image = decode(encapsulated(blank, uid.JPEGBaseline8Bit, streams))
    assert image.pixels.shape == (3, 32, 40)
    assert np.abs(image.pixels.astype(int) - np.stack(frames)).max() <= 5
    with pytest.raises(DecodeError, match=r"2 of 3 frames|do not add up"):
        decode(encapsulated(blank, uid.JPEGBaseline8Bit, streams[:2]))
    with pytest.raises(DecodeError, match="truncated JPEG"):
        decode(encapsulated(blank, uid.JPEGBaseline8Bit, [*streams[:2], streams[2][: len(streams[2]) // 2]]))


def bare(data: bytes, keep_meta: bool) -> bytes:
    """The file without its preamble, or without its file meta too."""
    if keep_meta:
        return data[132:]
    return data[144 + int.from_bytes(data[140:144], "little") :]


@pytest.mark.parametrize("keep_meta", [True, False])
@pytest.mark.parametrize("syntax", LOSSLESS[:3], ids=lambda syntax: syntax.keyword)
def test_without_preamble(syntax: uid.UID, keep_meta: bool, tmp_path: Path) -> None:
    stored = waves(60, 50, 12)
    data = bare(transcode(make_dicom(stored, 12), syntax, tmp_path), keep_meta)
    image = decode(data)
    assert np.array_equal(image.pixels, stretched(stored, 12))
    assert image.metadata["transfer_syntax"] == syntax.name


def test_signature_at_the_very_start() -> None:
    stored = waves(20, 30, 8)
    assert np.array_equal(decode(make_dicom(stored, 8)[128:]).pixels, stretched(stored, 8))


def test_header_that_matters_and_nothing_that_names() -> None:
    data = make_dicom(
        waves(20, 30, 8),
        8,
        BodyPartExamined="WRIST",
        ViewPosition="PA",
        ImageLaterality="L",
        ImagerPixelSpacing=[0.2, 0.1],
        Manufacturer="ACME",
        InstanceNumber="7",
        StudyDescription="Jane Doe after fall",
        PatientBirthDate="19700101",
    )
    image = decode(data)
    assert image.metadata["modality"] == "DX"
    assert image.metadata["body_part"] == "WRIST"
    assert image.metadata["view_position"] == "PA"
    assert image.metadata["laterality"] == "L"
    assert image.metadata["instance_number"] == 7
    assert image.metadata["spacing_at"] == "detector"
    assert image.pixel_spacing_mm == (0.2, 0.1)
    assert image.patient_id == "MRN-0042"
    header = dcmread(BytesIO(data))
    assert image.study_id == header.StudyInstanceUID
    assert image.series_id == header.SeriesInstanceUID
    assert image.instance_id == header.SOPInstanceUID
    everything = repr(image.metadata)
    for name in ("Jane", "Doe", "0042", "1970", header.StudyInstanceUID):
        assert name not in everything


@pytest.mark.parametrize(
    ("keyword", "value", "field"),
    [
        ("BodyPartExamined", "left wrist of Jane Doe, b. 1970", "body_part"),
        ("BodyPartExamined", "KNEE JOHN DOE", "body_part"),
        ("BodyPartExamined", "KNEE_DOE", "body_part"),
        ("BodyPartExamined", "DOE^JOHN", "body_part"),
        ("BodyPartExamined", "12345678", "body_part"),
        ("BodyPartExamined", ["KNEE", "LEG"], "body_part"),
        ("Modality", "DOE JOHN", "modality"),
        ("ViewPosition", "näch", "view_position"),
        ("Laterality", "B", "laterality"),
    ],
)
def test_free_text_in_coded_elements_is_dropped(keyword: str, value: str, field: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = make_dicom(waves(8, 8, 8), 8, SpecificCharacterSet="ISO_IR 192", **{keyword: value})
    assert decode(data).metadata[field] is None


@pytest.mark.parametrize("value", ["KNEE", "LEFT KNEE", "LUMBAR SPINE", "UP_EXM", "TSPINE", "C1", "AP", "LEFT LATERAL"])
def test_terms_of_anatomy_are_kept(value: str) -> None:
    assert decode(make_dicom(waves(8, 8, 8), 8, BodyPartExamined=value)).metadata["body_part"] == value


def floats() -> bytes:
    header = dcmread(BytesIO(make_dicom(waves(8, 8, 8), 8, BitsAllocated=32, PixelData=None)))
    header.FloatPixelData = np.zeros(64, np.float32).tobytes()
    return to_bytes(header)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (make_dicom(waves(8, 8, 8), 8, PixelData=None), "DICOM image without pixel data"),
        (make_dicom(waves(8, 8, 8), 8, PixelData=bytes(62)), "truncated DICOM: 62 of 64 bytes"),
        (make_dicom(waves(8, 8, 8), 8, BitsAllocated=1, BitsStored=1, HighBit=0), "DICOM of 1 bits in 1"),
        (make_dicom(waves(8, 8, 8), 8, BitsStored=6, HighBit=5), "DICOM of 6 bits in 8"),
        (make_dicom(waves(8, 8, 8), 8, BitsAllocated=32, BitsStored=32, HighBit=31), "DICOM of 32 bits in 32"),
        (make_dicom(waves(8, 8, 16), 12, HighBit=15), "high bit"),
        (floats(), "floating-point"),
        (make_dicom(waves(8, 8, 8), 8, Rows=None), "DICOM image without Rows"),
        (make_dicom(waves(8, 8, 8), 8, RescaleSlope="0", RescaleIntercept="5"), "rescale slope 0"),
        (make_dicom(waves(8, 8, 8), 8, PhotometricInterpretation="HSV"), "HSV is not supported"),
        (make_dicom(waves(8, 8, 8), 8, PhotometricInterpretation="PALETTE COLOR"), "without a palette"),
        (make_dicom(waves(8, 8, 8), 8, SOPClassUID=uid.SegmentationStorage), "DICOM SEG is a mask"),
        (
            make_dicom(waves(8, 8, 8), 8, PixelData=None, Rows=None, SOPClassUID=uid.EncapsulatedPDFStorage),
            "DICOM DX holds no image",
        ),
        (
            make_dicom(
                waves(8, 8, 8),
                8,
                PixelData=None,
                Rows=None,
                Modality="PR",
                SOPClassUID=uid.GrayscaleSoftcopyPresentationStateStorage,
            ),
            "DICOM PR holds no image",
        ),
        (encapsulated(make_dicom(waves(8, 8, 8), 8), uid.MPEG2MPML, [b"\x00\x00\x01\xb3"]), "MPEG2 .* not supported"),
        (encapsulated(make_dicom(waves(8, 8, 8), 8), uid.JPEGBaseline8Bit, [b"nothing like it"]), "is not the JPEG"),
        (
            encapsulated(make_dicom(waves(8, 8, 8), 8), uid.UID("1.2.3"), [b"private"]),
            r"\(private\) is not supported",
        ),
    ],
)
def test_refused(data: bytes, reason: str) -> None:
    with pytest.raises(DecodeError, match=reason):
        decode(data)


@pytest.mark.parametrize(
    "syntax", [uid.JPEGLosslessSV1, uid.JPEGLSLossless, uid.JPEG2000Lossless, uid.JPEGBaseline8Bit]
)
@pytest.mark.parametrize("change", [{"Rows": 59}, {"Columns": 5000}, {"Rows": 120, "Columns": 25}])
def test_a_header_that_contradicts_its_stream_is_refused(syntax: uid.UID, change: dict, tmp_path: Path) -> None:
    """GDCM, believing the header, would write beyond its buffer."""
    header = dcmread(BytesIO(transcode(make_dicom(waves(60, 50, 8), 8), syntax, tmp_path)))
    for keyword, value in change.items():
        setattr(header, keyword, value)
    with pytest.raises(DecodeError, match="header says"):
        decode(to_bytes(header))


@pytest.mark.parametrize("syntax", [*LOSSLESS, uid.JPEGBaseline8Bit], ids=lambda syntax: syntax.keyword)
def test_a_cut_file_is_refused_or_lost_nothing(syntax: uid.UID, tmp_path: Path) -> None:
    data = transcode(make_dicom(waves(30, 20, 8), 8), syntax, tmp_path)
    whole = decode(data).pixels
    for length in [*range(0, len(data), 29), *range(len(data) - 40, len(data))]:
        try:
            pixels = decode(data[:length]).pixels
        except DecodeError:
            continue
        assert np.array_equal(pixels, whole), f"{length} of {len(data)} bytes"


def test_odd_headers_make_no_noise(caplog: pytest.LogCaptureFixture) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = make_dicom(waves(8, 8, 8), 8, PatientBirthDate="not a date", PixelData=waves(8, 9, 8).tobytes())
    caplog.clear()
    with caplog.at_level(logging.DEBUG), warnings.catch_warnings():
        warnings.simplefilter("error")
        threads = [threading.Thread(target=lambda: [decode(data) for _ in range(20)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert decode(data).pixels.shape == (8, 8)
        assert warnings.filters[0][0] == "error"
    assert [record for record in caplog.records if record.name.startswith("pydicom")] == []
    assert logging.getLogger("pydicom").propagate
