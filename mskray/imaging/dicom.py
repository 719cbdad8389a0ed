"""DICOM bytes to a display-ready picture, its spacing and what its header says about it.

This file reads and judges the header; `dicom_pixels` does the grey levels and `codecs` the compressed streams.
An explicit element is trusted over a guess, and what would need a guess is refused with its reason.
"""

import math
import re
import zlib
from io import BytesIO
from typing import Any

from pydicom import Dataset, dcmread
from pydicom.filereader import read_dataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
    ParametricMapStorage,
    RTDoseStorage,
    SegmentationStorage,
)

from mskray.imaging import dicom_pixels
from mskray.imaging.codecs import COMPRESSED
from mskray.imaging.decoded import DecodedImage, DecodeError, DecodeLimits
from mskray.imaging.quiet import quiet

_UNCOMPRESSED = frozenset(
    {ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian}
)

#: Objects that carry pixel data which is not a picture of a patient.
_NOT_PICTURES: dict[str, str] = {
    MediaStorageDirectoryStorage: "a DICOMDIR, not an image",
    SegmentationStorage: "DICOM SEG is a mask, not an image",
    "1.2.840.10008.5.1.4.1.1.66.7": "DICOM SEG is a mask, not an image",  # label map, of 2024
    ParametricMapStorage: "DICOM parametric map, not an image",
    RTDoseStorage: "DICOM RTDOSE is a dose grid, not an image",
}

#: Group 0002 or 0008 as the first element, little or big endian: a data set that lost its 128-byte preamble.
_BARE_STARTS = (b"\x02\x00", b"\x08\x00", b"\x00\x02\x00", b"\x00\x08\x00")

_CODE = re.compile(r"[A-Z0-9][A-Z0-9 _-]{0,15}")
_WORD = re.compile(r"[A-Z]+[0-9]{0,2}")
#: What body parts and views of several words are made of; any other word beside one of these may be a name.
_ANATOMY = """
UPPER LOWER LEFT RIGHT L R LT RT BOTH BILATERAL UNILATERAL WHOLE FULL AND TO BODY HEAD SKULL FACE JAW NECK CHEST
THORAX RIB RIBS ABDOMEN PELVIS SACRUM COCCYX STERNUM CLAVICLE SCAPULA C T L S CERVICAL THORACIC LUMBAR SACRAL
LUMBOSACRAL THORACOLUMBAR SPINE EXTREMITY EXTREMITIES EXM LIMB ARM SHOULDER HUMERUS ELBOW FOREARM RADIUS ULNA WRIST
SCAPHOID HAND FINGER FINGERS THUMB LEG LEGS HIP HIPS FEMUR THIGH KNEE KNEES PATELLA TIBIA FIBULA CALF ANKLE FOOT
FEET CALCANEUS HEEL TOE TOES AC SC SI JOINT JOINTS BONE BONES LONG LOW UP AP PA LL RL LAT LATERAL MEDIAL
MEDIOLATERAL LATEROMEDIAL OBL OBLIQUE AXIAL TANGENTIAL INTERNAL EXTERNAL ROTATION FLEXION EXTENSION STANDING SUPINE
PRONE ERECT WEIGHT BEARING STRESS FROG Y VIEW SUNRISE SKYLINE MORTISE TUNNEL
"""
_ANATOMY_WORDS = frozenset(_ANATOMY.split())
_SPACINGS = (
    ("PixelSpacing", "patient"),
    ("ImagerPixelSpacing", "detector"),
    ("NominalScannedPixelSpacing", "film"),
)


def is_dicom(data: bytes) -> bool:
    """Whether the bytes are a DICOM file: by its signature, or by a first element without preamble."""
    if data[128:132] == b"DICM" or data[:4] == b"DICM":
        return True
    # Tag, then a two-letter value representation or an implicit 4-byte length that is small.
    return data.startswith(_BARE_STARTS) and len(data) > 16 and (data[4:6].isalpha() or data[6:8] == b"\x00\x00")


