"""PNG, JPEG and TIFF bytes to grey arrays.

PNG goes to OpenCV, which is fastest and refuses damaged data; JPEG and TIFF to Pillow, which refuses a missing tail
where OpenCV fills it with grey. Depths below 8 bits (bitmaps, masks) and 32 bits (integers, floats) are refused.
Grey of more than 8 bits carries no window, so it is stretched from its minimum to its maximum, as a DICOM without a
window is; 8-bit grey and all colour are display values already and stay.
"""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO

import cv2
import numpy as np
from PIL import Image, ImageOps

from mskray.imaging.codecs import jpeg_header
from mskray.imaging.decoded import DecodedImage, DecodeError, DecodeLimits
from mskray.imaging.intensity import full_range
from mskray.imaging.quiet import quiet

_CHUNK = struct.Struct(">I4s")
_IHDR = struct.Struct(">4sIIBB")
_PNG_COLOURS = {0: "grey", 2: "colour", 3: "palette", 4: "grey", 6: "colour"}

_BITS_PER_SAMPLE = 258
_PHOTOMETRIC = 262
_STRIP_OFFSETS, _STRIP_COUNTS = 273, 279
_TILE_OFFSETS, _TILE_COUNTS = 324, 325
_WHITE_IS_ZERO = 0
_TIFF_MODES = {
    **dict.fromkeys(("L", "I;16", "I;16B", "I"), "grey"),
    **dict.fromkeys(("RGB", "RGBA", "LA", "YCbCr"), "colour"),
    **dict.fromkeys(("P", "PA"), "palette"),
}


def read_png(data: bytes, limits: DecodeLimits, stretch: bool = True) -> DecodedImage:
    """A PNG: grey, colour or palette, 8 or 16 bits, alpha laid over black. Animated ones are refused.

    stretch: False for a file that holds display values of 16 bits, such as one of our own.
    """
    if len(data) < 33:
        raise DecodeError("truncated PNG")
    name, columns, rows, depth, colour = _IHDR.unpack_from(data, 12)
    if name != b"IHDR" or colour not in _PNG_COLOURS:
        raise DecodeError("corrupt PNG: no image header")
    limits.check(rows, columns)
    if depth not in (8, 16):
        raise DecodeError(f"PNG of {depth} bits a sample: at least 8 are needed")
    _check_png_chunks(data)
    # OpenCV's libpng verifies checksums and that every row is there; None is its refusal.
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise DecodeError("corrupt PNG")
    if pixels.ndim == 3:
        pixels = _grey_of_bgr(pixels)
    elif depth == 16 and stretch:
        pixels = _stretched(pixels)
    return DecodedImage(pixels, "png", depth, None, {"photometric": _PNG_COLOURS[colour]})


def _check_png_chunks(data: bytes) -> None:
    """Walk from chunk to chunk: OpenCV is not asked (and prints nothing) about a file whose end is missing."""
    position, size = 8, len(data)
    while position + 12 <= size:
        length, name = _CHUNK.unpack_from(data, position)
        position += 12 + length
        if name == b"IEND":
            return
        if name == b"acTL":
            raise DecodeError("animated PNG")
    raise DecodeError("truncated PNG")


def read_jpeg(data: bytes, limits: DecodeLimits) -> DecodedImage:
    """A JPEG of 8 bits a sample, grey or colour, turned upright as its EXIF orientation says. CMYK is refused."""
    header = jpeg_header(data)
    limits.check(header.rows, header.columns)
    if header.precision != 8 or header.process not in (0, 1, 2):
        raise DecodeError(
            f"JPEG of {header.precision} bits a sample, process {header.process}: only 8-bit Huffman JPEG"
        )
    if header.components not in (1, 3):
        raise DecodeError(f"JPEG of {header.components} components: grey or RGB is needed")
    with _opened(data, "JPEG", "MPO") as image:
        if (image.height, image.width) != (header.rows, header.columns):
            raise DecodeError("corrupt JPEG: two frame headers")
        image.load()
        colour = "grey" if image.mode == "L" else "colour"
        pixels = np.array(ImageOps.exif_transpose(image).convert("L"))
    return DecodedImage(pixels, "jpeg", 8, None, {"photometric": colour})


