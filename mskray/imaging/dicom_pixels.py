"""DICOM pixel data to display levels: PS3.3's grey-scale pipeline (C.7.6.3, C.11.1, C.11.2) as table look-ups.

Every step from stored value to display level (modality LUT or rescale, VOI LUT or window, inversion) acts on single
values of at most 16 bits. So the pipeline runs once over the values that its bits allow, and pixels are looked up in
its result: a 12-megapixel film costs one look-up instead of five passes in float64.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from pydicom import Dataset
from pydicom.encaps import generate_frames
from pydicom.multival import MultiValue
from pydicom.pixels import apply_color_lut, get_decoder
from pydicom.uid import UID, RLELossless

from mskray.imaging import codecs
from mskray.imaging.decoded import DecodeError
from mskray.imaging.intensity import full_range, look_up, luminance, through_table, window

_RESCALE = (("RescaleSlope", 1.0), ("RescaleIntercept", 0.0))


@dataclass(frozen=True)
class Shape:
    """What the header says of the pixel data."""

    frames: int
    rows: int
    columns: int
    samples: int
    bits_allocated: int
    bits_stored: int


def read_pixels(header: Dataset, syntax: UID, shape: Shape) -> tuple[np.ndarray, int, str]:
    """(display-ready pixels, stored bits, "lut", "window" or "none": which VOI transform made them).

    pixels: (rows, columns), or (frames, rows, columns) for several frames; full-range uint8 up to 8 bits, else uint16.
    """
    stored, photometric = _stored(header, syntax, shape)
    dtype = np.uint8 if shape.bits_stored <= 8 else np.uint16
    voi = "none"
    if stored.ndim == 4:
        if photometric != "RGB":
            raise DecodeError(f"DICOM photometric interpretation {photometric} is not supported")
        pixels = _grey_of_rgb(stored, shape.bits_stored, dtype)
    elif photometric == "PALETTE COLOR":
        pixels = through_table(stored.view(_unsigned(stored)), _palette_levels(header, stored.dtype, dtype))
    elif photometric in ("MONOCHROME1", "MONOCHROME2"):
        pixels, voi = _monochrome(header, stored, photometric == "MONOCHROME1", dtype, shape.bits_stored)
    else:
        raise DecodeError(f"DICOM photometric interpretation {photometric or '(none)'} is not supported")
    return pixels[0] if shape.frames == 1 else pixels, shape.bits_stored, voi


def read_values(header: Dataset, syntax: UID, shape: Shape) -> np.ndarray:
    """(frames, rows, columns) float32: what the scanner measured, after the modality LUT or rescaling, unwindowed.

    Slices of a volume stay comparable that way: windows may differ from slice to slice. High is bright; padding takes
    the lowest value of its frame.
    """
    stored, photometric = _stored(header, syntax, shape)
    if stored.ndim == 4 or photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise DecodeError(f"DICOM photometric interpretation {photometric or '(none)'}: a slice has grey levels")
    every = _every_value(stored.dtype)
    transforms, padding = _Transforms(header, every), _padding(header, every)
    half = 1 << (shape.bits_stored - 1)
    bottom, top = (-half, half - 1) if stored.dtype.kind == "i" else (0, 2 * half - 1)
    pixels: np.ndarray = np.empty(stored.shape, np.float32)
    for frame, raw in enumerate(stored.view(_unsigned(stored))):
        values = transforms.modality(frame)
        if photometric == "MONOCHROME1":  # as if the stored values had been counted from the other end
            values = values[bottom] + values[top] - values
        pixels[frame] = through_table(raw, values.astype(np.float32))
        outside = padding[raw] if padding.any() else padding
        if outside.any() and not outside.all():
            pixels[frame][outside] = pixels[frame][~outside].min()
    if not np.isfinite(pixels).all():
        raise DecodeError("DICOM whose rescaled values are not finite")
    return pixels


def functional_group(header: Dataset, frame: int, sequence: str) -> Dataset:
    """The item that describes `frame` in an enhanced multi-frame object (PS3.3 C.7.6.16), else the header itself."""
    for groups, index in (("PerFrameFunctionalGroupsSequence", frame), ("SharedFunctionalGroupsSequence", 0)):
        items = header.get(groups)
        if items and index < len(items) and (macro := items[index].get(sequence)):
            return macro[0]
    return header


def _stored(header: Dataset, syntax: UID, shape: Shape) -> tuple[np.ndarray, str]:
    """(frames, rows, columns[, 3]) of native endian, YBR turned to RGB, and the photometric interpretation."""
    plugin = ""
    if syntax.is_encapsulated:
        plugin = _check_frames(header, syntax, shape)
    else:
        _check_length(header, shape)
    codecs.register_decoders()
    try:
        array, properties = get_decoder(syntax).as_array(
            header,
            raw=False,
            decoding_plugin=plugin,
            allow_excess_frames=False,  # type: ignore[arg-type]  # pydicom's annotation of its options is wrong
        )
    except RuntimeError as error:  # what pydicom raises when its plugins have all failed
        raise DecodeError(f"corrupt DICOM: {syntax.name} pixel data could not be decoded") from error
    array = array.reshape(shape.frames, shape.rows, shape.columns, *([3] if shape.samples == 3 else []))
    photometric = "".join(filter(str.isprintable, str(properties["photometric_interpretation"])))[:16]
    return array.astype(array.dtype.newbyteorder("="), copy=False), photometric


def _check_length(header: Dataset, shape: Shape) -> None:
    samples = 2 if header.get("PhotometricInterpretation") == "YBR_FULL_422" else shape.samples
    pixels = shape.frames * shape.rows * shape.columns
    expected, actual = pixels * samples * shape.bits_allocated // 8, len(header.PixelData)
    if actual < expected:
        raise DecodeError(f"truncated DICOM: {actual} of {expected} bytes of pixel data")


def _check_frames(header: Dataset, syntax: UID, shape: Shape) -> str:
    """Check every compressed frame before a decoder sees it; returns the decoding plugin to use."""
    offsets = None
    if header.get("ExtendedOffsetTable") and header.get("ExtendedOffsetTableLengths"):
        offsets = (header.ExtendedOffsetTable, header.ExtendedOffsetTableLengths)
    plugin, count = "", 0
    try:
        for frame in generate_frames(header.PixelData, number_of_frames=shape.frames, extended_offsets=offsets):
            count += 1
            if count <= shape.frames and syntax != RLELossless:
                stream = codecs.check_frame(
                    frame, syntax, shape.rows, shape.columns, shape.samples, shape.bits_allocated
                )
                plugin = codecs.plugin_for(syntax, stream.precision)
    except ValueError as error:
        raise DecodeError("truncated or corrupt DICOM: its compressed frames do not add up") from error
    if count < shape.frames:
        raise DecodeError(f"truncated DICOM: {count} of {shape.frames} frames")
    return plugin


def _unsigned(array: np.ndarray) -> np.dtype:
    return np.dtype(f"u{array.dtype.itemsize}")


def _every_value(dtype: np.dtype) -> np.ndarray:
    """All values of an 8 or 16-bit type, at the index that their bits make as an unsigned number."""
    return np.arange(1 << (8 * dtype.itemsize), dtype=f"u{dtype.itemsize}").view(dtype)


def _grey_of_rgb(stored: np.ndarray, bits: int, dtype: type) -> np.ndarray:
    grey = np.stack([cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY) for frame in stored])
    if bits == 8 * grey.dtype.itemsize:
        return grey
    return through_table(grey, full_range(np.arange(1 << (8 * grey.dtype.itemsize)) / ((1 << bits) - 1), dtype))


def _palette_levels(header: Dataset, stored: np.dtype, dtype: type) -> np.ndarray:
    """The luminance of every palette index, as display levels."""
    values = _every_value(stored)
    if "RedPaletteColorLookupTableDescriptor" not in header:
        raise DecodeError("DICOM PALETTE COLOR without a palette")
    if "SegmentedRedPaletteColorLookupTableData" in header:
        rgb = apply_color_lut(values, header)
        return full_range(luminance(rgb[..., :3].astype(np.float64)) / np.iinfo(rgb.dtype).max, dtype)
    channels = []
    for colour in ("Red", "Green", "Blue"):
        first, entries, depth = _table(header, header, f"{colour}PaletteColorLookupTable")
        channels.append(look_up(values.astype(np.float64), first, entries) / ((1 << depth) - 1))
    return full_range(luminance(np.stack(channels, axis=-1)), dtype)


def _table(header: Dataset, item: Dataset, prefix: str = "LUT") -> tuple[int, np.ndarray, int]:
    """(first value mapped, entries, bits an entry) of a DICOM look-up table (PS3.3 C.11.1.1), in either byte order."""
    count, first, depth = (int(value) for value in item[f"{prefix}Descriptor"].value)
    count = count or 65_536
    data = item[f"{prefix}Data"].value
    if isinstance(data, bytes):
        # 16-bit words in the file's byte order; 8-bit entries lie two to a word, the first in its low byte.
        little = header.file_meta.TransferSyntaxUID.is_little_endian
        words = np.frombuffer(data, "<u2" if little else ">u2", len(data) // 2).astype("<u2")
        entries = (words if len(words) >= count else words.view(np.uint8))[:count]
    else:
        entries = np.asarray(data if isinstance(data, Sequence) else [data], dtype=np.int64)[:count]
    if entries.size == 0 or not 1 <= depth <= 16:
        raise ValueError(f"{prefix}: {entries.size} entries of {depth} bits")
    # Tables of 8-bit entries may be stored in 16 bits with the level in the high byte (as some palettes are).
    if depth == 8 and entries.max() > 255:
        depth = 16
    return first, entries.astype(np.float64), depth


def _monochrome(header: Dataset, stored: np.ndarray, inverted: bool, dtype: type, bits: int) -> tuple[np.ndarray, str]:
    """Stored values → display levels, frame by frame where frames have their own transforms; and the VOI's name."""
    raw = stored.view(_unsigned(stored))
    every = _every_value(stored.dtype)
    # Negative ones have the highest bits. Pixels may hold more than the header says.
    possible = len(every) if stored.dtype.kind == "i" else max(1 << bits, int(raw.max()) + 1)
    transforms = _Transforms(header, every[:possible])
    padding = _padding(header, every[:possible])
    table: np.ndarray = np.zeros(len(every), dtype)
    pixels: np.ndarray = np.empty(raw.shape, dtype)
    extent: tuple[float, float] | None = None
    for frame, frame_raw in enumerate(raw):
        values = transforms.modality(frame)
        levels, voi = transforms.voi(frame, values)
        if levels is None:
            # Of the whole volume, so that its frames stay comparable.
            extent = extent or _extent(raw, transforms, ~padding)
            levels = (values - extent[0]) / max(extent[1] - extent[0], 1e-9)
        table[:possible] = full_range(1 - levels if inverted else levels, dtype)
        # After the inversion: padding is no part of the patient and stays black whatever the interpretation.
        table[:possible][padding] = 0
        pixels[frame] = through_table(frame_raw, table)
    return pixels, voi


