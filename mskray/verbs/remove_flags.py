"""`mskray remove-flags BUNDLE COHORT --out URI`: a cohort becomes one without L/R markers.

A step of ingest: splits, labels and identifiers stay, `cohort.json` names the source and the detector. Ray Data actors
load the detector once each and write a shard at a time; the same command goes on after an interruption.
"""

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mskray import cluster
from mskray.cohorts import Cohort, open_cohort
from mskray.cohorts.derive import Derived
from mskray.cohorts.plan import ShardPlan
from mskray.cohorts.reach import check_everywhere
from mskray.cohorts.schema import Derivation, Shard, pixels
from mskray.errors import UserError
from mskray.families.flag_removal import FLAG, load_flag_detector
from mskray.imaging.regions import shared_areas
from mskray.prediction.shards import over_shards, share_machine
from mskray.progress import Progress, Report, silent
from mskray.storage import check_access, locate

_BATCH = 32


@dataclass(frozen=True)
class FlagRemoval:
    """What was done.

    Args:
        cohort: the new one.
        counts: `images`, `changed` (images with a flag), `removed` (flags), `left` (flags that the source knows and
            the detector did not find) and `pixels` (filled).
        written, kept: shards written now and already there.
    """

    cohort: Cohort
    counts: dict[str, int]
    written: int
    kept: int
    seconds: float

    def lines(self) -> str:
        """Say it in words."""
        count, image = self.counts, self.cohort.image
        share = count["pixels"] / max(1, count["images"] * image.size**2)
        done = f"{count['removed']:,} flags removed from {count['changed']:,} of {count['images']:,} images"
        if count["left"] and not count["removed"]:
            done = "warning: the detector found no flag at all"
        return "\n".join(
            [
                f"{done}, {share:.2%} of all pixels filled; {count['left']:,} known flags left",
                f"{self.written:,} shards written, {self.kept:,} kept in {self.seconds:.0f} s",
                f"cohort {self.cohort.location}  content {self.cohort.content_hash[:16]}",
            ]
        )


def remove_flags(
    bundle: str, cohort: str, out: str, *, workers: int = 1, gpu: bool = False, report: Report = silent
) -> FlagRemoval:
    """Make a cohort without flags, or finish one.

    Args:
        bundle: URI of a `flag_detector`.
        workers: actors, each with a CPU and, with `gpu`, a GPU.
    Raises:
        UserError: before any work, when the bundle is no flag detector, or the cohort or `out` does not do.
    """
    started = time.monotonic()
    model, place, target = locate(bundle), locate(cohort), locate(out)
    for where, write in ((model, False), (place, False), (target, True)):
        check_access(where, write)
    source = open_cohort(place)
    if source.manifest.kind != "radiograph":
        raise UserError(
            f"cohort {place} holds {source.manifest.kind}s: flags are removed from radiographs alone, give a cohort of "
            "them"
        )
    described, _ = load_flag_detector(model)
    step = Derivation(
        uri=str(place),
        content_hash=source.content_hash,
        step="remove-flags",
        bundle=str(model),
        bundle_hash=described.hash,
    )
    derived = Derived(source, target, step)
    derived.check()
    kept = derived.finished()
    todo = [(shard, plan) for shard, plan in derived.plans() if plan not in kept]
    written: dict[ShardPlan, dict[str, Any]] = {}
    if todo:
        with cluster.session():
            check_everywhere([model, place], [target])
            written = _write(derived, todo, workers, gpu, report)
    entries = {**kept, **written}
    made = derived.commit(entries)
    counts = sum((Counter(entry["counts"]) for entry in entries.values()), Counter())
    totals = {name: counts[name] for name in ("images", "changed", "removed", "left", "pixels")}
    return FlagRemoval(made, totals, len(written), len(kept), time.monotonic() - started)


def _write(
    derived: Derived, todo: Sequence[tuple[Shard, ShardPlan]], workers: int, gpu: bool, report: Report
) -> dict[ShardPlan, dict[str, Any]]:
    report(Progress("loading the detector"))
    images, done, started = sum(shard.rows for shard, _ in todo), 0, time.monotonic()
    entries: dict[ShardPlan, dict[str, Any]] = {}
    for row in over_shards("flag removal", _Remover, (derived, todo, workers, gpu), len(todo), workers, gpu):
        shard, plan = todo[int(row["place"])]
        entries[plan] = json.loads(row["entry"])
        done += shard.rows
        rate = done / max(1e-6, time.monotonic() - started)
        report(Progress("remove flags", done, images, rate=rate, left_s=(images - done) / rate))
    return entries


class _Remover:
    """One loaded detector in a Ray Data actor."""

    def __init__(self, derived: Derived, todo: Sequence[tuple[Shard, ShardPlan]], workers: int, gpu: bool) -> None:
        share_machine(workers)
        self._derived, self._todo = derived, todo
        _, self._detector = load_flag_detector(derived.step.bundle, "cuda" if gpu else "cpu")

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, list[Any]]:
        places = [int(place) for place in batch["place"]]
        return {"place": places, "entry": [json.dumps(self._write(*self._todo[place])) for place in places]}

    def _write(self, shard: Shard, plan: ShardPlan) -> dict[str, Any]:
        source = self._derived.source
        table = source.table(shard)
        images = pixels(table["image"], source.schema.field("image"))
        findings, counts = [], Counter(images=len(images))
        known = table["findings"].to_pylist()
        for start in range(0, len(images), _BATCH):
            for place, made in enumerate(self._detector.clean(list(images[start : start + _BATCH])), start):
                images[place] = made.pixels
                left = [each for each in known[place] if each["kind"] != FLAG or not _removed(each, made.flags)]
                findings.append(left)
                counts["changed"] += len(made.flags) > 0
                counts["removed"] += len(made.flags)
                counts["left"] += sum(each["kind"] == FLAG for each in left)
                counts["pixels"] += int(made.changed.sum())
        return self._derived.write(plan, table, images, findings, counts)


def _removed(finding: Mapping[str, Any], flags: np.ndarray) -> bool:
    """Whether a known flag is one of those that were removed: half of it lies in one's box."""
    box = np.array([[finding[name] for name in "xywh"]])
    return bool((shared_areas(box, flags) >= 0.5 * box[:, 2:].prod(axis=1)).any())
