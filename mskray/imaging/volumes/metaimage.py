"""MetaImage bytes (.mha) → a volume in DICOM's patient coordinates, which are MetaImage's own.

A MetaImage header can name other files for its pixels, and states sizes that a reader allocates. SimpleITK, which reads
files alone, is given one that was made here: a header of the few keys below with checked values, and pixels that were
decompressed within bounds.
"""

import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mskray.imaging.decoded import DecodeError, DecodeLimits, only_decode_errors
from mskray.imaging.volumes.volume import Volume, spacing_of

_HEADER_BYTES = 65_536
_NUMBERS = {
    "MET_CHAR": 1,
    "MET_UCHAR": 1,
    "MET_SHORT": 2,
    "MET_USHORT": 2,
    "MET_INT": 4,
    "MET_UINT": 4,
    "MET_LONG": 4,
    "MET_ULONG": 4,
    "MET_LONG_LONG": 8,
    "MET_ULONG_LONG": 8,
    "MET_FLOAT": 4,
    "MET_DOUBLE": 8,
}
"""Element types of grey levels → bytes; MetaIO's long has four."""
_SYNONYMS = {
    "Position": "Offset",
    "Origin": "Offset",
    "Orientation": "TransformMatrix",
    "Rotation": "TransformMatrix",
    "BinaryDataByteOrderMSB": "ElementByteOrderMSB",
}


@dataclass(frozen=True)
class _Header:
    """What is believed of a header, and how many bytes it took."""

    sizes: tuple[int, int, int]
    spacing: tuple[float, ...]
    offset: tuple[float, ...]
    matrix: tuple[float, ...]
    element: str
    big_endian: bool
    compressed: bool
    modality: str
    length: int
    has_spacing: bool

    @property
    def pixel_bytes(self) -> int:
        columns, rows, slices = self.sizes
        return columns * rows * slices * _NUMBERS[self.element]

    def lines(self) -> str:
        """A header that says this and no more, for pixels that follow uncompressed."""
        words = {
            "ObjectType": "Image",
            "NDims": "3",
            "BinaryData": "True",
            "BinaryDataByteOrderMSB": str(self.big_endian),
            "CompressedData": "False",
            "TransformMatrix": _joined(self.matrix),
            "Offset": _joined(self.offset),
            "ElementSpacing": _joined(self.spacing),
            "DimSize": _joined(self.sizes),
            "ElementType": self.element,
            "ElementDataFile": "LOCAL",
        }
        return "".join(f"{key} = {value}\n" for key, value in words.items())


def is_metaimage(data: bytes) -> bool:
    """Whether the bytes begin as MetaImage headers do: with one of the keys that come first."""
    key, equals, _ = data[:64].partition(b"=")
    return bool(equals) and key.strip() in (b"ObjectType", b"NDims", b"Comment", b"ObjectSubType")


def read_metaimage(data: bytes, limits: DecodeLimits = DecodeLimits()) -> Volume:
    """Read a MetaImage that holds its own pixels (.mha) from memory.

    Refused with a reason: pixels in another file (ElementDataFile other than LOCAL), anything but three dimensions,
    several channels, text pixels, what is beyond `limits`, truncated or corrupt bytes.

    Raises:
        DecodeError: and nothing else.
    """
    if len(data) > limits.max_bytes:
        raise DecodeError(f"{len(data)} bytes are more than the limit of {limits.max_bytes}")
    with only_decode_errors("MetaImage"):
        header = _parse(data)
        columns, rows, slices = header.sizes
        limits.check(rows, columns, slices)
        if header.pixel_bytes > limits.max_bytes:
            raise DecodeError(f"MetaImage of {header.pixel_bytes} bytes is more than the limit of {limits.max_bytes}")
        pixels, affine = _read(header, _pixel_data(data[header.length :], header))
        if not np.isfinite(pixels).all():
            raise DecodeError("MetaImage with values that are not finite")
        notes = () if header.has_spacing else ("no spacing stated: taken as 1 mm",)
        return Volume(pixels, spacing_of(affine), affine, modality=header.modality, notes=notes)


