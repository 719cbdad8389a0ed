"""Compressed streams: their headers checked before any C decoder sees them, and the decoders that pydicom lacks.

GDCM trusts the DICOM header: where the stream inside states other dimensions, it writes beyond its buffer and takes
the process with it. So every stream is checked first (`check_frame`). pydicom 3 decodes through plugins;
`register_decoders` adds one for what it cannot do with python-gdcm and pylibjpeg-openjpeg alone: JPEG 2000 and HTJ2K
through OpenJPEG, and JPEG of 9–16 bits, lossless JPEG and JPEG-LS through GDCM at the depth that the stream states.
"""

import re
import struct
import threading
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import gdcm
import openjpeg
from pydicom.pixels import get_decoder
from pydicom.uid import (
    HTJ2K,
    UID,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)
from pydicom.uid import JPEG2000 as JPEG2000Lossy

from mskray.imaging.decoded import DecodeError

JPEG_2000 = frozenset({JPEG2000Lossless, JPEG2000Lossy, HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K})
JPEG_LS = frozenset({JPEGLSLossless, JPEGLSNearLossless})
JPEG = frozenset({JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1}) | JPEG_LS
COMPRESSED = JPEG | JPEG_2000 | {RLELossless}

#: What pydicom wants to tell of a plugin whose dependencies are missing; ours are requirements of mskray.
DECODER_DEPENDENCIES: dict[UID, tuple[str, ...]] = {
    **dict.fromkeys(JPEG_2000, ("pylibjpeg-openjpeg",)),
    **dict.fromkeys(JPEG - {JPEGBaseline8Bit}, ("python-gdcm",)),
}

_PLUGIN = "mskray"
_registering = threading.Lock()

_NOT_A_FRAME = {0xC4, 0xC8, 0xCC}  # within C0–CF, these define tables and are no frame header
_BETWEEN_SCANS = {0xC4, 0xDA, 0xDB, 0xDD, 0xE0, 0xFE, 0xF8}
_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])", re.DOTALL)
_MARKER_LS = re.compile(rb"\xff([\x80-\xcf\xd8-\xfe])", re.DOTALL)  # JPEG-LS stuffs a bit: FF 00–7F is data


@dataclass(frozen=True)
class StreamHeader:
    """What a compressed stream says of itself. `process` is the JPEG frame marker's low byte, 0 for JPEG 2000."""

    process: int
    precision: int
    rows: int
    columns: int
    components: int
    scan: int = 0


