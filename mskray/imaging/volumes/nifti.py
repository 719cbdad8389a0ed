"""NIfTI-1 and -2 bytes (.nii, .nii.gz) → a volume in DICOM's patient coordinates.

The header is read and judged first, from a few hundred decompressed bytes; then no more is decompressed than it says.
"""

import gzip
import zlib
from io import BytesIO
from typing import Any

import numpy as np

from mskray.imaging.decoded import DecodeError, DecodeLimits, only_decode_errors
from mskray.imaging.quiet import quiet
from mskray.imaging.volumes.volume import Volume, spacing_of

_GZIP = b"\x1f\x8b"
_HEADERS = 540
"""Bytes of a NIfTI-2 header, the longer of the two."""
_NIFTI_1, _NIFTI_2 = b"n+1\x00", b"n+2\x00\r\n\x1a\n"
_PAIRS = (b"ni1\x00", b"ni2\x00\r\n\x1a\n")
_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_MILLIMETRES = {"meter": 1000.0, "micron": 0.001}


def is_nifti(data: bytes) -> bool:
    """Whether the bytes begin with a NIfTI header (of a single file or of a .hdr), or are a gzip file that may."""
    return data.startswith(_GZIP) or _magic(data[:_HEADERS]) is not None


def read_nifti(data: bytes, limits: DecodeLimits = DecodeLimits()) -> Volume:
    """Read a NIfTI file held in memory; voxels (i, j, k) become (column, row, slice), values are scaled by its slope.

    Refused with a reason: a header without its image (.hdr), more than three dimensions, colour and complex voxels,
    what is beyond `limits`, truncated or corrupt bytes. Values that are not finite take the lowest that is.

    Raises:
        DecodeError: and nothing else.
    """
    if len(data) > limits.max_bytes:
        raise DecodeError(f"{len(data)} bytes are more than the limit of {limits.max_bytes}")
    # nibabel takes half a second to import, which a command that reads none should not pay.
    with quiet("nibabel"), only_decode_errors("NIfTI"):
        import nibabel

        start = _head(data, _HEADERS)
        magic = _magic(start)
        if magic in _PAIRS:
            raise DecodeError("a NIfTI header without its image: give one .nii or .nii.gz file")
        if magic is None:
            raise DecodeError("a gzip file that holds no NIfTI" if data.startswith(_GZIP) else "not NIfTI")
        kind: Any = nibabel.Nifti1Header if magic == _NIFTI_1 else nibabel.Nifti2Header
        # Without the extensions that may follow: they hold what a scanner or a program wrote of the patient.
        header = kind.from_fileobj(BytesIO(start[: kind.sizeof_hdr] + bytes(4)), check=False)
        columns, rows, slices = _shape(header)
        limits.check(rows, columns, slices)
        itemsize = _voxel_type(header).itemsize
        offset, size = int(header["vox_offset"]) or header.sizeof_hdr + 4, columns * rows * slices * itemsize
        if not header.sizeof_hdr <= offset <= limits.max_bytes or size > limits.max_bytes:
            raise DecodeError(f"NIfTI of {offset + size} bytes is more than the limit of {limits.max_bytes}")
        whole = _head(data, offset + size)
        if len(whole) < offset + size:
            raise DecodeError(f"truncated NIfTI: {len(whole)} of {offset + size} bytes")
        stored = np.frombuffer(whole, header.get_data_dtype(), columns * rows * slices, offset)
        pixels, notes = _values(header, stored.reshape(slices, rows, columns))
        affine, more = _affine(header)
        return Volume(pixels, spacing_of(affine), affine, notes=(*notes, *more))


def _head(data: bytes, size: int) -> bytes:
    """At most the first `size` bytes, decompressed: a bomb is never inflated beyond what is asked for."""
    if not data.startswith(_GZIP):
        return data[:size]
    try:
        return gzip.GzipFile(fileobj=BytesIO(data)).read(size)
    except EOFError:
        raise DecodeError("truncated gzip file") from None
    except (OSError, zlib.error):
        raise DecodeError("corrupt gzip file") from None


def _magic(start: bytes) -> bytes | None:
    """The magic string of a NIfTI-1 (at byte 344) or NIfTI-2 (at byte 4) header, None for anything else."""
    known = (_NIFTI_1, _NIFTI_2, *_PAIRS)
    return next((each for each in (start[344:348], start[4:12]) if each in known), None)


def _shape(header: Any) -> tuple[int, int, int]:
    """Columns, rows and slices."""
    dimensions = int(header["dim"][0])
    sizes = [int(size) for size in header["dim"][1 : dimensions + 1]]
    if not 3 <= dimensions <= 7:
        raise DecodeError(f"NIfTI of {dimensions} dimensions: a volume has 3")
    if any(size > 1 for size in sizes[3:]):
        text = " × ".join(str(size) for size in sizes)
        raise DecodeError(f"NIfTI of {dimensions} dimensions ({text}): give one volume a file")
    return sizes[0], sizes[1], sizes[2]


def _voxel_type(header: Any) -> np.dtype:
    dtype = np.dtype(header.get_data_dtype())
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise DecodeError("NIfTI whose voxels are colours, complex or longer than 64 bits: grey levels are needed")
    return dtype


def _values(header: Any, stored: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Scaled float32, contiguous, and a note on what was not finite."""
    slope, intercept = header.get_slope_inter()
    pixels = stored.astype(np.float32)
    if slope is not None:
        pixels = pixels * np.float32(slope) + np.float32(intercept or 0)
    finite = np.isfinite(pixels)
    if finite.all():
        return pixels, []
    if not finite.any():
        raise DecodeError("NIfTI without a finite value")
    pixels[~finite] = pixels[finite].min()
    return pixels, [f"{int((~finite).sum())} voxels without a finite value took the lowest"]


def _affine(header: Any) -> tuple[np.ndarray, list[str]]:
    """The header's affine (sform, else qform) in LPS millimetres, and a note where it states none."""
    notes = []
    if not int(header["sform_code"]) and not int(header["qform_code"]):
        notes.append("no orientation stated: axes taken as left, anterior, superior")
    scale = _MILLIMETRES.get(header.get_xyzt_units()[0], 1.0)
    return _RAS_TO_LPS @ np.diag([scale] * 3 + [1.0]) @ header.get_best_affine(), notes
