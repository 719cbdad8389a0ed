"""Mutated files: whatever the bytes, `decode` gives a picture or raises `DecodeError`, soon, and never anything else.

A crash of a C decoder would end this whole process: that, too, is what is tested.
"""

from functools import cache
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pydicom
from dicom_making import make_dicom, transcode, waves
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom import uid

from mskray.imaging.decode import DecodedImage, DecodeError, DecodeLimits, decode

GREY = waves(40, 30, 8)
COLOUR = np.dstack([GREY, GREY[::-1], GREY[:, ::-1]])
LIMITS = DecodeLimits(max_pixels=1_000_000, max_bytes=1_000_000)
SYNTAXES = (
    uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
    uid.JPEGLosslessSV1,
    uid.JPEGLSLossless,
    uid.JPEG2000Lossless,
    uid.JPEGExtended12Bit,
    uid.RLELossless,
)
EXTREMES = (b"\xff" * 4, bytes(4), b"\x7f\xff", b"\xff\xff\xff\x7f")
SIGNATURES = (b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\x00", b"MM\x00*", bytes(128) + b"DICM", b"\x08\x00")
FILES = Path(pydicom.__file__).parent / "data" / "test_files"
FROM_PYDICOM = (
    "SC_rgb_jpeg_gdcm.dcm",
    "SC_rgb_jls_lossy_sample.dcm",
    "SC_rgb_dcmtk_+eb+cy+s4.dcm",
    "examples_overlay.dcm",
    "rtplan.dcm",
    "test-SR.dcm",
    "dicomdirtests/DICOMDIR",
)


def saved(image: np.ndarray, file_format: str, **options: object) -> bytes:
    stream = BytesIO()
    Image.fromarray(image).save(stream, file_format, **options)
    return stream.getvalue()


@cache
def samples() -> list[bytes]:
    files = [
        saved(GREY, "PNG"),
        saved(waves(40, 30, 16), "PNG"),
        saved(np.dstack([COLOUR, GREY]), "PNG"),
        saved(GREY, "JPEG"),
        saved(COLOUR, "JPEG", progressive=True),
        saved(GREY, "TIFF"),
        saved(waves(40, 30, 16), "TIFF", compression="tiff_lzw"),
        saved(GREY, "TIFF", compression="jpeg"),
        saved(GREY, "TIFF", save_all=True, append_images=[Image.fromarray(GREY)]),
        make_dicom(np.stack([GREY, GREY]), 8, WindowCenter="100", WindowWidth="50", PixelPaddingValue=0),
        make_dicom(waves(40, 30, 12), 12, PhotometricInterpretation="MONOCHROME1", RescaleSlope="2"),
    ]
    with TemporaryDirectory() as folder:
        grey = make_dicom(waves(40, 30, 12), 12)
        files.extend(transcode(grey, syntax, Path(folder)) for syntax in SYNTAXES)
    files.extend((FILES / name).read_bytes() for name in FROM_PYDICOM if (FILES / name).exists())
    return files


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """One of the samples with a few bytes set, inserted, removed or copied elsewhere, or with its end cut off."""
    data = bytearray(draw(st.sampled_from(samples())))
    for _ in range(draw(st.integers(1, 6))):
        # Half of the changes fall on headers, which lie in front.
        place = draw(st.one_of(st.integers(0, min(len(data), 1500)), st.integers(0, len(data))))
        piece = draw(
            st.one_of(st.binary(min_size=1, max_size=8), st.sampled_from([b"\xff" * 4, bytes(4), b"\x7f\xff"]))
        )
        action = draw(st.sampled_from(("set", "set", "set", "insert", "remove", "copy", "cut")))
        if action == "set":
            data[place : place + len(piece)] = piece
        elif action == "insert":
            data[place:place] = piece
        elif action == "remove":
            del data[place : place + draw(st.integers(1, 64))]
        elif action == "copy":
            source = draw(st.integers(0, len(data)))
            data[place : place + 32] = data[source : source + 32]
        else:
            del data[max(place, 1) :]
    return bytes(data)


def outcome(data: bytes) -> DecodedImage | str:
    try:
        return decode(data, LIMITS)
    except DecodeError as error:
        return error.reason


def check(data: bytes) -> None:
    result = outcome(data)
    if isinstance(result, str):
        assert result
        assert result.isprintable()
        assert len(result) < 200
    else:
        assert result.pixels.dtype in (np.uint8, np.uint16)
        assert result.pixels.ndim in (2, 3)
        assert 0 < result.pixels.size <= LIMITS.max_pixels


FUZZ = settings(max_examples=600, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@FUZZ
@given(mutated())
def test_mutated_files(data: bytes) -> None:
    check(data)


@FUZZ
@given(
    st.sampled_from(
        [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\x00", b"MM\x00*", bytes(128) + b"DICM", b"\x08\x00"]
    ),
    st.binary(max_size=300),
)
def test_random_bytes_behind_a_signature(signature: bytes, data: bytes) -> None:
    check(signature + data)
