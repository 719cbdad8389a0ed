"""A foreign layout becomes a cohort: each image is decoded once, here, and never again in training.

    mskray ingest SOURCE IN --out URI

1. The driver lists the source, keys the identifiers, splits by patient and plans shards (`plan.py`).
2. Ray tasks write the shards (`scheduling.py`, `shards.py`); those that the ledger already has are skipped.
3. `quarantine.parquet` and, last, `cohort.json` are written; then shards of older plans are deleted.

What can go wrong halfway leaves either the old cohort whole or no `cohort.json` at all, and running the same command
again does what is left. A second run without a change writes nothing. A changed, new or removed file changes the
plans of its shard alone, except where the number of images crosses a power of two of shards: then all are written.

Two ingests of the same source with the same settings into one place at once are harmless: both write the same bytes
under the same names. With different inputs the one that ends first may delete what it knows to be stale; the other
finds its shards missing before it writes `cohort.json`, and says so.
"""

import os
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mskray.cluster import session
from mskray.cohorts import changes, ledger
from mskray.cohorts.build import Build, IngestSettings
from mskray.cohorts.plan import Plan, ShardPlan
from mskray.cohorts.reach import check_everywhere
from mskray.cohorts.read import read_manifest
from mskray.cohorts.schema import MANIFEST, Counts, Manifest
from mskray.cohorts.shards import Entry
from mskray.cohorts.sources import Source, get_source
from mskray.cohorts.splits import check_fractions
from mskray.config import validate
from mskray.errors import UserError
from mskray.imaging.deidentify import Pseudonymiser, load_key
from mskray.progress import Progress, Report
from mskray.storage import Location, check_access, locate


@dataclass(frozen=True)
class IngestSummary:
    """What an ingest found and did.

    Args:
        counts: listed = images + quarantined, and each split.
        reasons: reason → inputs in quarantine, the most frequent first.
        notes: what is worth knowing of images that are in shards → how many, the most frequent first.
        written, kept, deleted: shards written now, already there, and deleted because their plan is old.
        changed, added, removed: source files, against the last finished ingest into the same place.
        studies_lost: studies that were planned and of which no image was left.
        decoded: images decoded now; `seconds` is the time of the whole ingest.
    """

    location: Location
    counts: Counts
    reasons: dict[str, int]
    notes: dict[str, int]
    written: int
    kept: int
    deleted: int
    changed: int
    added: int
    removed: int
    studies_lost: int
    decoded: int
    seconds: float
    content_hash: str


def ingest(
    source: str | Source[Any],
    location_in: str | Path | Location | None,
    location_out: str | Path | Location,
    options: Mapping[str, Any] | None = None,
    settings: IngestSettings | Mapping[str, Any] | None = None,
    report: Report | None = None,
    key: bytes | None = None,
    names: str | Path | Location | None = None,
) -> IngestSummary:
    """Make or bring up to date the cohort at `location_out`.

    Args:
        source: a source or its name (`mskray.cohorts.sources.source_names`).
        location_in: where the source's files are; None for a source that needs none.
        options: the source's own options.
        key: key of the identifiers' hashes; without it that of `mskray.imaging.deidentify.load_key`.
        names: CSV to write of which path has which identifiers, outside the cohort; none without it.
    Raises:
        UserError: anything that the user can mend, before work starts where it can be known then. When every input
            is in quarantine, `quarantine.parquet` is there and `cohort.json` is not.
    """
    started = time.monotonic()
    run = _prepare(source, location_in, location_out, options, settings, report or (lambda _: None), key)
    told = None if names is None else _names(locate(names), run)
    with closing(run.plan()) as plan:
        if told is not None:
            changes.write_names(told, plan)
        return _carry_out(run, plan, started)


def _carry_out(run: Build, plan: Plan, started: float) -> IngestSummary:
    objects = ledger.existing(run.out)
    kept = ledger.finished(run.out, plan.shards, objects)
    todo = [shard for shard in plan.shards if shard not in kept]
    written: dict[ShardPlan, Entry] = {}
    if todo:
        with session():
            check_everywhere([] if run.root is None else [run.root], [run.out])
            written = run.write(plan, todo)
    entries = {**kept, **written}
    quarantined = [*plan.quarantined, *(row for entry in entries.values() for row in entry.quarantined)]
    ledger.write_quarantine(run.out, quarantined)
    reasons = dict(Counter(row.reason for row in quarantined).most_common())
    manifest = run.manifest(plan, entries, quarantined, reasons)
    found, files = changes.compare_files(run.out, plan)
    run.commit(manifest)
    changes.write_files(run.out, files)
    return IngestSummary(
        location=run.out,
        counts=manifest.counts,
        reasons=reasons,
        notes=dict(sum((Counter(entry.notes) for entry in entries.values()), Counter[str]()).most_common()),
        written=len(written),
        kept=len(kept),
        deleted=ledger.delete_stale(run.out, objects, plan.shards),
        changed=found["changed"],
        added=found["added"],
        removed=found["removed"],
        studies_lost=plan.studies - sum(split.studies for split in manifest.counts.splits.values()),
        decoded=sum(entry.rows for entry in written.values()),
        seconds=time.monotonic() - started,
        content_hash=manifest.content_hash,
    )


