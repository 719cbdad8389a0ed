"""What decoding takes and gives: limits in, a display-ready picture or a reason out.

Apart from `decode.py`, so that the readers of each format can use these without importing their caller.
Users import them from `mskray.imaging.decode`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

#: The largest Rows or Columns that a DICOM header can state (an unsigned 16-bit number), kept for every format.
MAX_SIDE = 65_535

#: Pixels of several files together, where only each has a limit.
NO_LIMIT = 1 << 62


class DecodeError(Exception):
    """The bytes hold no picture that can be trusted. `reason` is one short clause for the quarantine table."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@contextmanager
def only_decode_errors(kind: str) -> Iterator[None]:
    """Whatever fails inside leaves as a `DecodeError`: the libraries that read a format raise what they like."""
    try:
        yield
    except DecodeError:
        raise
    except MemoryError:
        raise DecodeError(f"{kind}: not enough memory to decode it") from None
    except Exception as error:
        raise DecodeError(f"corrupt {kind} ({type(error).__name__})") from error


@dataclass(frozen=True)
class DecodeLimits:
    """What a single file may ask for. All are checked on the header, before any pixel is decoded.

    max_bytes: size of the file, and of the data set inside a deflated DICOM file, in bytes.
    max_pixels: rows × columns × frames. The default admits a 10,000 × 12,000 film or a 512 × 512 × 450 volume.
    max_frames: frames of a multi-frame DICOM, pages of a TIFF.
    """

    max_bytes: int = 512 * 1024 * 1024
    max_pixels: int = 120_000_000
    max_frames: int = 4_096

    def within(self, pixels: int) -> "DecodeLimits":
        """These limits, with no more than so many pixels."""
        return replace(self, max_pixels=min(self.max_pixels, pixels))

    def check(self, rows: int, columns: int, frames: int = 1) -> None:
        """Raise `DecodeError` where a header's dimensions are void or beyond the limits."""
        if rows < 1 or columns < 1 or frames < 1:
            raise DecodeError(f"void dimensions: {rows} rows × {columns} columns × {frames} frames")
        if rows > MAX_SIDE or columns > MAX_SIDE:
            raise DecodeError(f"{rows} rows × {columns} columns: a side is longer than {MAX_SIDE} pixels")
        if frames > self.max_frames:
            raise DecodeError(f"{frames} frames are more than the limit of {self.max_frames}")
        if rows * columns * frames > self.max_pixels:
            raise DecodeError(
                f"{rows} rows × {columns} columns × {frames} frames is more than the limit of {self.max_pixels} pixels"
            )


@dataclass(frozen=True)
class DecodedImage:
    """One decoded file, ready to be looked at: high values are bright, and bone is bright on a radiograph.

    pixels: (rows, columns), or (frames, rows, columns) when there are several frames; grey uint8 for sources of up to
        8 bits, else uint16, spanning the type's full range. Colour becomes luminance (ITU-R BT.601).
    format: "png", "jpeg", "tiff" or "dicom".
    bits: stored bits a sample of the source, 8 to 16.
    pixel_spacing_mm: (between rows, between columns) in mm; None where the file does not say. The resolution that PNG,
        JPEG and TIFF headers state is that of a printer, and is not read.
    metadata: what matters of a DICOM header and names nobody: modality, body_part, view_position, laterality,
        photometric, transfer_syntax, manufacturer and a few more; absent values are None.
    patient_id, study_id, series_id, instance_id: as the DICOM header has them, to be hashed
        (`mskray.imaging.deidentify`) and never stored; None for other formats.
    """

    pixels: np.ndarray
    format: str
    bits: int
    pixel_spacing_mm: tuple[float, float] | None
    metadata: dict[str, str | float | int | None]
    patient_id: str | None = None
    study_id: str | None = None
    series_id: str | None = None
    instance_id: str | None = None