def read_dicom(data: bytes, limits: DecodeLimits) -> DecodedImage:
    """Decode a DICOM file that holds a picture of one or more frames.

    Supported: implicit, explicit (either endian) and deflated; JPEG baseline, extended, lossless; JPEG-LS; JPEG 2000;
    HTJ2K; RLE. MONOCHROME1/2, PALETTE COLOR, RGB, YBR; 8–16 stored bits in 8 or 16, signed too.
    Refused: 1-bit, 32-bit and float pixel data; objects without pictures (SR, PR, RT, SEG, DICOMDIR…); video.
    """
    with quiet("pydicom", "openjpeg"):
        header, syntax, shape = open_picture(data, limits)
        pixels, bits, voi = dicom_pixels.read_pixels(header, syntax, shape)
        spacing, measured_at = _pixel_spacing(header)
        metadata = _metadata(header, syntax) | {"voi": voi, "spacing_at": measured_at}
        return DecodedImage(
            pixels,
            "dicom",
            bits,
            spacing,
            metadata,
            _text(header, "PatientID"),
            _text(header, "StudyInstanceUID"),
            _text(header, "SeriesInstanceUID"),
            _text(header, "SOPInstanceUID"),
        )


def open_picture(data: bytes, limits: DecodeLimits) -> tuple[Dataset, UID, dicom_pixels.Shape]:
    """Parse a DICOM file and check that it holds a picture that can be decoded: (header, transfer syntax, shape)."""
    if data[:4] == b"DICM":
        data = bytes(128) + data
    _check_deflated(data, limits)
    header = dcmread(BytesIO(data), force=True)
    syntax = _transfer_syntax(header)
    _check_picture(header)
    shape = _checked_shape(header, limits)
    if syntax not in _UNCOMPRESSED and syntax not in COMPRESSED:
        raise DecodeError(f"DICOM transfer syntax {_known_name(syntax) or '(private)'} is not supported")
    return header, syntax, shape


def may_be_deflated(data: bytes) -> bool:
    """Whether a DICOM file's beginning names the deflated transfer syntax."""
    return DeflatedExplicitVRLittleEndian.encode() in data[:2048]


def _check_deflated(data: bytes, limits: DecodeLimits) -> None:
    """A deflated data set inflates while it is read, up to a thousandfold: measure it first."""
    if not may_be_deflated(data):
        return
    stream = BytesIO(data)
    stream.seek(132 if data[128:132] == b"DICM" else 0)
    read_dataset(stream, False, True, stop_when=lambda tag, vr, length: tag.group != 2)
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    inflater.decompress(data[stream.tell() :], limits.max_bytes)
    if inflater.unconsumed_tail:
        raise DecodeError(f"deflated DICOM of more than the limit of {limits.max_bytes} bytes")
    if not inflater.eof:
        raise DecodeError("truncated DICOM: its deflated data set has no end")


def _transfer_syntax(header: Any) -> UID:
    """The transfer syntax, from the file meta or, where that is lost, from how the data set was found to be encoded."""
    syntax = header.file_meta.get("TransferSyntaxUID")
    if syntax:
        return UID(syntax)
    implicit, little = header.original_encoding
    guess = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    if "PixelData" in header and header["PixelData"].is_undefined_length:
        raise DecodeError("DICOM with compressed pixel data but no transfer syntax")
    header.file_meta.TransferSyntaxUID = guess
    return guess


def _check_picture(header: Dataset) -> None:
    """Refuse what holds no picture, by what it is."""
    kind = str(header.get("SOPClassUID", "") or header.file_meta.get("MediaStorageSOPClassUID", ""))
    if kind in _NOT_PICTURES or "DirectoryRecordSequence" in header:
        raise DecodeError(_NOT_PICTURES.get(kind, _NOT_PICTURES[MediaStorageDirectoryStorage]))
    if "FloatPixelData" in header or "DoubleFloatPixelData" in header:
        raise DecodeError("DICOM with floating-point pixels: 8 to 16-bit integers are needed")
    if "PixelData" in header:
        return
    known = (_known_name(kind) or "").removesuffix(" Storage")
    if "Rows" in header or " Image" in known:
        raise DecodeError("DICOM image without pixel data: its header alone, or truncated")
    name = term(header, "Modality") or known
    raise DecodeError(f"DICOM {name} holds no image" if name else "DICOM without an image, or truncated")


