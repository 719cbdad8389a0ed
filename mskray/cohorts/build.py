"""The steps of an ingest: list and plan, write shards on the cluster, say what the cohort holds.

`mskray.cohorts.ingest` puts them in order and says what holds between them.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import pyarrow as pa

from mskray import __version__
from mskray.cluster import Need, require
from mskray.cohorts import ledger
from mskray.cohorts.careful import CAREFUL_FROM, attempt
from mskray.cohorts.counting import count
from mskray.cohorts.meters import count_written
from mskray.cohorts.plan import INGEST_VERSION, Plan, Quarantined, ShardPlan, make_plan
from mskray.cohorts.scheduling import run_shards
from mskray.cohorts.schema import (
    MANIFEST,
    Fractions,
    ImageFormat,
    Manifest,
    SplitMethod,
    Task,
    content_hash,
)
from mskray.cohorts.shards import Entry, ShardJob, write_shard
from mskray.cohorts.sources import Item, Rejected, Source
from mskray.cohorts.spill import HELD_ROWS
from mskray.config import Section, setting
from mskray.errors import UserError
from mskray.imaging.deidentify import Pseudonymiser
from mskray.progress import Progress, Report, duration
from mskray.storage import Location, locate


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
        """How each image is stored."""
        dtype: Literal["uint8", "uint16"] = "uint8" if self.settings.bits == 8 else "uint16"
        return self.source.format(self.settings.size or self.source.size, dtype, self.settings.fit, self.options)

    @property
    def fractions(self) -> Fractions:
        """Shares of the splits for patients who have none of their own."""
        return self.settings.split_fractions or self.source.fractions(self.options)

    def plan(self) -> Plan:
        """List the source and plan its shards; the caller closes the plan. Raises UserError where there is no image."""
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
            planned=self._planned,
        )
        # Arrow's allocator would keep what planning took, 60 MB for 100,000 images, for as long as shards are written.
        pa.default_memory_pool().release_unused()
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

    def _planned(self, done: int, images: int) -> None:
        if images > HELD_ROWS:  # fewer take less time than it takes to read the line
            self.report(Progress("planning", done, images))

    def write(self, plan: Plan, todo: Sequence[ShardPlan]) -> dict[ShardPlan, Entry]:
        """Write the shards that are left, a few a Ray task; returns what became of each."""
        require(Need("ingest", workers=1, cpus_per_worker=1), reading_cpus=0)
        job = ShardJob(
            source=self.source,
            options=self.options,
            root=self.root.uri if self.root else None,
            out=self.out.uri,
            image=self.image,
            tasks=self.tasks,
        )
        images = sum(shard.rows for shard in todo)
        done, first, started = 0, 0, 0.0
        entries: dict[ShardPlan, Entry] = {}
        self.report(Progress("ingest", 0, images))

        def waits(seconds: float) -> None:
            note = f"no shard ended for {duration(seconds)}: tasks run, or wait for a CPU"
            self.report(Progress("ingest", done, images, note=note))

        for shard, told in run_shards(todo, plan.rows, partial(_write_one, job), waits=waits):
            if isinstance(told, str):
                raise UserError(told)
            entries[shard] = told
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
        counts = count(plan, quarantined, self.tasks)
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


def _write_one(job: ShardJob, shard: ShardPlan, rows: list[dict[str, Any]]) -> Entry | str:
    """Write one shard in a Ray task; returns its entry, or the line for the user."""
    try:
        again = attempt()
        # A task that died may have written some of its shards before.
        entry = ledger.written(locate(job.out), shard) if again else None
        if entry is None:
            entry = write_shard(job, shard, rows, careful=again >= CAREFUL_FROM)
            count_written(job.source.name, entry.rows, entry.shard.bytes if entry.shard else 0)
        return entry
    except UserError as error:
        # Ray would wrap it in a trace and lose its type.
        return str(error)
