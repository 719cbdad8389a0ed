"""Cohorts learned together: the train split of one gets the images of another's, such as what readers corrected.

    mskray train jobs/knees.yaml --add s3://msk/cohorts/feedback

    seen, addition = add(cohort, other, cohort.task("abnormality"))

Only `train` grows: what a model is chosen and judged by stays that of the main cohort. Images are told apart by the
SHA-256 of their stored pixels, which are the same for the same picture in the same format, whichever file it came in.

- An image that validation or test holds too is left out, and with it every image of its patient.
- Where both cohorts were made with the same hash key, so is every image of a patient who is held out; pseudonyms under
  different keys say nothing of each other, and then a held-out patient is recognised by a held-out image alone. So it
  is with what readers corrected: a store of feedback has a key of its own.
- An image of the train split that comes again with a label of the task gives way: the later label counts, and no image
  is learned twice. An image that comes again without a label changes nothing.

Pixels are read of those images alone whose files had the rows and columns of an added one.
"""

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np

from mskray.cohorts.read import Cohort
from mskray.cohorts.schema import MISSING, Counts, Manifest, Shard, SplitCount, Task, count_labels
from mskray.cohorts.views import Addition, of_parts, part
from mskray.errors import UserError

TRAIN, HELD_OUT = "train", ("validation", "test")
_SIZE = ("rows", "columns")


def add(cohort: Cohort, other: Cohort, task: Task) -> tuple[Cohort, Addition]:
    """See a cohort with another one's train split added to its own.

    Args:
        cohort: as it is on disk or as a view; validation is not held out where it is merged with train.
        other: as it is on disk; its validation and test splits are not used.
        task: of `cohort`, what is going to be learned.
    Returns:
        The view, and what became of the images.
    Raises:
        UserError: the other cohort has no train split, no such task, other classes, or images of another format; or
            nothing of it is left to learn.
    """
    _check_alike(cohort, other, task)
    rows = other.metadata(TRAIN, ["patient_id", *_SIZE, task.column])
    sizes = set(zip(*(rows[name].to_pylist() for name in _SIZE), strict=True))
    content = np.concatenate(list(_contents(other, TRAIN, sizes)))
    patients = rows["patient_id"].to_numpy().astype(str)
    labelled = rows[task.column].fill_null(MISSING).to_numpy() != MISSING
    taken = ~np.isin(patients, _held_out(cohort, other, patients, content, sizes))
    if not (taken & labelled).any():
        raise UserError(
            f"cohort {other.location} adds nothing: of {len(taken)} images {int((~taken).sum())} are held out by "
            f"{cohort.location} or of a patient who is, the others have no label of {task.name}"
        )
    again = set(content[taken & labelled])
    given_way = np.concatenate([np.isin(each, list(again)) for each in _contents(cohort, TRAIN, sizes)])
    addition = Addition(
        uri=str(other.location),
        content_hash=other.content_hash,
        images=int(taken.sum()),
        replaced=int(given_way.sum()),
        left_out=int((~taken).sum()),
    )
    manifest = _joined(cohort, other, ~given_way, taken)
    return Cohort(cohort.location, manifest, cohort.view.add(addition, cohort.content_hash)), addition


def _check_alike(cohort: Cohort, other: Cohort, task: Task) -> None:
    """Raise UserError where the other cohort's images or labels cannot stand beside the cohort's."""
    main, added = cohort.manifest, other.manifest
    if other.content_hash in (cohort.alone().content_hash, *(each.content_hash for each in cohort.view.added)):
        raise UserError(f"cohort {other.location} is learned already: add another one")
    if (main.kind, main.vertebrae) != (added.kind, added.vertebrae):
        raise UserError(f"cohort {other.location} holds {added.kind}s, {cohort.location} {main.kind}s: add one like it")
    if main.image != added.image:
        stack = "" if main.image.slices else f" with {ingest_options(main)}"
        raise UserError(
            f"cohort {other.location} has images of {added.image}, {cohort.location} of {main.image}: ingest it{stack} "
            "to the same format"
        )
    if TRAIN not in other.splits:
        raise UserError(f"cohort {other.location} has no train split to add (it has {', '.join(other.splits)})")
    found = other.task(task.name)
    if found.classes != task.classes:
        raise UserError(
            f"cohort {other.location} tells {', '.join(found.classes)} apart in task {task.name}, {cohort.location} "
            f"{', '.join(task.classes)}: ingest it with the same classes in the same order"
        )