def _extent(raw: np.ndarray, transforms: "_Transforms", counted: np.ndarray) -> tuple[float, float]:
    """The smallest and largest modality value that occurs in any frame among those `counted`."""
    lows, highs = [], []
    for frame, frame_raw in enumerate(raw):
        count = cv2.calcHist([frame_raw], [0], None, counted.shape, [0, len(counted)]).ravel()
        values = transforms.modality(frame)[(count > 0) & counted]
        if values.size:
            lows.append(float(values.min()))
            highs.append(float(values.max()))
    return (min(lows), max(highs)) if lows else (0.0, 0.0)


def _padding(header: Dataset, values: np.ndarray) -> np.ndarray:
    """Which stored values mark pixels outside the picture (PS3.3 C.7.5.1.1.2)."""
    limits = [header.get(keyword) for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    bounds = [int(limit) for limit in limits if isinstance(limit, int | float)]
    if not bounds:
        return np.zeros(values.shape, bool)
    # A signed value is often written as unsigned: its bits are what counts.
    signed = np.array(bounds, np.int64).astype(values.dtype)
    return (values >= signed.min()) & (values <= signed.max())


class _Transforms:
    """The modality and VOI transforms of each frame, over the stored values that there may be."""

    def __init__(self, header: Dataset, values: np.ndarray) -> None:
        self._header = header
        self._stored = values.astype(np.float64)
        self._modality: tuple[Dataset, np.ndarray] | None = None

    def modality(self, frame: int) -> np.ndarray:
        """Values after the modality LUT or the rescale slope and intercept (PS3.3 C.11.1)."""
        source = functional_group(self._header, frame, "PixelValueTransformationSequence")
        if self._modality is None or self._modality[0] is not source:
            self._modality = (source, self._rescaled(source))
        return self._modality[1]

    def _rescaled(self, source: Dataset) -> np.ndarray:
        if tables := source.get("ModalityLUTSequence"):
            first, entries, _ = _table(self._header, tables[0])
            return look_up(self._stored, first, entries)
        slope, intercept = (_first(source.get(key), other) for key, other in _RESCALE)
        if not np.isfinite(slope) or not np.isfinite(intercept) or slope == 0:
            raise DecodeError(f"DICOM with rescale slope {slope} and intercept {intercept}")
        return self._stored * slope + intercept

    def voi(self, frame: int, values: np.ndarray) -> tuple[np.ndarray | None, str]:
        """(levels 0–1, "lut" or "window") by the first view that the header offers, or (None, "none").

        A table or window that makes no sense counts as absent: it says how to show the pixels, not what they are.
        """
        source = functional_group(self._header, frame, "FrameVOILUTSequence")
        if tables := source.get("VOILUTSequence"):
            with suppress(KeyError, ValueError, TypeError):
                first, entries, depth = _table(self._header, tables[0])
                if values.max() < first:  # a negative first value, read as unsigned
                    first -= 65_536
                return look_up(values, first, entries) / ((1 << depth) - 1), "lut"
        with suppress(KeyError, ValueError, TypeError):
            centre, width = _first(source.get("WindowCenter")), _first(source.get("WindowWidth"))
            return window(values, centre, width, str(source.get("VOILUTFunction") or "LINEAR")), "window"
        return None, "none"


def _first(value: Any, default: float = np.nan) -> float:
    """A decimal string's value, or the first of several; `default` where it is absent."""
    if isinstance(value, MultiValue):
        value = value[0] if len(value) else None
    return default if value is None or value == "" else float(value)
