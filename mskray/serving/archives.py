"""Files out of a zip, within limits that hold while it is unpacked: nothing touches a disk, names lead nowhere."""

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

_MAGIC = (b"PK\x03\x04", b"PK\x05\x06")
_ENTRY = b"PK\x01\x02"
_BESIDE = ("__MACOSX/",)
_NO_IMAGES = ("DICOMDIR", "THUMBS.DB", "DESKTOP.INI")
_PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Others are rare for images, and zipfile unpacks them by the piece, however much comes of one."""
_SLACK = 1000
"""Entries that are no files, and the odd image whose bytes look like one."""


class ArchiveError(Exception):
    """Why a zip cannot be unpacked. `too_many`, `too_large`: a limit of the server was met."""

    def __init__(self, reason: str, *, too_many: bool = False, too_large: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.too_many, self.too_large = reason, too_many, too_large


@dataclass(frozen=True)
class Member:
    """A file of a zip. `name` is as it stands there, folders and all: it may name a patient."""

    name: str
    data: bytes


def is_archive(data: bytes) -> bool:
    return data.startswith(_MAGIC)


def unpack(data: bytes, most_files: int, most_bytes: int) -> Iterator[Member]:
    """Yield the files of a zip in its order; what systems put beside images (`__MACOSX`, `DICOMDIR`) is left out.

    Args:
        most_bytes: of all files together, unpacked.
    Raises:
        ArchiveError: damaged, encrypted, packed in a way that is not known, empty, or beyond the limits.
    """
    # The list of files is read as a whole, however long it is: its length is looked at first.
    if data.count(_ENTRY) > most_files + _SLACK:
        raise ArchiveError(f"zip of more than {most_files} files", too_many=True)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            files = [each for each in archive.infolist() if _is_image(each.filename)]
            if not files:
                raise ArchiveError("zip without files")
            if len(files) > most_files:
                raise ArchiveError(f"zip of more than {most_files} files", too_many=True)
            left = most_bytes
            for each in files:
                if each.flag_bits & 1:
                    raise ArchiveError("encrypted zip")
                if each.compress_type not in _PACKED:
                    raise ArchiveError("zip packed in a way that is not known")
                with archive.open(each) as packed:
                    content = packed.read(left + 1)
                left -= len(content)
                if left < 0:
                    raise ArchiveError(f"zip of more than {most_bytes:,} bytes when unpacked", too_large=True)
                yield Member(each.filename, content)
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, RuntimeError, ValueError):
        raise ArchiveError("damaged zip") from None


def _is_image(name: str) -> bool:
    last = name.rpartition("/")[2]
    return bool(last) and not name.startswith(_BESIDE) and not last.startswith(".") and last.upper() not in _NO_IMAGES