@contextmanager
def _opened(data: bytes, *formats: str) -> Iterator[Image.Image]:
    try:
        with quiet(), Image.open(BytesIO(data), formats=formats) as image:
            yield image
    except Image.DecompressionBombError:
        raise DecodeError("more than the limit of 178956970 pixels that Pillow keeps itself") from None


def read_tiff(data: bytes, limits: DecodeLimits) -> DecodedImage:
    """A TIFF: grey of 8, 12 or 16 bits (signed too), 8-bit colour or palette; pages of one size become frames."""
    _check_tiff_directory(data)
    with _opened(data, "TIFF") as image:
        pages: list[np.ndarray] = []
        while True:
            limits.check(image.height, image.width, len(pages) + 1)
            bits, kind = _check_tiff_page(image, len(data))
            image.load()
            pages.append(_tiff_page(image, bits, kind))
            if pages[-1].shape != pages[0].shape or pages[-1].dtype != pages[0].dtype:
                raise DecodeError("TIFF whose pages differ in size or depth")
            try:
                image.seek(len(pages))
            except EOFError:
                break
    pixels = pages[0] if len(pages) == 1 else np.stack(pages)
    if kind == "grey" and bits > 8:
        pixels = _stretched(pixels)
    return DecodedImage(pixels, "tiff", bits, None, {"photometric": kind})


def _check_tiff_directory(data: bytes) -> None:
    """Most writers put the directory behind the pixels: where it is missing, the end of the file is."""
    order = "<" if data[:1] == b"I" else ">"
    wide = b"+" in data[2:4]  # BigTIFF
    if len(data) < 16:
        raise DecodeError("truncated TIFF")
    (directory,) = struct.unpack_from(f"{order}Q" if wide else f"{order}I", data, 8 if wide else 4)
    if directory + 2 > len(data):
        raise DecodeError("truncated TIFF")


def _check_tiff_page(image: Image.Image, size: int) -> tuple[int, str]:
    """(bits a sample, kind of colour) of the current page; `DecodeError` where it is not read or not all there."""
    tags = image.tag_v2  # type: ignore[attr-defined]  # the TIFF plugin's own attribute
    depths = set(tags.get(_BITS_PER_SAMPLE, (1,)))
    bits = max(depths)
    kind = _TIFF_MODES.get(image.mode)
    if kind is None or len(depths) != 1 or bits not in ((8, 12, 16) if kind == "grey" else (8,)):
        raise DecodeError(
            f"TIFF of {bits} bits a sample, mode {image.mode}: 8 to 16-bit integer grey or 8-bit colour is needed"
        )
    for offsets, counts in ((_STRIP_OFFSETS, _STRIP_COUNTS), (_TILE_OFFSETS, _TILE_COUNTS)):
        if any(o + c > size for o, c in zip(tags.get(offsets, ()), tags.get(counts, ()), strict=False)):
            raise DecodeError("truncated TIFF")
    return bits, kind


def _tiff_page(image: Image.Image, bits: int, kind: str) -> np.ndarray:
    if kind == "grey":
        pixels = np.array(image)
        # Pillow turns 8-bit "white is zero" the right way up, deeper ones not.
        if bits > 8 and image.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:  # type: ignore[attr-defined]
            pixels = (1 << bits) - 1 - pixels
        return pixels
    if image.mode in ("RGBA", "LA", "PA"):
        return _grey_of_bgr(np.array(image.convert("RGBA"))[..., [2, 1, 0, 3]])
    return np.array(image.convert("RGB").convert("L"))


def _grey_of_bgr(pixels: np.ndarray) -> np.ndarray:
    """(rows, columns, 3 or 4) as OpenCV orders them → (rows, columns) luminance, what is transparent becoming black."""
    grey = cv2.cvtColor(np.ascontiguousarray(pixels[..., :3]), cv2.COLOR_BGR2GRAY)
    if pixels.shape[2] == 3:
        return grey
    alpha = pixels[..., 3] / np.iinfo(pixels.dtype).max
    return np.rint(grey * alpha).astype(pixels.dtype)


def _stretched(pixels: np.ndarray) -> np.ndarray:
    """Any integers → uint16 from the smallest (0) to the largest (65,535); a single grey level becomes 0."""
    low, high = int(pixels.min()), int(pixels.max())
    if (low, high) == (0, 65_535) and pixels.dtype == np.uint16:
        return pixels
    return full_range((pixels.astype(np.float32) - low) / max(high - low, 1), np.uint16)
