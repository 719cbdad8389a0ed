"""Temporary files of a planning: what grows with the number of images lies on disk, a part at a time in memory.

A small listing never touches the disk. A large one is written, while it is listed, into `PARTS` parts by the leading
bits of a hash, so that everything about one patient, study or instance is in one part and the parts of studies come in
the order in which shards hold them. Files lie in a private folder below TMPDIR and go with the plan.
"""

import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mskray.errors import UserError
from mskray.scratch import make_scratch

PARTS = 256
# Rows held in memory before they are written: some 60 MB, of a part some 1,000 rows at a time.
HELD_ROWS = 1 << 18
_LENGTH = 8
_COMPRESSED = pa.ipc.IpcWriteOptions(compression="zstd")


class Spill:
    """A private folder, made when it is first needed; `bytes` is how much was written, `peak` the most at once."""

    def __init__(self) -> None:
        self.bytes = 0
        self.peak = 0
        self._present = 0
        self._folder: Path | None = None
        self._finalizer: Any = None

    @property
    def folder(self) -> Path:
        """The folder. Raises UserError where it cannot be made."""
        if self._folder is None:
            with self.writing():
                self._folder, remove = make_scratch("plan")
            self._finalizer = weakref.finalize(self, remove)
        return self._folder

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Turn a full or forbidden disk into one line."""
        try:
            yield
        except OSError as error:
            where = self._folder or tempfile.gettempdir()
            raise UserError(
                f"cannot write temporary files in {where} ({error.strerror or error}): planning keeps some 100 to 250 "
                "bytes an image there; set TMPDIR to a folder with more room"
            ) from None

    def append(self, name: str, data: Any) -> int:
        """Add bytes to a file; returns where they begin."""
        with self.writing(), open(self.folder / name, "ab") as file:
            start = file.tell()
            file.write(data)
            written = file.tell() - start
        self.bytes += written
        self._present += written
        self.peak = max(self.peak, self._present)
        return start

    def delete(self, name: str) -> None:
        """Delete one file, if it is there."""
        path = self.folder / name
        if path.exists():
            self._present -= path.stat().st_size
            path.unlink()

    def close(self) -> None:
        """Delete everything."""
        if self._finalizer is not None:
            self._finalizer()


class Records:
    """Records of fixed width with a field `key` (uint64), read back by the leading bits of the key."""

    def __init__(self, spill: Spill, name: str, dtype: np.dtype, held: int = HELD_ROWS) -> None:
        self._spill, self._name, self._dtype, self._most = spill, name, dtype, held
        self._held: list[np.ndarray] = []
        self._rows = 0
        self._spilled = False

    def append(self, records: np.ndarray) -> None:
        """Add records, which must not change any more."""
        self._held.append(records)
        self._rows += len(records)
        if self._rows > self._most:
            self._flush()

    def parts(self) -> Iterator[np.ndarray]:
        """All records; those of a key are in one part, in the order in which they were appended."""
        if not self._spilled:
            yield self._together()
            return
        for number in range(PARTS):
            if len(part := self.part(number)):
                yield part

    def part(self, number: int) -> np.ndarray:
        """Part 0 ≤ number < PARTS of records that were too many for memory; it may be empty."""
        self._flush()
        path = self._spill.folder / f"{self._name}-{number}"
        return np.fromfile(path, self._dtype) if path.exists() else np.empty(0, self._dtype)

    def delete(self) -> None:
        """Let go of all records, in memory and on disk."""
        self._held = []
        if self._spilled:
            for part in range(PARTS):
                self._spill.delete(f"{self._name}-{part}")

    def _together(self) -> np.ndarray:
        return np.concatenate(self._held) if self._held else np.empty(0, self._dtype)

    def _flush(self) -> None:
        if self._spilled and not self._held:
            return
        held = self._together()
        for part, places in _by_part(held["key"]):
            self._spill.append(f"{self._name}-{part}", np.ascontiguousarray(held[places]).data)
        self._held, self._rows, self._spilled = [], 0, True


class Rows:
    """Rows of an Arrow schema, read back by the leading bits of their keys, in the order of these."""

    def __init__(self, spill: Spill, name: str, schema: pa.Schema, held: int = HELD_ROWS) -> None:
        self._spill, self._name, self._schema, self._most = spill, name, schema, held
        self._held: list[tuple[pa.RecordBatch, np.ndarray]] = []
        self._rows = 0
        self._spilled = False

    def append(self, batch: pa.RecordBatch, keys: np.ndarray) -> None:
        """Add rows with their keys (uint64)."""
        self._held.append((batch, keys))
        self._rows += len(keys)
        if self._rows > self._most:
            self._flush()

    def parts(self, last: bool = False) -> Iterator[pa.Table]:
        """All rows; those of a key are in one part, in the order in which they were appended.

        Args:
            last: they are not read again: each part is deleted behind the reader.
        """
        if not self._spilled:
            yield pa.Table.from_batches([batch for batch, _ in self._held], self._schema)
            return
        self._flush()
        for part in range(PARTS):
            name = f"{self._name}-{part}"
            path = self._spill.folder / name
            if path.exists():
                table = pa.concat_tables(_framed(path.read_bytes()))
                if last:
                    self._spill.delete(name)
                yield table

    def _flush(self) -> None:
        if not self._held:
            return
        table = pa.Table.from_batches([batch for batch, _ in self._held], self._schema).combine_chunks()
        keys = np.concatenate([keys for _, keys in self._held])
        self._held, self._rows, self._spilled = [], 0, True
        for part, places in _by_part(keys):
            self._spill.append(f"{self._name}-{part}", _frame(table.take(pa.array(places))))


class Batches:
    """Arrow tables kept by number: in memory up to so many rows, then in a file."""

    def __init__(self, spill: Spill, name: str, held: int = HELD_ROWS) -> None:
        self._spill, self._name, self._most = spill, name, held
        self._held: list[bytes] | None = []
        self._rows = 0
        self._places: list[int] = []

    def append(self, table: pa.Table) -> int:
        """Keep a table of the same schema as those before; returns its number, from 0."""
        data = _frame(table)
        if self._held is None:
            self._places.append(self._spill.append(self._name, data))
        else:
            self._held.append(data)
            self._rows += table.num_rows
            self._places.append(0)
            if self._rows > self._most:
                self._write()
        return len(self._places) - 1

    def read(self, number: int, columns: list[str] | None = None) -> pa.Table:
        """The table of a number; some of its columns where they are named."""
        if self._held is not None:
            data = self._held[number]
        else:
            start = self._places[number]
            end = self._places[number + 1] if number + 1 < len(self._places) else None
            with open(self._spill.folder / self._name, "rb") as file:
                file.seek(start)
                data = file.read() if end is None else file.read(end - start)
        (table,) = _framed(data)
        return table if columns is None else table.select(columns)

    def _write(self) -> None:
        assert self._held is not None
        held, self._held = self._held, None
        self._places = [self._spill.append(self._name, data) for data in held]


def hashes(words: list[str]) -> np.ndarray:
    """Pseudonyms (16 hex characters each) as numbers (uint64), in the same order."""
    return np.frombuffer(bytes.fromhex("".join(words)), ">u8").astype(np.uint64)


def _by_part(keys: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Each part that keys belong to, and the places of these keys in order."""
    parts = (keys >> np.uint64(64 - PARTS.bit_length() + 1)).astype(np.int64)
    order = np.argsort(parts, kind="stable")
    borders = np.searchsorted(parts[order], np.arange(PARTS + 1))
    for part in np.flatnonzero(np.diff(borders)):
        yield int(part), order[borders[part] : borders[part + 1]]


def _frame(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=_COMPRESSED) as writer:
        writer.write_table(table)
    data = sink.getvalue().to_pybytes()
    return len(data).to_bytes(_LENGTH, "little") + data


def _framed(data: bytes) -> list[pa.Table]:
    whole, start, tables = pa.py_buffer(data), 0, []
    while start < len(data):
        length = int.from_bytes(data[start : start + _LENGTH], "little")
        start += _LENGTH
        tables.append(pa.ipc.open_stream(whole.slice(start, length)).read_all())
        start += length
    return tables