def _checked_shape(header: Dataset, limits: DecodeLimits) -> dicom_pixels.Shape:
    """Dimensions and depth from the header, all within `limits` and of the kinds that are read."""
    shape = dicom_pixels.Shape(
        frames=_whole(header, "NumberOfFrames", 1) or 1,  # 0 is a common slip for a single frame
        rows=_whole(header, "Rows"),
        columns=_whole(header, "Columns"),
        samples=_whole(header, "SamplesPerPixel", 1),
        bits_allocated=_whole(header, "BitsAllocated"),
        bits_stored=_whole(header, "BitsStored", _whole(header, "BitsAllocated")),
    )
    limits.check(shape.rows, shape.columns, shape.frames)
    if shape.bits_allocated not in (8, 16) or not 8 <= shape.bits_stored <= shape.bits_allocated:
        raise DecodeError(
            f"DICOM of {shape.bits_stored} bits in {shape.bits_allocated}: 8 to 16 bits in 8 or 16 are needed"
        )
    if _whole(header, "HighBit", shape.bits_stored - 1) != shape.bits_stored - 1:
        raise DecodeError("DICOM whose high bit is not the last of its stored bits")
    return shape


def _whole(header: Dataset, keyword: str, default: int | None = None) -> int:
    value = header.get(keyword)
    if value is None or value == "":
        if default is None:
            raise DecodeError(f"DICOM image without {keyword}")
        return default
    try:
        return int(value)
    except (TypeError, ValueError):
        raise DecodeError(f"DICOM whose {keyword} is not a number") from None


def _metadata(header: Dataset, syntax: UID) -> dict[str, str | float | int | None]:
    """What matters and names nobody. Free text (descriptions, comments) is left behind: people write names there."""
    laterality = _code(header, "ImageLaterality") or _code(header, "Laterality")
    return {
        "modality": term(header, "Modality"),
        "body_part": term(header, "BodyPartExamined"),
        "view_position": term(header, "ViewPosition"),
        "laterality": laterality if laterality in ("L", "R") else None,
        "photometric": _code(header, "PhotometricInterpretation"),
        "transfer_syntax": syntax.name,
        "sop_class": _known_name(str(header.get("SOPClassUID", ""))),
        "manufacturer": _text(header, "Manufacturer"),
        "presentation_intent": _code(header, "PresentationIntentType"),
        "burned_in_annotation": _code(header, "BurnedInAnnotation"),
        "instance_number": int(number) if (number := decimal(header, "InstanceNumber")) is not None else None,
        "slice_thickness_mm": decimal(header, "SliceThickness"),
    }


def burned_in(header: Dataset) -> bool:
    """Whether the header says that text, perhaps a name, is drawn into the picture."""
    return _code(header, "BurnedInAnnotation") == "YES"


def _known_name(uid: str) -> str | None:
    """The name of a UID of the standard; a UID that is not in it may be any text and is not repeated."""
    name = UID(uid).name
    return name if name != uid else None


def _text(header: Dataset, keyword: str) -> str | None:
    """A header element as text, None where it is absent, blank or unreadable."""
    try:
        text = str(header.get(keyword) or "").replace("\x00", "").strip()
    except Exception:  # pydicom decodes values only now, and a broken one says nothing about the pixels
        return None
    return text or None


def _code(header: Dataset, keyword: str) -> str | None:
    """A coded string (upper case, 16 characters at most); None for anything else, which may be free text."""
    text = (_text(header, keyword) or "").upper()
    return text if _CODE.fullmatch(text) else None


def term(header: Dataset, keyword: str) -> str | None:
    """A body part, view or modality: a code of one word, or of several that are all anatomy; None for anything else."""
    text = _code(header, keyword)
    words = re.split(r"[ _-]+", text or "")
    alone = len(words) == 1 and _WORD.fullmatch(words[0])
    return text if alone or _ANATOMY_WORDS.issuperset(words) else None


def decimal(header: Dataset, keyword: str) -> float | None:
    """A header element as a finite number, None where it is absent, blank, several or no number."""
    try:
        number = float(_text(header, keyword) or "")
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _pixel_spacing(header: Dataset) -> tuple[tuple[float, float] | None, str | None]:
    """((between rows, between columns) in mm, where it is measured: patient, detector or film), or None, None."""
    source = dicom_pixels.functional_group(header, 0, "PixelMeasuresSequence")
    for keyword, measured_at in _SPACINGS:
        try:
            rows, columns = (float(value) for value in source.get(keyword) or header.get(keyword) or ())
        except (TypeError, ValueError):
            continue
        if 0 < rows < math.inf and 0 < columns < math.inf:
            return (rows, columns), measured_at
    return None, None
