"""Arrays in files of NumPy's that a process killed half-way, a full disc or a stranger may have damaged.

A damaged file is one line that says which it is and what to do. Neither a file nor what it unpacks to is read beyond a
bound, and nothing in it is run: no pickles.
"""

import io
import tokenize
import zipfile
import zlib
from collections.abc import Mapping

import numpy as np

from mskray.errors import UserError
from mskray.storage import Location

# What NumPy and zipfile raise for bytes that are not what they should be; RuntimeError for an archive whose directory
# asks for a password or for a compression that nobody knows.
_DAMAGED = (
    ValueError,
    KeyError,
    EOFError,
    TypeError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
    tokenize.TokenError,
)


def packed(arrays: Mapping[str, np.ndarray]) -> memoryview:
    """Named arrays as the bytes of a .npz file, not compressed. Raises ValueError for arrays of objects."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getbuffer()


def packed_array(values: np.ndarray) -> memoryview:
    """One array as the bytes of a .npy file. Raises ValueError for an array of objects."""
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    return buffer.getbuffer()


def read_arrays(place: Location, most_bytes: int) -> dict[str, np.ndarray]:
    """Read a .npz file.

    Raises:
        UserError: it is damaged, or larger than `most_bytes`, as a file or unpacked.
    """
    data = place.read_bytes(max_bytes=most_bytes)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > most_bytes:
                raise ValueError(f"more than {most_bytes:,} bytes unpacked")
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            found = dict(arrays)
        if strange := [name for name, values in found.items() if not isinstance(values, np.ndarray)]:
            raise ValueError(f"{strange[0]} is no array")
        return found
    except _DAMAGED as error:
        raise damaged(place, error) from None


def read_array(place: Location, most_bytes: int) -> np.ndarray:
    """Read a .npy file. Raises UserError where it is damaged or larger than `most_bytes`."""
    data = place.read_bytes(max_bytes=most_bytes)
    try:
        return np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    except _DAMAGED as error:
        raise damaged(place, error) from None


def damaged(place: Location, reason: object) -> UserError:
    """What to raise for a file that holds something else than it should."""
    words = str(reason).strip().partition("\n")[0][:200]
    return UserError(f"{place} is damaged ({words}): delete it and run again")