def ingest_options(manifest: Manifest) -> str:
    """The options of `mskray ingest` that make pictures of a cohort's format."""
    image = manifest.image
    return f"--size {image.size} --bits {16 if image.dtype == 'uint16' else 8} --fit {image.fit}"


def _held_out(
    cohort: Cohort, other: Cohort, patients: np.ndarray, content: np.ndarray, sizes: set[tuple[int, int]]
) -> list[str]:
    """Those of the added patients of whom something is held out."""
    splits = [split for split in HELD_OUT if split in cohort.splits]
    if cohort.view.merged:
        splits.remove("validation")
    found: set[str] = set()
    for split in splits:
        for held in _contents(cohort, split, sizes):
            found.update(patients[np.isin(content, held[held != ""])])
        if cohort.manifest.hash_key_fingerprint == other.manifest.hash_key_fingerprint:
            found.update(cohort.metadata(split, ["patient_id"])["patient_id"].to_pylist())
    return sorted(found)


def _contents(cohort: Cohort, split: str, sizes: set[tuple[int, int]]) -> Iterator[np.ndarray]:
    """SHA-256 of the stored pixels, (n,) for each shard of a split; "" for files of none of the sizes, not read."""
    for shard in cohort.shards(split):
        shapes = cohort.read_shard(shard, _SIZE)
        hits = np.fromiter((each in sizes for each in zip(*(shapes[name] for name in _SIZE), strict=True)), bool)
        digests = np.full(len(hits), "", object)
        if hits.any():
            images = cohort.read_shard(shard, ["image"])["image"]
            digests[hits] = [hashlib.sha256(images[row]).hexdigest() for row in np.flatnonzero(hits)]
        yield digests


def _joined(cohort: Cohort, other: Cohort, kept: np.ndarray, taken: np.ndarray) -> Manifest:
    """The manifest whose train split has rows of both.

    Args:
        kept: which rows of the cohort's train split, (n,) bool.
        taken: which rows of the other's, (m,) bool.
    """
    before = cohort.manifest
    known = {task.name: task.classes for task in other.tasks}
    # A task of other classes is another question: its labels are not read.
    lacks = [task.column for task in cohort.tasks if known.get(task.name) != task.classes]
    own = _parts(cohort.shards(TRAIN), kept)
    others = _parts(other.shards(TRAIN), taken, str(other.location), lacks)
    rest = [shard for shard in before.shards if shard.split != TRAIN]
    parts = [each for each in (*own, *others, *rest) if each.rows]
    # A mask that not all images have is none to learn from.
    made = of_parts(before.model_copy(update={"masks": before.masks and other.manifest.masks}), parts, before.counts)
    # Through the view, rows of both read alike, whatever tasks the other lacks.
    columns = ["patient_id", "study_id", *(task.column for task in cohort.tasks)]
    rows = Cohort(cohort.location, made, cohort.view).metadata(TRAIN, columns)
    train = SplitCount(
        images=len(rows),
        studies=len(rows["study_id"].unique()),
        patients=len(rows["patient_id"].unique()),
        labels={task.name: count_labels(rows[task.column], task) for task in cohort.tasks},
    )
    splits = {**before.counts.splits, TRAIN: train}
    images = before.counts.images + len(rows) - before.counts.splits[TRAIN].images
    whole = Counts(
        listed=images + before.counts.quarantined, images=images, quarantined=before.counts.quarantined, splits=splits
    )
    return made.model_copy(update={"counts": whole})


def _parts(shards: Sequence[Shard], mask: np.ndarray, home: str = "", lacks: Sequence[str] = ()) -> list[Shard]:
    ends = np.cumsum([shard.rows for shard in shards])[:-1]
    cut = zip(shards, np.split(mask, ends), strict=True)
    return [part(shard, TRAIN, here, home, lacks) for shard, here in cut]
