"""Fingerprints of more files than fit into memory, by path: a temporary SQLite table filled by one listing."""

import posixpath
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from mskray.cohorts.sources import fingerprint
from mskray.cohorts.spill import Spill
from mskray.errors import UserError
from mskray.storage import Location

_CACHE_KIB = 65536


class FileIndex:
    """Path → fingerprint."""

    def __init__(self, table: sqlite3.Connection) -> None:
        self._table = table

    def of(self, path: str) -> str | None:
        """The fingerprint of a file, None where there is none."""
        found = self._table.execute("SELECT mark FROM files WHERE path = ?", (path,)).fetchone()
        return None if found is None else str(found[0])


@contextmanager
def file_index(root: Location, wanted: Iterable[str]) -> Iterator[FileIndex]:
    """List the folder that all wanted paths share, once. Paths are relative to the root."""
    shared: str | None = None
    for path in wanted:
        folder = posixpath.dirname(path)
        shared = folder if shared is None else posixpath.commonpath([shared, folder])
    place, prefix = (root.join(shared), f"{shared}/") if shared else (root, "")
    spill = Spill()
    table = sqlite3.connect(spill.folder / "files.sqlite", isolation_level=None)
    try:
        for pragma in ("journal_mode = OFF", "synchronous = OFF", f"cache_size = -{_CACHE_KIB}"):
            table.execute(f"PRAGMA {pragma}")
        table.execute("CREATE TABLE files (path TEXT PRIMARY KEY, mark TEXT NOT NULL) WITHOUT ROWID")
        if shared is not None and place.is_dir():
            table.execute("BEGIN")
            marks = ((prefix + entry.path, fingerprint(entry)) for entry in place.walk() if _utf8(entry.path))
            table.executemany("INSERT OR REPLACE INTO files VALUES (?, ?)", marks)
            table.execute("COMMIT")
        yield FileIndex(table)
    except sqlite3.OperationalError as error:
        raise UserError(
            f"cannot list {place} into a temporary file in {spill.folder} ({error}): set TMPDIR to a folder with more "
            "room, or give the listing a column fingerprint"
        ) from None
    finally:
        table.close()
        spill.close()


def _utf8(path: str) -> bool:
    """Whether SQLite can hold it; other names are not listed, and no row of a Parquet file can name them."""
    return path.isascii() or path.encode("utf-8", "replace").decode() == path