def jpeg_header(data: bytes) -> StreamHeader:
    """The frame header of a JPEG or JPEG-LS stream (ITU-T T.81 annex B; T.87 annex C), and where its first scan begins.

    Raises `DecodeError` where the stream ends too early (its end marker is missing) or its segments make no sense.
    """
    position = 2
    frame: tuple[int, int, int, int, int] | None = None
    while True:
        if position + 4 > len(data):
            raise DecodeError("truncated JPEG")
        if data[position] != 0xFF:
            raise DecodeError("corrupt JPEG: a segment is not where it should be")
        marker = data[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        (length,) = struct.unpack_from(">H", data, position + 2)
        body = position + 4
        position += 2 + length
        if length < 2 or marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD9:
            raise DecodeError("corrupt JPEG: a segment is not where it should be")
        if position > len(data):
            raise DecodeError("truncated JPEG")
        if (0xC0 <= marker <= 0xCF and marker not in _NOT_A_FRAME) or marker == 0xF7:
            if frame is not None or length < 8:
                raise DecodeError("corrupt JPEG: its frame header")
            precision, rows, columns, components = struct.unpack_from(">BHHB", data, body)
            process = marker if marker == 0xF7 else marker & 0x0F
            frame = (process, precision, rows, columns, components)
        elif marker == 0xDA:
            break
        elif marker == 0xEE and length >= 14 and data[body : body + 5] == b"Adobe" and data[body + 11] > 2:
            raise DecodeError("corrupt JPEG: unknown colour transform")
    if frame is None:
        raise DecodeError("corrupt JPEG: no frame header")
    # Entropy-coded data never holds FF D9, and zeros in place of a lost tail do not either.
    if data.rfind(b"\xff\xd9", position) < 0:
        raise DecodeError("truncated JPEG")
    return StreamHeader(*frame, position)


def jpeg2000_header(data: bytes) -> StreamHeader:
    """The SIZ segment of a JPEG 2000 or HTJ2K code stream (ISO/IEC 15444-1 A.5.1), bare or in a JP2 file.

    Raises `DecodeError` for another kind of stream or one without its end marker.
    """
    start = _code_stream(data)
    if data[start : start + 4] != b"\xff\x4f\xff\x51" or start + 43 > len(data):
        raise DecodeError("corrupt JPEG 2000: no image header")
    right, bottom, left, top, tile_w, tile_h, tile_x, tile_y, components, depth = struct.unpack_from(
        ">8IHB", data, start + 8
    )
    if right <= left or bottom <= top or not tile_w or not tile_h:
        raise DecodeError("corrupt JPEG 2000: void dimensions")
    if -(-(right - tile_x) // tile_w) * -(-(bottom - tile_y) // tile_h) > 65_535:
        raise DecodeError("corrupt JPEG 2000: too many tiles")
    if data.rfind(b"\xff\xd9") < start:
        raise DecodeError("truncated JPEG 2000")
    return StreamHeader(0, (depth & 0x7F) + 1, bottom - top, right - left, components)


def _code_stream(data: bytes) -> int:
    """Where the code stream begins: at 0, or in the jp2c box of a JP2 file (ISO/IEC 15444-1 annex I)."""
    start = 0
    if data.startswith(b"\x00\x00\x00\x0cjP  "):
        while data[start + 4 : start + 8] != b"jp2c":
            length = int.from_bytes(data[start : start + 4], "big")
            # pydicom walks these boxes too, and a length of 0 would keep it at one for ever.
            if length < 8 or start + length > len(data):
                raise DecodeError("corrupt JPEG 2000: its boxes")
            start += length
        start += 8
    return start


def check_frame(frame: bytes, syntax: UID, rows: int, columns: int, samples: int, bits_allocated: int) -> StreamHeader:
    """Refuse a compressed DICOM frame that is cut short or contradicts the DICOM header it lies in.

    frame: one frame in transfer syntax `syntax`, one of `JPEG` or `JPEG_2000`. Raises `DecodeError`.
    """
    if syntax in JPEG_2000:
        header = jpeg2000_header(frame)
    elif frame[:2] == b"\xff\xd8":
        header = jpeg_header(frame)
    else:
        raise DecodeError("corrupt DICOM: a frame is not the JPEG that its transfer syntax announces")
    if (header.rows, header.columns, header.components) != (rows, columns, samples):
        raise DecodeError(
            f"corrupt DICOM: header says {rows} × {columns} × {samples}, "
            f"its compressed frame {header.rows} × {header.columns} × {header.components}"
        )
    if not 2 <= header.precision <= bits_allocated:
        raise DecodeError(f"corrupt DICOM: {header.precision} bits a sample in {bits_allocated}-bit pixels")
    if syntax == JPEGBaseline8Bit and header.precision != 8:
        raise DecodeError(f"corrupt DICOM: {header.precision} bits a sample in JPEG baseline, which has 8")
    if syntax in JPEG and plugin_for(syntax, header.precision) == _PLUGIN:
        _check_scans(frame, header)
    return header


def _check_scans(frame: bytes, header: StreamHeader) -> None:
    """After the first scan only scans and tables may come: a second frame header would undo the check of the first."""
    pattern = _MARKER_LS if header.process == 0xF7 else _MARKER
    for match in pattern.finditer(frame, header.scan):
        marker = match[1][0]
        if marker == 0xD9:
            return
        if marker not in _BETWEEN_SCANS:
            raise DecodeError("corrupt JPEG: an unexpected marker among its data")
    raise DecodeError("truncated JPEG")


def register_decoders() -> None:
    """Add this module's plugin to pydicom's decoders, once a process. Idempotent, safe from several threads."""
    with _registering:
        for syntax in DECODER_DEPENDENCIES:
            decoder = get_decoder(syntax)
            if _PLUGIN not in decoder.available_plugins:
                decoder.add_plugin(_PLUGIN, (__name__, "decode_frame"))


def plugin_for(syntax: UID, precision: int) -> str:
    """Which of pydicom's decoding plugins reads this transfer syntax at this many bits ("" where it has just one)."""
    if syntax in (JPEGBaseline8Bit, JPEGExtended12Bit) and precision <= 8:
        return "pillow"
    return _PLUGIN if syntax in DECODER_DEPENDENCIES else ""


def is_available(syntax: str) -> bool:
    """pydicom asks this of a plugin."""
    return UID(syntax) in DECODER_DEPENDENCIES


def decode_frame(frame: bytes, runner: Any) -> bytes | bytearray:
    """pydicom calls this for each frame; `runner` is its `DecodeRunner`: what the header says, to be corrected here."""
    syntax = runner.transfer_syntax
    header = check_frame(frame, syntax, runner.rows, runner.columns, runner.samples_per_pixel, runner.bits_allocated)
    runner.set_option("bits_allocated", 8 if header.precision <= 8 else 16)
    if syntax not in JPEG_2000:
        return _decode_with_gdcm(frame, header, runner)
    if runner.photometric_interpretation in ("YBR_ICT", "YBR_RCT"):
        runner.set_option("photometric_interpretation", "RGB")  # OpenJPEG has undone the transform
    array = openjpeg.decode(BytesIO(frame))
    runner.set_option("planar_configuration", 0)
    return array.tobytes()


def _decode_with_gdcm(frame: bytes, header: StreamHeader, runner: Any) -> bytes:
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(frame)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())

    photometric = gdcm.PhotometricInterpretation.GetPIType(runner.photometric_interpretation)
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((header.columns, header.rows, 1))
    image.SetDataElement(element)
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(photometric))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(str(runner.transfer_syntax))))
    if header.components > 1:
        planar = 0 if header.process == 0xF7 else runner.planar_configuration
        image.SetPlanarConfiguration(planar)
        runner.set_option("planar_configuration", planar)
    # GDCM picks its decoder by the bits allocated; told 16, it tries and reports a failure before the 12-bit one.
    allocated = 12 if header.process == 1 and header.precision == 12 else runner.bits_allocated
    signed = runner.pixel_representation
    image.SetPixelFormat(gdcm.PixelFormat(header.components, allocated, header.precision, header.precision - 1, signed))
    buffer = image.GetBuffer()
    if buffer is None:
        raise ValueError("GDCM could not decode the frame")
    # The binding hands C's char* over as str, with undecodable bytes as surrogates.
    return buffer.encode("utf-8", "surrogateescape")
