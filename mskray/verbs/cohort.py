"""`mskray ingest` in words, and `mskray cohort show URI`: counts, quarantine, and a contact sheet as PNG."""

import io
from collections import Counter

from PIL import Image

from mskray.cohorts import Cohort, open_cohort
from mskray.cohorts.contact_sheet import contact_sheet, summary
from mskray.cohorts.ingest import IngestSummary
from mskray.progress import duration
from mskray.storage import check_access, locate
from mskray.verbs.tables import table

SHEET = "contact-sheet.png"


def show(uri: str, sheet: str | None = None, split: str | None = None, seed: int = 0) -> str:
    """Return a description of a cohort and write its contact sheet.

    Args:
        sheet: where the PNG goes; into the cohort's folder when None.
        split: split to draw from; the first when None.
    Raises:
        UserError: no cohort, no such split, or no place to write to.
    """
    location = locate(uri)
    check_access(location)
    cohort = open_cohort(location)
    target = locate(sheet) if sheet else location.join(SHEET)
    check_access(target, write=True)
    described = [_facts(cohort), _counts(cohort), _quarantine(cohort)]
    drawn = contact_sheet(cohort, split or cohort.splits[0], seed=seed)
    buffer = io.BytesIO()
    Image.fromarray(drawn).save(buffer, format="PNG")
    target.write_bytes(buffer.getvalue())
    return "\n\n".join([*described, f"contact sheet: {target}"])


def ingest_lines(done: IngestSummary) -> str:
    """Say what an ingest found and did, the counts first: they add up."""
    counts = done.counts
    splits = ", ".join(
        f"{name} {each.images:,} images of {each.patients:,} patients" for name, each in counts.splits.items()
    )
    lines = [
        f"{counts.listed:,} listed = {counts.images:,} in shards + {counts.quarantined:,} in quarantine",
        *(f"  {count:,} × {reason}" for reason, count in list(done.reasons.items())[:10]),
        *(f"  {count:,} in shards: {note}" for note, count in list(done.notes.items())[:10]),
        splits,
        f"{done.written:,} shards written, {done.kept:,} kept, {done.deleted:,} deleted; "
        f"{done.decoded:,} images decoded in {duration(done.seconds)}",
    ]
    if done.studies_lost:
        lines.append(f"{done.studies_lost:,} studies lost all their images to quarantine")
    if done.changed or done.added or done.removed:
        lines.append(
            f"since the last ingest: {done.changed:,} files changed, {done.added:,} added, {done.removed:,} removed"
        )
    return "\n".join([*lines, f"cohort {done.location}  content {done.content_hash[:16]}"])


def _facts(cohort: Cohort) -> str:
    manifest, image = cohort.manifest, cohort.image
    tasks = "; ".join(f"{task.name}: {', '.join(task.classes)}" for task in cohort.tasks) or "none"
    derived = manifest.derived_from
    origin = f", {derived.step} with {derived.bundle} of {derived.uri}" if derived else ""
    method = manifest.split.method + (f", {manifest.split.note}" if manifest.split.note else "")
    return "\n".join(
        [
            f"{cohort.location}  source {manifest.source}{origin}  content {manifest.content_hash[:16]}",
            f"images  {image}{', masks' if manifest.masks else ''}",
            f"tasks   {tasks}",
            f"splits  {method}",
        ]
    )


def _counts(cohort: Cohort) -> str:
    """Tables by split and part: what there is, then the images of each class, a table a task."""
    groups = summary(cohort)
    rows = [
        [group.split, group.body_part, f"{group.images:,}", f"{group.studies:,}", f"{group.patients:,}"]
        for group in groups
    ]
    tables = [table(["split", "part", "images", "studies", "patients"], rows)]
    for task in cohort.tasks:
        labels = [(group, group.labels[task.name]) for group in groups]
        rows = [
            [group.split, group.body_part, *(f"{counts.get(name, 0):,}" for name in (*task.classes, "missing"))]
            for group, counts in labels
        ]
        tables.append(f"{task.name}\n{table(['split', 'part', *task.classes, 'unlabelled'], rows)}")
    return "\n\n".join(tables)


def _quarantine(cohort: Cohort) -> str:
    rows = cohort.quarantine()
    if not len(rows):
        return "quarantine: empty"
    reasons = Counter(rows["reason"].to_pylist()).most_common(10)
    example = {reason: path for path, reason in zip(rows["path"].to_pylist(), rows["reason"].to_pylist(), strict=True)}
    listed = table(
        ["inputs", "reason", "for example"], [[f"{count:,}", reason, example[reason]] for reason, count in reasons]
    )
    return f"quarantine: {len(rows):,} inputs\n{listed}"
