"""PNG, JPEG and TIFF: grey levels kept exactly, colour to luminance, and nothing damaged passes for whole."""

from collections.abc import Callable
from io import BytesIO

import cv2
import numpy as np
import pytest
from dicom_making import waves
from PIL import Image

from mskray.imaging.decode import DecodeError, decode

GREY = waves(40, 30, 8)
GREY16 = waves(40, 30, 16)  # spans 0 to 65,535
COLOUR = np.dstack([waves(40, 30, 8), waves(40, 30, 8)[::-1], waves(40, 30, 8)[:, ::-1]])
LUMINANCE = np.rint(COLOUR @ [0.299, 0.587, 0.114])
ALPHA = np.linspace(0, 255, GREY.size).reshape(GREY.shape).astype(np.uint8)


def saved(image: np.ndarray | Image.Image, file_format: str, **options: object) -> bytes:
    stream = BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(stream, file_format, **options)
    return stream.getvalue()


def coded(extension: str, image: np.ndarray) -> bytes:
    return cv2.imencode(extension, image)[1].tobytes()


def palette_image() -> Image.Image:
    image = Image.fromarray(255 - GREY, "P")
    image.putpalette([255 - level for level in range(256) for _ in range(3)])
    return image


@pytest.mark.parametrize(
    ("data", "expected", "bits", "tolerance"),
    [
        pytest.param(saved(GREY, "PNG"), GREY, 8, 0, id="png grey"),
        pytest.param(saved(GREY16, "PNG"), GREY16, 16, 0, id="png grey 16"),
        pytest.param(saved(GREY16 // 16 + 100, "PNG"), GREY16, 16, 16, id="png of 12 bits in 16 is stretched"),
        pytest.param(saved(COLOUR, "PNG"), LUMINANCE, 8, 1, id="png rgb"),
        pytest.param(saved(np.dstack([GREY] * 3), "PNG"), GREY, 8, 0, id="png rgb that is grey"),
        pytest.param(coded(".png", np.dstack([GREY16] * 3)), GREY16, 16, 0, id="png rgb 16"),
        pytest.param(saved(palette_image(), "PNG"), GREY, 8, 0, id="png palette"),
        pytest.param(saved(np.dstack([COLOUR, ALPHA]), "PNG"), LUMINANCE * (ALPHA / 255), 8, 1, id="png rgba on black"),
        pytest.param(saved(np.dstack([GREY, ALPHA]), "PNG"), GREY * (ALPHA / 255), 8, 1, id="png grey alpha on black"),
        pytest.param(saved(GREY, "PNG", interlace=True), GREY, 8, 0, id="png interlaced"),
        pytest.param(saved(GREY, "JPEG", quality=95), GREY, 8, 4, id="jpeg grey"),
        pytest.param(saved(COLOUR, "JPEG", quality=95), LUMINANCE, 8, 6, id="jpeg rgb"),
        pytest.param(saved(GREY, "JPEG", quality=95, progressive=True), GREY, 8, 4, id="jpeg progressive"),
        pytest.param(saved(GREY, "TIFF"), GREY, 8, 0, id="tiff grey"),
        pytest.param(saved(GREY, "TIFF", tiffinfo={262: 0}), GREY, 8, 0, id="tiff white is zero"),
        pytest.param(saved(GREY16, "TIFF", tiffinfo={262: 0}), 65_535 - GREY16, 16, 0, id="tiff 16 white is zero"),
        pytest.param(saved(GREY16, "TIFF", compression="tiff_lzw"), GREY16, 16, 0, id="tiff 16 lzw"),
        pytest.param(saved(GREY16, "TIFF", compression="tiff_adobe_deflate"), GREY16, 16, 0, id="tiff 16 deflate"),
        pytest.param(saved(GREY, "TIFF", compression="packbits"), GREY, 8, 0, id="tiff packbits"),
        pytest.param(saved(COLOUR, "TIFF"), LUMINANCE, 8, 1, id="tiff rgb"),
        pytest.param(saved(np.dstack([COLOUR, ALPHA]), "TIFF"), LUMINANCE * (ALPHA / 255), 8, 1, id="tiff rgba"),
        pytest.param(saved(palette_image(), "TIFF"), GREY, 8, 0, id="tiff palette"),
    ],
)
def test_pixels(data: bytes, expected: np.ndarray, bits: int, tolerance: int) -> None:
    image = decode(data)
    assert image.pixels.dtype == (np.uint8 if bits == 8 else np.uint16)
    assert image.pixels.shape == GREY.shape
    assert image.bits == bits
    assert np.abs(image.pixels.astype(float) - expected).max() <= tolerance
    assert image.pixel_spacing_mm is None
    assert image.patient_id is image.study_id is image.series_id is image.instance_id is None


def signed_tiff() -> bytes:
    stored = (GREY16.astype(np.int32) - 32_768).astype(np.int16)
    data = saved(stored.view(np.uint16), "TIFF", tiffinfo={339: 2})
    assert Image.open(BytesIO(data)).mode == "I"
    return data


def test_signed_tiff_is_stretched_over_the_full_range() -> None:
    assert np.array_equal(decode(signed_tiff()).pixels, GREY16)


def test_one_grey_level_of_16_bits_becomes_black() -> None:
    assert decode(saved(np.full((5, 6), 1234, np.uint16), "PNG")).pixels.max() == 0


@pytest.mark.parametrize(
    ("orientation", "turned"),
    [
        (1, lambda a: a),
        (2, np.fliplr),
        (3, lambda a: np.rot90(a, 2)),
        (4, np.flipud),
        (5, np.transpose),
        (6, lambda a: np.rot90(a, -1)),
        (7, lambda a: np.rot90(a, 2).T),
        (8, np.rot90),
    ],
)
@pytest.mark.parametrize("file_format", ["JPEG", "TIFF"])
def test_orientation_is_applied(orientation: int, turned: Callable, file_format: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = decode(saved(GREY, file_format, exif=exif)).pixels
    expected = turned(GREY)
    assert pixels.shape == expected.shape
    assert np.abs(pixels.astype(int) - expected).max() <= 12  # JPEG's loss; wrong turns differ by over 100


def pages(*images: np.ndarray) -> bytes:
    first, *others = (Image.fromarray(image) for image in images)
    return saved(first, "TIFF", save_all=True, append_images=others)


def test_tiff_pages_become_frames() -> None:
    image = decode(pages(GREY, GREY[::-1], GREY[:, ::-1]))
    assert np.array_equal(image.pixels, np.stack([GREY, GREY[::-1], GREY[:, ::-1]]))


def animated_png() -> bytes:
    return saved(Image.fromarray(GREY), "PNG", save_all=True, append_images=[Image.fromarray(GREY[::-1].copy())])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(saved(Image.fromarray(GREY > 128), "PNG"), "PNG of 1 bits", id="1-bit png"),
        pytest.param(saved(GREY // 16, "PNG", bits=4), "PNG of 4 bits|corrupt", id="4-bit png"),
        pytest.param(animated_png(), "animated PNG", id="animated png"),
        pytest.param(saved(Image.fromarray(GREY > 128), "TIFF"), "TIFF of 1 bits", id="1-bit tiff"),
        pytest.param(saved(GREY.astype(np.float32), "TIFF"), "TIFF of 32 bits", id="float tiff"),
        pytest.param(saved(GREY.astype(np.int32), "TIFF"), "TIFF of 32 bits", id="32-bit tiff"),
        pytest.param(coded(".tiff", np.dstack([GREY16] * 3)), "TIFF of 16 bits a sample, mode RGB", id="rgb 16"),
        pytest.param(saved(Image.new("CMYK", (9, 9)), "TIFF"), "mode CMYK", id="cmyk tiff"),
        pytest.param(pages(GREY, GREY[:20]), "pages differ", id="tiff pages of two sizes"),
        pytest.param(pages(GREY, GREY16), "pages differ", id="tiff pages of two depths"),
        pytest.param(saved(Image.new("CMYK", (9, 9)), "JPEG"), "JPEG of 4 components", id="cmyk jpeg"),
    ],
)
def test_refused(data: bytes, reason: str) -> None:
    with pytest.raises(DecodeError, match=reason):
        decode(data)


WHOLE = {
    "png": saved(GREY, "PNG"),
    "png 16": saved(GREY16, "PNG"),
    "png rgb": saved(COLOUR, "PNG"),
    "jpeg": saved(GREY, "JPEG"),
    "jpeg progressive": saved(COLOUR, "JPEG", progressive=True),
    "tiff": saved(GREY, "TIFF"),
    "tiff lzw": saved(GREY16, "TIFF", compression="tiff_lzw"),
    "tiff deflate": saved(GREY, "TIFF", compression="tiff_adobe_deflate"),
    "tiff jpeg": saved(GREY, "TIFF", compression="jpeg"),
    "tiff cv2": coded(".tiff", GREY16),
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_cut_file_is_refused_or_lost_nothing(name: str) -> None:
    data = WHOLE[name]
    whole = decode(data).pixels
    refused = 0
    for length in range(len(data)):
        try:
            pixels = decode(data[:length]).pixels
        except DecodeError:
            refused += 1
        else:
            assert np.array_equal(pixels, whole), f"{length} of {len(data)} bytes"
    assert refused >= len(data) - 16  # a TIFF's last entries may be of no use to its pixels


@pytest.mark.parametrize("name", ["png", "jpeg", "tiff lzw", "tiff deflate"])
def test_a_tail_of_zeros_is_refused(name: str) -> None:
    """What an interrupted download leaves: the right length, the end never written."""
    data = WHOLE[name]
    with pytest.raises(DecodeError):
        decode(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))


def test_damaged_png_data_is_refused() -> None:
    data = bytearray(WHOLE["png"])
    for position in range(data.index(b"IDAT") + 4, len(data) - 16, 7):
        damaged = data.copy()
        damaged[position] ^= 0x20
        with pytest.raises(DecodeError):
            decode(bytes(damaged))