def _prepare(
    source: str | Source[Any],
    location_in: str | Path | Location | None,
    location_out: str | Path | Location,
    options: Mapping[str, Any] | None,
    settings: IngestSettings | Mapping[str, Any] | None,
    report: Report,
    key: bytes | None,
) -> Build:
    """Check everything that can be checked before work starts."""
    source = get_source(source) if isinstance(source, str) else source
    checked = validate(source.Options, options or {}, f"options of {source.name}")
    if not isinstance(settings, IngestSettings):
        settings = validate(IngestSettings, settings or {}, "ingest")
    if settings.split_fractions is not None:
        check_fractions(settings.split_fractions)
    given, out = None if location_in is None else locate(location_in), locate(location_out)
    if source.located:
        if given is None:
            raise UserError(
                f"source {source.name} needs the place of its files: mskray ingest {source.name} IN --out URI"
            )
        _check_apart(given, out)
        check_access(given)
    check_access(out, write=True)
    run = Build(
        source=source,
        options=checked,
        settings=settings,
        given=given,
        root=source.root(given, checked) if source.located and given is not None else None,
        out=out,
        tasks=source.tasks(given, checked),
        keys=Pseudonymiser(load_key(lambda text: report(Progress(text))) if key is None else key),
        report=report,
        before=read_manifest(out) if out.join(MANIFEST).is_file() else None,
    )
    if run.before is not None:
        _check_same(run, run.before)
    return run


def _names(names: Location, run: Build) -> Location:
    """Where names go. Raises UserError for a place inside the cohort, which holds none, or among its files."""
    for place, what in ((run.out, "the cohort, which holds no names"), (run.root, "the source")):
        if place is not None and f"{names.uri}/".startswith(f"{place.uri}/"):
            raise UserError(f"--names {names} is inside {what}: give a place elsewhere")
    check_access(names, write=True)
    return names


def _check_apart(given: Location, out: Location) -> None:
    inner, outer = (os.path.realpath(place.path) for place in (out, given))
    if type(given.filesystem) is type(out.filesystem) and f"{inner}/".startswith(f"{outer}/"):
        raise UserError(f"the cohort {out} would lie inside its source {given}: give another place with --out")


def _check_same(run: Build, before: Manifest) -> None:
    """Refuse to turn an existing cohort into another one under the feet of whoever uses it."""
    fractions = run.settings.split_fractions
    if before.derived_from is not None:
        raise UserError(
            f"{run.out} holds a cohort that {before.derived_from.step} made of {before.derived_from.uri}: give another "
            "--out, or delete that cohort first"
        )
    now: dict[str, tuple[Any, Any]] = {
        "source": (before.source, run.source.name),
        "source options": (_completed(run, before), run.options.model_dump(mode="json")),
        "image settings": (before.image, run.image),
        "hash key": (before.hash_key_fingerprint, run.keys.fingerprint),
        "split seed": (before.split.seed, run.settings.seed),
    }
    if before.split.fractions is not None:
        now["split fractions"] = (before.split.fractions, run.fractions)
    elif fractions is not None:
        now["split fractions"] = ("the source's own splits", fractions)
    for what, (old, new) in now.items():
        if old != new:
            remedy = "use the key that made it (MSKRAY_HASH_KEY)" if what == "hash key" else "keep to that"
            raise UserError(
                f"{run.out} already holds a cohort made with {what} {old} (now {new}): "
                f"{remedy}, give another --out, or delete that cohort first"
            )


def _completed(run: Build, before: Manifest) -> dict[str, Any]:
    """A cohort's source options with the defaults of those that came after it; as they are where they are no longer."""
    if before.source == run.source.name:
        with suppress(ValidationError):
            return run.source.Options.model_validate(before.source_options).model_dump(mode="json")
    return before.source_options
