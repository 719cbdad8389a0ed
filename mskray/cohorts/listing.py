"""What a source lists, keyed and spilled: rows by study, and thin records by patient and by instance.

Python objects of one chunk of items are alive at a time. Beside the rows (some 200 bytes an image, on disk), an image
costs 16 bytes of `instances` and 25 of `patients`, on disk too, and a byte of memory where it is decided what becomes
of it (`mskray.cohorts.dealing`). What the source refuses is kept in memory: some 300 bytes each.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa

from mskray.cohorts.schema import FINDING, SPLITS, Task
from mskray.cohorts.sources import Item, Rejected
from mskray.cohorts.spill import HELD_ROWS, Records, Rows, Spill, hashes
from mskray.imaging.deidentify import Pseudonymiser

INSTANCE = np.dtype([("key", "u8"), ("seq", "i8")])
PATIENT = np.dtype([("key", "u8"), ("seq", "i8"), ("own", "i1"), ("part", "i4"), ("label", "i4")])
_CHUNK = 8192


@dataclass(frozen=True, slots=True)
class Quarantined:
    """One input that did not get in. `stage` says who refused it: "listing", "split" or "decode"."""

    path: str
    reason: str
    stage: str
    split: str | None = None
    row: int | None = None


def listing_schema(tasks: Sequence[Task]) -> pa.Schema:
    """What is known of a listed image; no identifier in it is raw. `seq` counts the listing from 0."""
    text = ("path", "fingerprint", "instance_id", "study_id", "patient_id", "body_part", "view", "laterality", "own")
    fields = [pa.field(name, pa.string()) for name in text]
    fields += [pa.field("view_index", pa.int32()), pa.field("row", pa.int32()), pa.field("findings", pa.list_(FINDING))]
    fields += [pa.field("address", pa.string())]
    fields += [pa.field(task.column, pa.int32()) for task in tasks]
    return pa.schema([*fields, pa.field("seq", pa.int64())])


class Listing:
    """Collects items.

    Attributes:
        rows: all listed images by study (`listing_schema`).
        instances, patients: a record an image (`INSTANCE`, `PATIENT`). `own` is the place in SPLITS, -1 for none;
            `part` that in `parts`; `label` that of the first task, -1 where it is not known.
        count: images listed; `held` is how many rows or patients are kept in memory.
        findings, addresses: how many have some.
    """

    def __init__(self, tasks: tuple[Task, ...], keys: Pseudonymiser, spill: Spill, held: int = HELD_ROWS) -> None:
        self.quarantined: list[Quarantined] = []
        self.held = held
        self.schema = listing_schema(tasks)
        self.rows = Rows(spill, "rows", self.schema, held)
        self.instances = Records(spill, "instances", INSTANCE, held)
        self.patients = Records(spill, "patients", PATIENT, held)
        self.count = self.findings = self.addresses = 0
        self._tasks = tasks
        self._instance = keys.instance
        # Sources list a patient's images one after the other, or nearly.
        self._patient = lru_cache(_CHUNK)(keys.patient)
        self._study = lru_cache(_CHUNK)(keys.study)
        self._parts: dict[str, int] = {}
        self._pending: list[tuple[Any, ...]] = []

    @property
    def parts(self) -> list[str]:
        """Body parts by their number."""
        return list(self._parts)

    def add(self, item: Item | Rejected) -> None:
        """Take what a source lists next; what cannot be stored under its name is quarantined."""
        if isinstance(item, Rejected):
            self.quarantined.append(Quarantined(_shown(item.path), item.reason, "listing", None, item.row))
            return
        if not item.path.isascii() and (shown := _shown(item.path)) != item.path:
            self.quarantined.append(Quarantined(shown, "its name is not UTF-8", "listing", item.split, item.row))
            return
        row = (
            item.path,
            item.fingerprint,
            self._instance(item.instance_id or item.path),
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
        self._pending.append(row)
        if len(self._pending) >= _CHUNK:
            self._flush()

    def end(self) -> None:
        """Nothing more is listed."""
        self._flush()

    def _flush(self) -> None:
        if not self._pending:
            return
        columns = [list(values) for values in zip(*self._pending, strict=True)]
        seq = np.arange(self.count, self.count + len(self._pending), dtype=np.int64)
        by_name = dict(zip(self.schema.names, [*columns, seq], strict=True))
        arrays = [pa.array(by_name[field.name], field.type) for field in self.schema]
        self.rows.append(pa.RecordBatch.from_arrays(arrays, schema=self.schema), hashes(by_name["study_id"]))
        instances = np.empty(len(seq), INSTANCE)
        instances["key"], instances["seq"] = hashes(by_name["instance_id"]), seq
        self.instances.append(instances)
        patients = np.empty(len(seq), PATIENT)
        patients["key"], patients["seq"] = hashes(by_name["patient_id"]), seq
        patients["own"] = [-1 if split is None else SPLITS.index(split) for split in by_name["own"]]
        patients["part"] = [self._parts.setdefault(part, len(self._parts)) for part in by_name["body_part"]]
        labels = by_name[self._tasks[0].column] if self._tasks else [None] * len(seq)
        patients["label"] = [-1 if label is None else label for label in labels]
        self.patients.append(patients)
        self.count += len(seq)
        self.findings += sum(map(bool, by_name["findings"]))
        self.addresses += sum(address is not None for address in by_name["address"])
        self._pending = []


def _shown(path: str) -> str:
    return path.encode("utf-8", "backslashreplace").decode()
