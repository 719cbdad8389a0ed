"""What a file is comes from its bytes, and what it may ask for is checked before a pixel is decoded."""

import pickle
import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from dicom_making import make_dicom, waves
from PIL import Image
from pydicom import dcmread
from pydicom.uid import DeflatedExplicitVRLittleEndian

from mskray.imaging.decode import DecodeError, DecodeLimits, decode


def png_header(columns: int, rows: int, depth: int = 8, colour: int = 0) -> bytes:
    """A PNG with a valid header and almost no data."""
    body = struct.pack(">IIBBBBB", columns, rows, depth, colour, 0, 0, 0)
    chunks = ((b"IHDR", body), (b"IDAT", zlib.compress(b"\0")), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


def saved(pixels: np.ndarray, file_format: str, **options: object) -> bytes:
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, file_format, **options)
    return stream.getvalue()


def jpeg_header(columns: int, rows: int) -> bytes:
    """A JPEG that claims other dimensions than it has."""
    data = bytearray(saved(waves(16, 16, 8), "JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", rows, columns)
    return bytes(data)


def tiff_header(columns: int, rows: int) -> bytes:
    data = saved(waves(16, 16, 8), "TIFF")
    for tag, value in ((256, columns), (257, rows)):
        data = data.replace(struct.pack("<HHII", tag, 4, 1, 16), struct.pack("<HHII", tag, 4, 1, value))
        data = data.replace(struct.pack("<HHIHH", tag, 3, 1, 16, 0), struct.pack("<HHII", tag, 4, 1, value))
    return data


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "an empty file"),
        (b"%PDF-1.7\n1 0 obj", "a PDF"),
        (b"\n\n%PDF-1.7", "a PDF"),
        (b"PK\x03\x04" + bytes(60), "a zip archive"),
        (b"<!DOCTYPE html><html>", "HTML"),
        (b"  \n<html><body>404", "HTML"),
        (b"\xef\xbb\xbf<?xml version='1.0'?>", "XML"),
        (b'{"error": "no such key"}', "JSON"),
        (b"GIF89a" + bytes(60), "a GIF"),
        (b"BM" + bytes(60), "a BMP"),
        (b"RIFF\x10\x00\x00\x00WEBPVP8 ", "a WebP"),
        (b"\x1f\x8b\x08" + bytes(60), "a gzip file"),
        (b"\x00\x00\x00\x0cjP  \r\n\x87\n", "a JPEG 2000 file"),
        (b"patient,label\n1,0\n", "not PNG, JPEG, TIFF or DICOM"),
        (bytes(4096), "not PNG, JPEG, TIFF or DICOM"),
        (b"\x89PNG\r\n\x1a\n", "truncated PNG"),
        (b"\xff\xd8\xff", "truncated JPEG"),
        (b"II*\x00", "truncated TIFF"),
        (bytes(128) + b"DICM", "DICOM without an image, or truncated"),
    ],
)
def test_what_is_no_image_is_named(data: bytes, reason: str) -> None:
    with pytest.raises(DecodeError) as caught:
        decode(data)
    assert caught.value.reason.startswith(reason)
    assert "\n" not in caught.value.reason


@pytest.mark.parametrize(
    ("data", "file_format"),
    [
        (saved(waves(9, 7, 8), "PNG"), "png"),
        (saved(waves(9, 7, 8), "JPEG"), "jpeg"),
        (saved(waves(9, 7, 8), "TIFF"), "tiff"),
        (saved(waves(9, 7, 8), "TIFF", big_tiff=True), "tiff"),
        (make_dicom(waves(9, 7, 8), 8), "dicom"),
        # A file that is both (PS3.10 section 7.1): the preamble is free for another format's header.
        (b"II*\x00\x08\x00\x00\x00" + make_dicom(waves(9, 7, 8), 8)[8:], "dicom"),
    ],
)
def test_format_by_content(data: bytes, file_format: str) -> None:
    image = decode(data)
    assert image.format == file_format
    assert image.pixels.shape == (9, 7)
    assert image.bits == 8


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (png_header(0, 5), "void dimensions"),
        (png_header(5, 0), "void dimensions"),
        (png_header(2**31 - 1, 2**31 - 1), "longer than 65535"),
        (png_header(70_000, 1), "longer than 65535"),
        (png_header(60_000, 60_000), "more than the limit of 120000000 pixels"),
        (jpeg_header(0, 16), "void dimensions"),
        (jpeg_header(65_000, 65_000), "more than the limit of 120000000 pixels"),
        (tiff_header(60_000, 60_000), "more than the limit of"),
        (tiff_header(12_000, 12_000), "more than the limit of 120000000 pixels"),
        (tiff_header(0, 16), "void|corrupt"),
        (make_dicom(waves(8, 8, 8), 8, Rows=0), "void dimensions"),
        (make_dicom(waves(8, 8, 8), 8, Rows=65_535, Columns=65_535), "more than the limit of 120000000 pixels"),
        (make_dicom(waves(8, 8, 8), 8, NumberOfFrames=2_000_000_000), "more than the limit of 4096"),
        (make_dicom(waves(8, 8, 8), 8, NumberOfFrames=-1), "void dimensions"),
    ],
)
def test_absurd_dimensions_are_refused_on_the_header(data: bytes, reason: str) -> None:
    with pytest.raises(DecodeError, match=reason):
        decode(data)


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (DecodeLimits(max_bytes=100), "more than the limit of 100"),
        (DecodeLimits(max_pixels=30 * 40 * 2 - 1), "2399 pixels"),
        (DecodeLimits(max_frames=1), "2 frames are more than the limit of 1"),
    ],
)
@pytest.mark.parametrize("file_format", ["dicom", "tiff"])
def test_limits_are_kept(limits: DecodeLimits, reason: str, file_format: str) -> None:
    frames = np.stack([waves(30, 40, 8)] * 2)
    if file_format == "dicom":
        data = make_dicom(frames, 8)
    else:
        data = saved(frames[0], "TIFF", save_all=True, append_images=[Image.fromarray(frames[1])])
    assert decode(data).pixels.shape == (2, 30, 40)
    with pytest.raises(DecodeError, match=reason):
        decode(data, limits)


def test_a_deflated_data_set_is_measured_before_it_is_read() -> None:
    header = dcmread(BytesIO(make_dicom(np.zeros((1500, 1500), np.uint8), 8)))
    header.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    stream = BytesIO()
    header.save_as(stream)
    data = stream.getvalue()
    assert len(data) < 10_000
    assert decode(data).pixels.shape == (1500, 1500)
    with pytest.raises(DecodeError, match="deflated DICOM of more than the limit of 2000000 bytes"):
        decode(data, DecodeLimits(max_bytes=2_000_000))


def test_decode_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(DecodeError("truncated PNG")))
    assert error.reason == "truncated PNG"
