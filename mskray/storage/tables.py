"""Arrow tables as bytes, to be written whole or not at all (`Location.write_bytes`), and read in parts."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from mskray.errors import UserError
from mskray.storage.faults import retried
from mskray.storage.locations import Location

T = TypeVar("T")


def parquet_bytes(table: pa.Table) -> bytes:
    """Return the table as one Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue().to_pybytes()


def read_parquet(location: Location, read: Callable[[pq.ParquetFile], T], footer: pq.FileMetaData | None = None) -> T:
    """What `read` takes from a Parquet file, the whole of it again when the store fails in its midst.

    Args:
        footer: of the file, if it is known.
    Raises:
        UserError: no Parquet file, or unreadable after its retries.
    """

    def operation() -> T:
        with (
            location.filesystem.open_input_file(location.path) as stream,
            pq.ParquetFile(stream, metadata=footer) as file,
        ):
            return read(file)

    return _asked(location, operation)


def parquet_footer(location: Location) -> pq.FileMetaData:
    """What a Parquet file says of itself: rows, row groups, columns. Raises UserError."""
    return read_parquet(location, lambda file: file.metadata)


def row_groups(location: Location, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """The row groups of a Parquet file, one in memory at a time.

    A row group that a store cuts off, delays or damages on its way is read again, and no other.

    Args:
        columns: which to read; all by default.
    Raises:
        UserError: no Parquet file, unreadable after its retries, or replaced by another while it was read.
    """
    known = _mark(location)
    footer = parquet_footer(location)  # once: of a long file it is long, too
    for number in range(footer.num_row_groups):
        if _mark(location) != known:
            raise UserError(f"{location} changed while it was read: start again once it stays as it is")
        yield read_parquet(location, partial(_row_group, number, columns), footer)


def _mark(location: Location) -> tuple[int, int]:
    """What changes with a file: its size and date."""
    found = _asked(location, lambda: location.filesystem.get_file_info(location.path))
    return (0, 0) if found.size is None or found.mtime_ns is None else (found.size, found.mtime_ns)


def _row_group(number: int, columns: Sequence[str] | None, file: pq.ParquetFile) -> pa.Table:
    return file.read_row_group(number, columns=columns, use_threads=False)


def _asked(location: Location, operation: Callable[[], T]) -> T:
    """Do what asks the store, again where that may help. Raises UserError."""
    try:
        return retried(f"read {location}", operation)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{location} is not a readable Parquet file ({reason}): write it again") from None
    except OSError as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{location} cannot be read ({reason}): check the path and the store") from None
