"""What both stores share: the record of a listed file, and the refusal of one that is too large."""

from dataclasses import dataclass

from mskray.errors import UserError


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One listed file: `path` relative to the listed folder (with "/"), `size` in bytes, `mtime_ns` since 1970."""

    path: str
    size: int
    mtime_ns: int


def too_large(where: str, size: int, limit: int) -> UserError:
    return UserError(f"{where} has {size:,} bytes, more than the {limit:,} allowed here: give a smaller file")
