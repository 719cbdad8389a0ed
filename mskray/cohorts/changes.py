"""What changed in a source since the last finished ingest, and which path has which identifiers, in bounded memory.

_ingest/files.parquet   instance and fingerprint of every planned image, sorted by instance
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv

from mskray.cohorts.plan import Plan
from mskray.cohorts.schema import LEDGER
from mskray.cohorts.spill import HELD_ROWS, Rows, hashes
from mskray.storage import Location
from mskray.storage.tables import row_groups

FILES = f"{LEDGER}/files.parquet"
_FILES = pa.schema([("instance_id", pa.string()), ("fingerprint", pa.string())])
_NAMES = ("row", "path", "instance_id", "study_id", "patient_id", "split")


def compare_files(out: Location, plan: Plan, held: int = HELD_ROWS) -> tuple[Counter[str], Path | None]:
    """Count files changed, added and removed since the last finished ingest (none at the first).

    Returns:
        The counts, and the new list of files to be written with `write_files` once the ingest is finished, None where
        it is as it was; it goes with the plan.
    """
    files = Rows(plan.spill, "files", _FILES, held)
    for _, part in plan.parts(_FILES.names):
        for batch in part.to_batches():
            files.append(batch, hashes(batch["instance_id"].to_pylist()))
    place = out.join(FILES)
    before = _Before(place) if place.is_file() else None
    counts: Counter[str] = Counter()
    made = plan.spill.folder / "files.parquet"
    with plan.spill.writing(), pq.ParquetWriter(made, _FILES, compression="zstd") as writer:
        for part in files.parts(last=True):
            table = part.sort_by("instance_id")
            if before is not None and table.num_rows:
                counts.update(_compare(before.until(int(table["instance_id"][-1].as_py(), 16)), table))
            writer.write_table(table)
    if before is not None:
        counts["removed"] += before.rest()
        if not counts.total():
            return counts, None
    return counts, made


def write_files(out: Location, made: Path | None) -> None:
    """Write the list of files that `compare_files` made."""
    if made is not None:
        out.join(FILES).write_file(made)


def write_names(place: Location, plan: Plan, held: int = HELD_ROWS) -> None:
    """Write which path has which identifiers, in the order of the source: what predictions are traced back by.

    Rows that a listing numbered are sorted a range of numbers at a time; of those that none numbered, all at once.
    """
    last = max(
        (row for _, part in plan.parts(["row"]) for row in part["row"].to_pylist() if row is not None), default=0
    )
    schema = plan.rows(plan.shards[0], _NAMES).schema if plan.shards else None
    made = plan.spill.folder / "names.csv"
    if schema is None:
        return
    rows = Rows(plan.spill, "names", schema, held)
    for _, part in plan.parts(_NAMES):
        for batch in part.to_batches():
            # Rows without a number come last.
            numbers = batch["row"].fill_null(2**31 - 1).to_numpy(zero_copy_only=False).astype(np.uint64)
            rows.append(batch, np.minimum(numbers, np.uint64(last + 1)) << np.uint64(64 - (last + 1).bit_length()))
    with plan.spill.writing(), csv.CSVWriter(made, pa.schema([schema.field(name) for name in _NAMES[1:]])) as writer:
        for part in rows.parts(last=True):
            writer.write_table(part.sort_by([("row", "ascending"), ("path", "ascending")]).drop_columns("row"))
    place.write_file(made)


class _Before:
    """The files of the last ingest, read a row group at a time, in the order of their instances."""

    def __init__(self, place: Location) -> None:
        self._groups: Iterator[pa.Table] = row_groups(place)
        self._held: pa.Table = _FILES.empty_table()

    def until(self, last: int) -> pa.Table:
        """Those not seen yet, up to an instance."""
        taken = []
        while True:
            keys = hashes(self._held["instance_id"].to_pylist())
            end = int(np.searchsorted(keys, np.uint64(last), "right"))
            taken.append(self._held.slice(0, end))
            self._held = self._held.slice(end)
            if self._held.num_rows:
                return pa.concat_tables(taken)
            more = next(self._groups, None)
            if more is None:
                return pa.concat_tables(taken)
            self._held = more.select(_FILES.names).cast(_FILES)

    def rest(self) -> int:
        """How many were not seen."""
        return self._held.num_rows + sum(group.num_rows for group in self._groups)


def _compare(before: pa.Table, now: pa.Table) -> Counter[str]:
    old, new = (hashes(table["instance_id"].to_pylist()) for table in (before, now))
    _, in_old, in_new = np.intersect1d(old, new, assume_unique=True, return_indices=True)
    marks = (before["fingerprint"].take(pa.array(in_old)), now["fingerprint"].take(pa.array(in_new)))
    changed = sum(a != b for a, b in zip(*(each.to_pylist() for each in marks), strict=True))
    return Counter(added=len(new) - len(in_new), removed=len(old) - len(in_old), changed=changed)
