"""What an ingest has already done at its destination, and how it is finished: the ledger, quarantine, stale objects.

_ingest/<split>/<number>-<plan>.json   one entry a shard, written after the shard
_ingest/files.parquet                  fingerprints of the last finished ingest (`mskray.cohorts.changes`)
"""

import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import pyarrow as pa

from mskray.cohorts.plan import Quarantined, ShardPlan
from mskray.cohorts.schema import LEDGER, QUARANTINE, SPLITS
from mskray.cohorts.shards import Entry
from mskray.storage import Location
from mskray.storage.tables import parquet_bytes

_OURS = re.compile(
    rf"(split=({'|'.join(SPLITS)})/part-\d{{5,}}-[0-9a-f]{{16}}\.parquet|{LEDGER}/\w+/\d{{5,}}-[0-9a-f]{{16}}\.json)"
)
_THREADS = 16
_QUARANTINE_SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("reason", pa.string()),
        ("stage", pa.string()),
        ("split", pa.string()),
        ("row", pa.int32()),
    ]
)


def existing(out: Location) -> dict[str, int]:
    """Path → bytes of every shard and ledger entry at the destination; nothing else there is ever looked at."""
    folders = [LEDGER, *(f"split={split}" for split in SPLITS)]
    found = {}
    for folder in folders:
        place = out.join(folder)
        if place.is_dir():
            found.update({f"{folder}/{entry.path}": entry.size for entry in place.walk()})
    return {path: size for path, size in found.items() if _OURS.fullmatch(path)}


def written(out: Location, plan: ShardPlan) -> Entry | None:
    """The entry of a planned shard, None where there is none yet."""
    place = out.join(plan.ledger)
    return Entry.from_json(place.read_json()) if place.is_file() else None


def finished(out: Location, shards: Sequence[ShardPlan], objects: dict[str, int]) -> dict[ShardPlan, Entry]:
    """Entries of those planned shards that are already written, whole and with the same plan."""

    def read(plan: ShardPlan) -> Entry | None:
        entry = written(out, plan)
        whole = entry is not None and (entry.shard is None or objects.get(entry.shard.path) == entry.shard.bytes)
        return entry if entry and entry.complete and whole else None

    known = [plan for plan in shards if plan.ledger in objects]
    with ThreadPoolExecutor(_THREADS) as pool:
        entries = pool.map(read, known)
        return {plan: entry for plan, entry in zip(known, entries, strict=True) if entry is not None}


def delete_stale(out: Location, objects: Iterable[str], shards: Sequence[ShardPlan]) -> int:
    """Delete shards and entries of older plans; returns how many shards went."""
    current = {path for plan in shards for path in (plan.path, plan.ledger)}
    stale = sorted(set(objects) - current)
    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(lambda path: out.join(path).delete(), stale))
    return sum(path.startswith("split=") for path in stale)


def write_quarantine(out: Location, rows: Sequence[Quarantined]) -> None:
    """Write `quarantine.parquet`, sorted by path; a row holds no identifier but the path itself."""
    ordered = sorted(rows, key=lambda row: (row.path, row.reason, row.row or 0))
    _write_table(out.join(QUARANTINE), pa.Table.from_pylist([asdict(row) for row in ordered], _QUARANTINE_SCHEMA))


def _write_table(place: Location, table: pa.Table) -> None:
    _write_changed(place, parquet_bytes(table))


def _write_changed(place: Location, data: bytes) -> None:
    """Write an object unless it already holds these bytes: an ingest that changes nothing touches nothing."""
    if not (place.is_file() and place.read_bytes() == data):
        place.write_bytes(data)
