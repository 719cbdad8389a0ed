"""A cohort made from another by changing its images alone: same splits, labels and identifiers, shard for shard.

A shard's plan is a hash over the source's shard and what is done to it, and the ledger is ingest's, so an interrupted
run goes on where it was, and one that changes nothing writes nothing. `cohort.json` comes last and names the source.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from mskray import __version__
from mskray.cohorts import ledger
from mskray.cohorts.plan import ShardPlan
from mskray.cohorts.read import Cohort, read_manifest
from mskray.cohorts.schema import FINDING, MANIFEST, QUARANTINE, Derivation, Shard, cells, content_hash
from mskray.cohorts.shards import Entry, shard_bytes
from mskray.errors import UserError
from mskray.storage import Location

# Raise it when the same bundle would make other pixels of the same image: every shard is then written anew.
VERSION = 1


@dataclass(frozen=True)
class Derived:
    """A cohort in the making; small, so that it travels to workers.

    Args:
        source: the cohort that it is made of.
        step: what is done to the images.
    """

    source: Cohort
    out: Location
    step: Derivation

    def plans(self) -> list[tuple[Shard, ShardPlan]]:
        """Each shard of the source with the one to be made of it, in order."""
        made = []
        for split in self.source.splits:
            for number, shard in enumerate(self.source.shards(split)):
                text = f"{VERSION} {shard.sha256} {self.step.step} {self.step.bundle_hash}"
                plan = hashlib.sha256(text.encode()).hexdigest()[:16]
                made.append((shard, ShardPlan(split, number, plan, 0, shard.rows)))
        return made

    def check(self) -> None:
        """Refuse a destination that holds a cohort made of something else, or the source. Raises UserError."""
        if self.out.uri.rstrip("/") == self.source.location.uri.rstrip("/"):
            raise UserError(f"{self.out} is the cohort itself: give the derived one another --out")
        if not self.out.join(MANIFEST).is_file():
            return
        before = read_manifest(self.out).derived_from
        if before is None or (before.uri, before.step) != (self.step.uri, self.step.step):
            raise UserError(f"{self.out} already holds another cohort: give another --out, or delete that cohort first")

    def write(
        self, plan: ShardPlan, table: pa.Table, images: np.ndarray, findings: Sequence[Any], counts: Mapping[str, int]
    ) -> dict[str, Any]:
        """Write one shard and its ledger entry, and return the entry as JSON.

        Args:
            table: all columns of the source's shard.
            images: (n, size, size), in place of the source's.
            findings: n lists of {kind, x, y, w, h}, in place of the source's.
            counts: what was done, kept in the ledger.
        """
        for name, column in (("image", cells(images)), ("findings", pa.array(findings, pa.list_(FINDING)))):
            place = table.schema.get_field_index(name)
            table = table.set_column(place, table.schema.field(place), column)
        buffer = shard_bytes(table)
        digest = hashlib.sha256(buffer).hexdigest()
        shard = Shard(split=plan.split, path=plan.path, rows=len(table), bytes=len(buffer), sha256=digest)
        self.out.join(plan.path).write_bytes(buffer)
        entry = {**Entry(shard, ()).to_json(), "counts": dict(counts)}
        self.out.join(plan.ledger).write_json(entry)
        return entry

    def finished(self) -> dict[ShardPlan, dict[str, Any]]:
        """Ledger entries of the shards that are already written."""
        kept = ledger.finished(self.out, [plan for _, plan in self.plans()], ledger.existing(self.out))
        return {plan: self.out.join(plan.ledger).read_json() for plan in kept}

    def commit(self, entries: Mapping[ShardPlan, Mapping[str, Any]]) -> Cohort:
        """Write `quarantine.parquet` and `cohort.json` and delete what belongs to older plans."""
        plans = [plan for _, plan in self.plans()]
        shards = tuple(Shard.model_validate(entries[plan]["shard"]) for plan in plans)
        before = self.source.manifest
        manifest = before.model_copy(
            update={
                "shards": shards,
                "content_hash": content_hash(before.tasks, before.image, shards),
                "created_by": f"mskray {__version__}",
                "derived_from": self.step,
            }
        )
        quarantine = self.source.location.join(QUARANTINE)
        if quarantine.is_file():
            self.out.join(QUARANTINE).write_bytes(quarantine.read_bytes())
        self.out.join(MANIFEST).write_json(manifest.model_dump(mode="json"))
        ledger.delete_stale(self.out, ledger.existing(self.out), plans)
        return Cohort(self.out, manifest)