def _parse(data: bytes) -> _Header:
    """Read "Key = Value" lines up to ElementDataFile, which is the last, and check them."""
    values: dict[str, str] = {}
    position = 0
    while "ElementDataFile" not in values:
        end = data.find(b"\n", position, _HEADER_BYTES)
        if end < 0:
            raise DecodeError("truncated MetaImage, or not one: its header has no end")
        key, equals, value = data[position:end].decode("latin-1").partition("=")
        if not equals and key.strip():
            raise DecodeError("corrupt MetaImage: a line of its header is not of the form key = value")
        values[_SYNONYMS.get(key.strip(), key.strip())] = value.strip()
        position = end + 1
    if values["ElementDataFile"] not in ("LOCAL", "Local", "local"):
        raise DecodeError("MetaImage whose pixels are in another file: give an .mha that holds them (LOCAL)")
    if values.get("ObjectType", "Image") != "Image":
        raise DecodeError("MetaImage object that is not an image")
    if values.get("NDims") != "3":
        raise DecodeError("MetaImage that is not of 3 dimensions")
    if int(values.get("ElementNumberOfChannels", "1")) != 1 or values.get("ElementType") not in _NUMBERS:
        raise DecodeError("MetaImage whose elements are not single numbers: grey levels are needed")
    if not _is_true(values.get("BinaryData", "True")) or int(values.get("HeaderSize", "0")):
        raise DecodeError("MetaImage with text pixels or a second header is not read")
    columns, rows, slices = (round(size) for size in _split(values.get("DimSize", ""), 3, "DimSize"))
    # MetaIO's older name for the same: what an element measures, where spacing is not said.
    spacing = values.get("ElementSpacing") or values.get("ElementSize")
    return _Header(
        sizes=(columns, rows, slices),
        spacing=_split(spacing or "1 1 1", 3, "ElementSpacing"),
        offset=_split(values.get("Offset", "0 0 0"), 3, "Offset"),
        matrix=_split(values.get("TransformMatrix", "1 0 0 0 1 0 0 0 1"), 9, "TransformMatrix"),
        element=values["ElementType"],
        big_endian=_is_true(values.get("ElementByteOrderMSB", "False")),
        compressed=_is_true(values.get("CompressedData", "False")),
        modality={"MET_MOD_MR": "MR", "MET_MOD_CT": "CT"}.get(values.get("Modality", ""), ""),
        length=position,
        has_spacing=spacing is not None,
    )


def _pixel_data(data: bytes, header: _Header) -> bytes:
    """The pixels' bytes, decompressed to no more than the header says."""
    if header.compressed:
        # 32: the stream may be zlib's or gzip's.
        data = zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(data, header.pixel_bytes)
    if len(data) < header.pixel_bytes:
        raise DecodeError(f"truncated MetaImage: {len(data)} of {header.pixel_bytes} bytes of pixels")
    return data[: header.pixel_bytes]


def _read(header: _Header, pixels: bytes) -> tuple[np.ndarray, np.ndarray]:
    """(slices, rows, columns) float32 and the affine, as SimpleITK understands the checked header."""
    # It takes most of a second to import, which a command that reads no MetaImage should not pay.
    import SimpleITK

    with tempfile.TemporaryDirectory(prefix="mskray-") as folder:
        path = Path(folder) / "checked.mha"
        with path.open("wb") as file:
            file.write(header.lines().encode())
            file.write(pixels)
        image = SimpleITK.ReadImage(str(path), imageIO="MetaImageIO")
    affine = np.eye(4)
    # ITK's index is (column, row, slice), its world is LPS; a column of the direction is where an index grows.
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return SimpleITK.GetArrayFromImage(image).astype(np.float32), affine


def _split(text: str, count: int, key: str) -> tuple[float, ...]:
    values = tuple(float(word) for word in text.split())
    if len(values) != count or not np.isfinite(values).all():
        raise DecodeError(f"corrupt MetaImage: its {key} is not {count} numbers")
    return values


def _joined(values: tuple[float, ...]) -> str:
    return " ".join(repr(value) for value in values)


def _is_true(word: str) -> bool:
    return word[:1] in ("T", "t", "1", "Y", "y")
