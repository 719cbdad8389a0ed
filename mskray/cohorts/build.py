"""The steps of an ingest: list and plan, write shards on the cluster, say what the cohort holds.

`mskray.cohorts.ingest` puts them in order and says what holds between them.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import ray.data

from mskray import __version__
from mskray.cluster import Need, require, silence_data, total
from mskray.cohorts import ledger
from mskray.cohorts.careful import CAREFUL_FROM, attempt
from mskray.cohorts.plan import INGEST_VERSION, Plan, Quarantined, ShardPlan, make_plan
from mskray.cohorts.schema import (
    MANIFEST,
    SPLITS,
    Counts,
    Fractions,
    ImageFormat,
    Manifest,
    SplitCount,
    SplitMethod,
    Task,
    content_hash,
    count_labels,
)
from mskray.cohorts.shards import Entry, ShardJob, write_shard
from mskray.cohorts.sources import Item, Rejected, Source
from mskray.config import Section, setting
from mskray.errors import UserError
from mskray.imaging.deidentify import Pseudonymiser
from mskray.progress import Progress, Report
from mskray.storage import Location

# Between two tasks of Ray Data a CPU waits 0.15 s, half of what a shard of small images takes. So a task writes
# several shards; not so many that CPUs wait long for the last task.
_SHARDS_A_TASK = 8
_TASKS_A_CPU = 8


class IngestSettings(Section):
    """How images are stored and patients split."""

    size: int | None = setting(
        None, "side of the stored images; without it the source's own, 224 for radiographs", unit="px", ge=32, le=4096
    )
    bits: Literal[8, 16] = setting(8, "bits of a stored pixel", unit="bits")
    fit: Literal["pad", "stretch"] = setting("pad", "keep the aspect ratio and pad with black, or stretch")
    split_fractions: Fractions | None = setting(
        None, "train, validation, test: cut all patients anew; without it the source's own splits are kept"
    )
    seed: int = setting(0, "seed of the split", ge=0, le=2**31 - 1)
    shard_rows: int = setting(1024, "most images a shard, on average; at most 16 MiB of pixels", ge=1, le=65536)


@dataclass(frozen=True)
class Build:
    """One ingest, checked and ready to start."""

    source: Source[Any]
    options: Section
    settings: IngestSettings
    given: Location | None
    root: Location | None
    out: Location
    tasks: tuple[Task, ...]
    keys: Pseudonymiser
    report: Report
    before: Manifest | None

    @property
    def image(self) -> ImageFormat:
        dtype: Literal["uint8", "uint16"] = "uint8" if self.settings.bits == 8 else "uint16"
        return self.source.format(self.settings.size or self.source.size, dtype, self.settings.fit, self.options)

    @property
    def fractions(self) -> Fractions:
        return self.settings.split_fractions or self.source.fractions(self.options)

    def plan(self) -> Plan:
        plan = make_plan(
            self._listed(),
            self.tasks,
            self.keys,
            fractions=self.fractions,
            resplit=self.settings.split_fractions is not None,
            seed=self.settings.seed,
            image_bytes=self.image.bytes,
            shard_rows=self.settings.shard_rows,
            context={
                "ingest": INGEST_VERSION,
                "source": self.source.name,
                "options": self.options.model_dump(mode="json"),
                "image": self.image.model_dump(exclude_defaults=True),
                "tasks": [task.model_dump() for task in self.tasks],
                "key": self.keys.fingerprint,
            },
        )
        if not plan.listed:
            raise UserError(f"{self.given} holds no image: give the folder that {self.source.name} describes")
        return plan

    def _listed(self) -> Iterator[Item | Rejected]:
        count = 0
        for count, item in enumerate(self.source.items(self.given, self.options), 1):
            if count % 1000 == 0:
                self.report(Progress("listing", count, 0))
            yield item
        self.report(Progress("listing", count, count))

    def write(self, plan: Plan, todo: Sequence[ShardPlan]) -> dict[ShardPlan, Entry]:
        """Write the shards that are left, a few a Ray task; returns what became of each."""
        silence_data()
        require(Need("ingest", workers=1, cpus_per_worker=1), reading_cpus=0)
        job = ShardJob(
            source=self.source,
            options=self.options,
            root=self.root.uri if self.root else None,
            out=self.out.uri,
            image=self.image,
            tasks=self.tasks,
        )
        rows = [{"place": place, "rows": _pack(plan.table.slice(s.start, s.rows))} for place, s in enumerate(todo)]
        out = self.out
        keys = [(shard.split, shard.number, shard.plan) for shard in todo]

        def write_one(row: dict[str, Any]) -> dict[str, Any]:
            rows = _unpack(row["rows"])
            split, number, plan_hash = keys[int(row["place"])]
            shard = ShardPlan(split, number, plan_hash, 0, len(rows))
            try:
                again = attempt()
                # A task that died may have written some of its shards before.
                entry = ledger.written(out, shard) if again else None
                entry = entry or write_shard(job, shard, rows, careful=again >= CAREFUL_FROM)
            except UserError as error:
                # Ray would wrap it in a trace and lose its type.
                return {"place": row["place"], "entry": "", "error": str(error)}
            return {"place": row["place"], "entry": json.dumps(entry.to_json()), "error": ""}

        images = sum(shard.rows for shard in todo)
        done, first, started = 0, 0, 0.0
        entries: dict[ShardPlan, Entry] = {}
        self.report(Progress("ingest", 0, images))
        dataset = ray.data.from_items(rows, override_num_blocks=_tasks(len(rows))).map(write_one)
        for row in dataset.iter_rows():
            if row["error"]:
                raise UserError(row["error"])
            shard = todo[int(row["place"])]
            entries[shard] = Entry.from_json(json.loads(row["entry"]))
            done += shard.rows
            if not first:  # what comes before it is the start of Ray's workers, and says nothing of their rate
                first, started = done, time.monotonic()
                self.report(Progress("ingest", done, images))
                continue
            rate = (done - first) / max(1e-6, time.monotonic() - started)
            self.report(Progress("ingest", done, images, rate=rate, left_s=(images - done) / rate))
        return entries

    def manifest(
        self,
        plan: Plan,
        entries: Mapping[ShardPlan, Entry],
        quarantined: Sequence[Quarantined],
        reasons: Mapping[str, int],
    ) -> Manifest:
        """What `cohort.json` will say. Raises UserError when nothing is left to say."""
        shards = [entry.shard for plan_ in plan.shards if (entry := entries[plan_]).shard is not None]
        counts = _count(plan, quarantined, self.tasks)
        if counts.images != sum(shard.rows for shard in shards) or counts.listed != counts.images + counts.quarantined:
            raise RuntimeError(f"counts do not add up: {counts}, shards hold {sum(s.rows for s in shards)} rows")
        if not shards:
            worst = "; ".join(f"{count} × {reason}" for reason, count in list(reasons.items())[:3])
            raise UserError(
                f"all {counts.listed} inputs of {self.given} are in quarantine ({worst}): "
                f"see {self.out.join(ledger.QUARANTINE)}"
            )
        resplit = self.settings.split_fractions is not None
        method: Literal["source", "stratified", "source, rest stratified"] = "stratified"
        if plan.own_splits:
            method = "source, rest stratified" if plan.assigned else "source"
        return Manifest(
            kind=self.source.kind,
            source=self.source.name,
            source_options=self.options.model_dump(mode="json"),
            tasks=self.tasks,
            image=self.image,
            masks=self.source.masks,
            vertebrae=self.source.vertebrae,
            split=SplitMethod(
                method=method,
                seed=self.settings.seed,
                fractions=self.fractions if plan.assigned else None,
                note="" if resplit else self.source.split_note,
            ),
            counts=counts,
            shards=tuple(shards),
            hash_key_fingerprint=self.keys.fingerprint,
            content_hash=content_hash(self.tasks, self.image, shards),
            created_by=f"mskray {__version__}",
        )

    def commit(self, manifest: Manifest) -> None:
        """Write `cohort.json`, unless it already says the same."""
        if manifest == self.before:
            return
        found = ledger.existing(self.out)
        missing = [shard.path for shard in manifest.shards if found.get(shard.path) != shard.bytes]
        if missing:
            raise UserError(
                f"{len(missing)} shards of {self.out} vanished during the ingest (first {missing[0]}): "
                "is another ingest writing to the same place? Run this one again when it has ended"
            )
        self.out.join(MANIFEST).write_json(manifest.model_dump(mode="json"))


def _tasks(shards: int) -> int:
    """In how many tasks to write so many shards."""
    return max(-(-shards // _SHARDS_A_TASK), min(shards, _TASKS_A_CPU * int(total("CPU"))), 1)


def _count(plan: Plan, quarantined: Sequence[Quarantined], tasks: Sequence[Task]) -> Counts:
    """Counts of what is in the shards: what was planned, less what could not be decoded."""
    table = plan.table
    refused = {row.path for row in quarantined if row.stage == "decode"}
    keep = np.fromiter((path not in refused for path in table["path"].to_pylist()), bool, table.num_rows)
    places = np.asarray(table["split"].to_pylist(), dtype=object)
    splits = {}
    for split in SPLITS:
        inside = table.filter(pa.array(keep & (places == split)))
        if inside.num_rows:
            splits[split] = SplitCount(
                images=inside.num_rows,
                studies=len(inside["study_id"].unique()),
                patients=len(inside["patient_id"].unique()),
                labels={task.name: count_labels(inside[task.column], task) for task in tasks},
            )
    return Counts(listed=plan.listed, images=int(keep.sum()), quarantined=len(quarantined), splits=splits)


def _pack(table: pa.Table) -> bytes:
    """Rows of a plan as one Arrow message: small, and free of Python objects on its way."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def _unpack(data: bytes) -> list[dict[str, Any]]:
    return pa.ipc.open_stream(data).read_all().to_pylist()
