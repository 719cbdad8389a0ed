"""Grey levels: the maps between stored values, display values and 8 bits.

Used by the DICOM reader on look-up tables of at most 65,536 entries, and by whoever shows or normalises a picture.
"""

import cv2
import numpy as np

#: ITU-R BT.601 luma weights of red, green and blue; they sum to 1, so grey stays what it is.
_LUMA = np.array([0.299, 0.587, 0.114])

_TO_UINT8 = ((np.arange(65_536) + 128) // 257).astype(np.uint8)


def to_uint8(pixels: np.ndarray) -> np.ndarray:
    """Full-range uint16 → full-range uint8, rounded to nearest (65,535 → 255); uint8 is returned as it is.

    pixels: any shape. Raises `TypeError` for other types.
    """
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype != np.uint16:
        raise TypeError(f"uint8 or uint16 pixels expected, not {pixels.dtype}")
    return through_table(pixels, _TO_UINT8)


def to_dtype(pixels: np.ndarray, dtype: np.dtype | type | str) -> np.ndarray:
    """Full-range uint8 or uint16 → full-range uint8 or uint16 (255 ↔ 65,535); the same type is returned as it is.

    pixels: any shape. Raises `TypeError` for other types.
    """
    if np.dtype(dtype) == np.uint8:
        return to_uint8(pixels)
    if np.dtype(dtype) != np.uint16 or pixels.dtype not in (np.uint8, np.uint16):
        raise TypeError(f"uint8 or uint16 pixels expected, not {pixels.dtype} to {np.dtype(dtype)}")
    return pixels if pixels.dtype == np.uint16 else pixels.astype(np.uint16) * 257


def rescale_percentile(pixels: np.ndarray, low: float = 1.0, high: float = 99.0) -> np.ndarray:
    """Stretch grey levels so that the percentiles `low` and `high` become black and white; the rest is clipped.

    pixels: uint8 or uint16, any shape; the result has the same type and shape. Percentiles are taken over pixels
    above 0: black is collimation, padding or air, and its share of a picture says nothing about exposure.
    A picture of a single grey level is returned as it is. Raises `ValueError` unless 0 <= low < high <= 100.
    """
    if not 0 <= low < high <= 100:
        raise ValueError(f"percentiles must satisfy 0 <= low < high <= 100, not {low} and {high}")
    full = int(np.iinfo(pixels.dtype).max)
    exposed = pixels[pixels > 0]
    if exposed.size == 0:
        return pixels
    black, white = np.percentile(exposed, (low, high))
    if white <= black:
        return pixels
    levels = full_range((np.arange(full + 1) - black) / (white - black), pixels.dtype)
    return through_table(pixels, levels)


def through_table(pixels: np.ndarray, table: np.ndarray) -> np.ndarray:
    """`table[pixels]`, in an eighth of the time.

    pixels: uint8 or uint16, any shape. table: (256,) or (65536,), an entry for each of their values.
    """
    if not pixels.size or not pixels.ndim:
        return table[pixels]
    return cv2.LUT(pixels, table).reshape(pixels.shape)  # which drops a last axis of one


def full_range(levels: np.ndarray, dtype: np.dtype | type) -> np.ndarray:
    """Levels 0–1 (clipped to it) → an unsigned integer type's full range, rounded to nearest."""
    return np.rint(np.clip(levels, 0.0, 1.0) * np.iinfo(dtype).max).astype(dtype)


def luminance(rgb: np.ndarray) -> np.ndarray:
    """(…, 3) red, green, blue → (…) luminance as float64 (ITU-R BT.601)."""
    return rgb @ _LUMA


def window(values: np.ndarray, centre: float, width: float, function: str = "LINEAR") -> np.ndarray:
    """DICOM's VOI window: modality values → display levels 0–1.

    function: LINEAR (PS3.3 C.11.2.1.2.1), LINEAR_EXACT (C.11.2.1.3.2) or SIGMOID (C.11.2.1.3.1).
    Raises `ValueError` for a width that the standard forbids (< 1 for LINEAR, <= 0 otherwise) or an unknown function.
    """
    if not (np.isfinite(centre) and np.isfinite(width)) or width <= 0 or (function == "LINEAR" and width < 1):
        raise ValueError(f"window width {width} is not allowed for {function}")
    if function == "LINEAR":
        # Width 1 is a threshold at centre - 0.5: the slope stands for infinity.
        levels = (values - (centre - 0.5)) / max(width - 1, 1e-9) + 0.5
    elif function == "LINEAR_EXACT":
        levels = (values - centre) / width + 0.5
    elif function == "SIGMOID":
        levels = 1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -700, 700)))
    else:
        raise ValueError(f"unknown VOI LUT function {function}")
    return np.clip(levels, 0.0, 1.0)


def look_up(values: np.ndarray, first: int, entries: np.ndarray) -> np.ndarray:
    """DICOM's look-up table: `first` maps to entries[0], values beyond either end to the end (PS3.3 C.11.1.1)."""
    index = np.clip(np.rint(values) - first, 0, len(entries) - 1).astype(np.intp)
    return entries[index]
