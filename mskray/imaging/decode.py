"""The one door for image bytes: what they are is read from their content, never from a file name.

`mskray ingest`, `mskray predict` and `mskray serve` all come through `decode`. Nothing but `DecodeError` leaves it,
so that bad data goes to quarantine with a reason and never stops a run.
"""

import mskray.imaging.dicom as dicom
import mskray.imaging.raster as raster
from mskray.imaging.decoded import DecodedImage, DecodeError, DecodeLimits, only_decode_errors

__all__ = ["DecodeError", "DecodeLimits", "DecodedImage", "decode"]

_READERS = {
    "png": raster.read_png,
    "jpeg": raster.read_jpeg,
    "tiff": raster.read_tiff,
    "dicom": dicom.read_dicom,
}

_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"\xff\xd8\xff", "jpeg"),
    (b"II*\x00", "tiff"),
    (b"MM\x00*", "tiff"),
    (b"II+\x00", "tiff"),
    (b"MM\x00+", "tiff"),
)

#: Beginnings of what people call .png or .dcm by mistake, so that the reason can name it.
_NOT_READ = (
    (b"%PDF", "a PDF"),
    (b"PK\x03\x04", "a zip archive"),
    (b"PK\x05\x06", "a zip archive"),
    (b"\x1f\x8b", "a gzip file"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"GIF8", "a GIF"),
    (b"BM", "a BMP"),
    (b"\x00\x00\x00\x0cjP  ", "a JPEG 2000 file"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 file"),
    (b"<!doctype", "HTML"),
    (b"<html", "HTML"),
    (b"<?xml", "XML"),
    (b"<svg", "an SVG drawing"),
    (b"{", "JSON"),
)


def decode(data: bytes, limits: DecodeLimits = DecodeLimits()) -> DecodedImage:
    """Decode a PNG, JPEG, TIFF or DICOM file held in memory.

    data: the whole file.
    limits: what it may ask for; checked on its header, before pixels are decoded.

    Raises `DecodeError`, and nothing else, for anything that is not a whole picture of 8 to 16 bits a sample: another
    kind of file, a DICOM object without an image, truncated or corrupt data, an animation, dimensions beyond `limits`.
    """
    if len(data) > limits.max_bytes:
        raise DecodeError(f"{len(data)} bytes are more than the limit of {limits.max_bytes}")
    kind = _sniff(data)
    # Four libraries and their C code stand behind this call.
    with only_decode_errors(kind.upper()):
        return _READERS[kind](data, limits)


def _sniff(data: bytes) -> str:
    """The key of `_READERS` for these bytes; `DecodeError` names what they are instead."""
    # First, because the 128 bytes before DICOM's own signature may legally hold a TIFF header (PS3.10 section 7.1).
    if dicom.is_dicom(data):
        return "dicom"
    for signature, kind in _SIGNATURES:
        if data.startswith(signature):
            return kind
    if not data:
        raise DecodeError("an empty file")
    head = data[:512].lstrip(b"\xef\xbb\xbf\t\n\r ").lower()
    for signature, name in _NOT_READ:
        if data.startswith(signature) or head.startswith(signature.lower()):
            raise DecodeError(f"{name}, not an image that can be read (PNG, JPEG, TIFF, DICOM)")
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        raise DecodeError("a WebP, not an image that can be read (PNG, JPEG, TIFF, DICOM)")
    raise DecodeError("not PNG, JPEG, TIFF or DICOM")
