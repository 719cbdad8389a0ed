"""From a source's listing to shards: who is who (keyed), which split, which shard, and what each shard must hold.

Runs on the driver before any pixel is read. The listing is kept as an Arrow table of keyed identifiers and paths,
about 200 bytes an image; while it is split and sorted, copies and Python objects bring that to about 1 KB (measured
with 200,000 images). A source that must see its whole listing first, such as `dicom`, holds that beside it.

A shard is a range of study hashes within a split: 2^k equal ranges, k the least that keeps shards below their size.
Rows of a study stay together, the order is that of the hashes (already random), and a new study changes one shard.
A shard's plan is a hash over all that decides its bytes (rows, fingerprints of their files, format, key): a shard
with the same plan need not be written again.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mskray.cohorts.schema import FINDING, LEDGER, SPLITS, Fractions, Task
from mskray.cohorts.sources import Item, Rejected
from mskray.cohorts.splits import assign, own_split
from mskray.imaging.deidentify import Pseudonymiser

# Raise it when the same file would become other pixels or columns, or be refused: every shard is then written anew.
INGEST_VERSION = 2
SHARD_BYTES = 16 * 2**20
_CHUNK = 8192


@dataclass(frozen=True, slots=True)
class Quarantined:
    """One input that did not get in. `stage` says who refused it: "listing", "split" or "decode"."""

    path: str
    reason: str
    stage: str
    split: str | None = None
    row: int | None = None


@dataclass(frozen=True)
class ShardPlan:
    """One shard to be.

    Args:
        number: its range among the ranges of the split.
        plan: hash over all that decides its bytes.
        start, rows: where its rows stand in `Plan.table`.
    """

    split: str
    number: int
    plan: str
    start: int
    rows: int

    @property
    def path(self) -> str:
        return f"split={self.split}/part-{self.number:05d}-{self.plan}.parquet"

    @property
    def ledger(self) -> str:
        return f"{LEDGER}/{self.split}/{self.number:05d}-{self.plan}.json"


@dataclass(frozen=True)
class Plan:
    """What an ingest has to do.

    Args:
        table: an image per row in the order of the shards; columns of `plan_schema` and `split`.
        shards: in the order of the table.
        quarantined: what listing and splitting refused.
        own_splits: whether some image came with a split of the source.
        assigned: whether some patient was assigned here.
    """

    table: pa.Table
    shards: tuple[ShardPlan, ...]
    quarantined: tuple[Quarantined, ...]
    own_splits: bool
    assigned: bool

    @property
    def listed(self) -> int:
        return self.table.num_rows + len(self.quarantined)

    @property
    def studies(self) -> int:
        return pc.count_distinct(self.table["study_id"]).as_py()


def plan_schema(tasks: Sequence[Task]) -> pa.Schema:
    """What a worker needs to know about an image; no identifier in it is raw."""
    text = ("path", "fingerprint", "instance_id", "study_id", "patient_id", "body_part", "view", "laterality", "own")
    fields = [pa.field(name, pa.string()) for name in text]
    fields += [pa.field("view_index", pa.int32()), pa.field("row", pa.int32()), pa.field("findings", pa.list_(FINDING))]
    fields += [pa.field("address", pa.string())]
    return pa.schema(fields + [pa.field(task.column, pa.int32()) for task in tasks])


class _Listing:
    """Collects items into Arrow chunks, so that Python objects of at most one chunk are alive."""

    def __init__(self, tasks: tuple[Task, ...], keys: Pseudonymiser) -> None:
        self.quarantined: list[Quarantined] = []
        self._tasks = tasks
        self._schema = plan_schema(tasks)
        self._instance = keys.instance
        # Sources list a patient's images one after the other, or nearly.
        self._patient = lru_cache(_CHUNK)(keys.patient)
        self._study = lru_cache(_CHUNK)(keys.study)
        self._seen: set[str] = set()
        self._rows: list[tuple[Any, ...]] = []
        self._chunks: list[pa.RecordBatch] = []

    def add(self, item: Item | Rejected) -> None:
        shown = item.path.encode("utf-8", "backslashreplace").decode()
        if isinstance(item, Rejected):
            self.quarantined.append(Quarantined(shown, item.reason, "listing", None, item.row))
            return
        if shown != item.path:
            self.quarantined.append(Quarantined(shown, "its name is not UTF-8", "listing", item.split, item.row))
            return
        instance = self._instance(item.instance_id or item.path)
        if instance in self._seen:
            reason = "the same instance is listed more than once"
            self.quarantined.append(Quarantined(item.path, reason, "listing", item.split, item.row))
            return
        self._seen.add(instance)
        row = (
            item.path,
            item.fingerprint,
            instance,
            self._study(f"{item.patient_id}/{item.study_id}"),
            self._patient(item.patient_id),
            item.body_part,
            item.view,
            item.laterality,
            item.split,
            item.view_index,
            item.row,
            [{"kind": each.kind, **dict(zip("xywh", each.box, strict=True))} for each in item.findings],
            item.address,
            *(item.labels.get(task.name) for task in self._tasks),
        )
        self._rows.append(row)
        if len(self._rows) >= _CHUNK:
            self._flush()

    def table(self) -> pa.Table:
        self._flush()
        return pa.Table.from_batches(self._chunks, self._schema)

    def _flush(self) -> None:
        if self._rows:
            columns = zip(zip(*self._rows, strict=True), self._schema, strict=True)
            arrays = [pa.array(values, field.type) for values, field in columns]
            self._chunks.append(pa.RecordBatch.from_arrays(arrays, schema=self._schema))
            self._rows = []


def make_plan(
    items: Iterator[Item | Rejected],
    tasks: tuple[Task, ...],
    keys: Pseudonymiser,
    *,
    fractions: Fractions,
    resplit: bool,
    seed: int,
    image_bytes: int,
    shard_rows: int,
    context: dict[str, Any],
) -> Plan:
    """List, key, split and cut into shards.

    Args:
        fractions: shares for patients without a split of their own.
        resplit: forget the source's splits and assign every patient.
        image_bytes: bytes of one stored image.
        shard_rows: most rows of a shard, on average.
        context: all else that decides a shard's bytes (source, options, format, key fingerprint).
    """
    listing = _Listing(tasks, keys)
    for item in items:
        listing.add(item)
    table = listing.table()
    if not pc.sum(pc.list_value_length(table["findings"])).as_py():
        table = table.drop_columns("findings")  # a source without boxes has the plans that it always had
    if table["address"].null_count == table.num_rows:
        table = table.drop_columns("address")
    own = table.column("own").to_pylist()
    own_splits = not resplit and any(own)
    places, keep, assigned = _split(table, [None] * len(own) if resplit else own, tasks, fractions, seed)
    quarantined = listing.quarantined
    for index in np.flatnonzero(~keep):
        path, row = table["path"][int(index)].as_py(), table["row"][int(index)].as_py()
        reason = f"its patient is in {places[index]} with more images: no patient may be in two splits"
        quarantined.append(Quarantined(path, reason, "split", own[index], row))
    table = table.drop_columns("own").append_column("split", pa.array(places, pa.string())).filter(pa.array(keep))
    table = table.sort_by([(name, "ascending") for name in ("split", "study_id", "view_index", "instance_id")])
    shards = _cut(table.combine_chunks(), max(1, min(shard_rows, SHARD_BYTES // image_bytes)), context)
    return Plan(table.combine_chunks(), shards, tuple(quarantined), own_splits, assigned)


def _split(
    table: pa.Table, own: list[str | None], tasks: Sequence[Task], fractions: Fractions, seed: int
) -> tuple[list[str], np.ndarray, bool]:
    """The split of each row's patient, which rows stay, and whether a patient was assigned here."""
    patients = table["patient_id"].to_pylist()
    place: dict[str, str] = {}
    several: dict[str, Counter[str]] = {}
    for patient, split in zip(patients, own, strict=True):
        if split is not None and place.setdefault(patient, split) != split:
            several[patient] = Counter()
    if several:
        for patient, split in zip(patients, own, strict=True):
            if split is not None and patient in several:
                several[patient][split] += 1
        place.update((patient, own_split(counts)) for patient, counts in several.items())
    keep = np.fromiter(
        (split in (None, place.get(patient)) for patient, split in zip(patients, own, strict=True)), bool
    )
    parts: dict[str, Counter[str]] = {}
    worst: dict[str, int] = {}
    labels = table[tasks[0].column].to_pylist() if tasks else [None] * len(patients)
    for patient, part, label in zip(patients, table["body_part"].to_pylist(), labels, strict=True):
        if patient not in place:
            parts.setdefault(patient, Counter())[part] += 1
            worst[patient] = max(worst.get(patient, -1), -1 if label is None else label)
    names = list(parts)
    # The class of a patient is the highest of any image; the part is the one with most images.
    strata = [(worst[name], max(sorted(parts[name]), key=parts[name].__getitem__)) for name in names]
    place.update(zip(names, assign(names, strata, fractions, seed), strict=True))
    return [place[patient] for patient in patients], keep, bool(names)


def _cut(table: pa.Table, most_rows: int, context: dict[str, Any]) -> tuple[ShardPlan, ...]:
    """Cut the sorted table into ranges of study hashes."""
    shards = []
    settings = json.dumps(context, sort_keys=True).encode()
    places = np.asarray(table["split"].to_pylist(), dtype=object)
    heads = np.fromiter((int(study[:8], 16) for study in table["study_id"].to_pylist()), np.int64, table.num_rows)
    for split in sorted(SPLITS):
        inside = np.flatnonzero(places == split)
        if not len(inside):
            continue
        bits = max(0, int(np.ceil(np.log2(len(inside) / most_rows))))
        numbers = heads[inside] >> (32 - bits)
        for number in np.unique(numbers):
            start = int(inside[0] + np.searchsorted(numbers, number, "left"))
            rows = int(np.count_nonzero(numbers == number))
            # `repr` of words and numbers is as exact as JSON here, and five times as fast.
            digest = hashlib.sha256(settings + repr(table.slice(start, rows).to_pydict()).encode()).hexdigest()
            shards.append(ShardPlan(split, int(number), digest[:16], start, rows))
    return tuple(shards)
