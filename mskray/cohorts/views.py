"""A cohort seen in another way, without a byte written: splits exchanged or joined, patients dealt, others added.

    cohort.exchange()             validation and test change places
    cohort.merged()               train holds train and validation; validation stays readable, its images are learned
    cohort.folds(5, seed=0)[2]    validation is the third of five folds of train's and validation's patients, train
                                  the other four; test is not there, so that no search can look at it
    add(cohort, other, task)      train holds the train split of another cohort too (`mskray.cohorts.added`)

A view is a `Cohort` like any other: its manifest lists the view's shards, their rows and counts, and its content hash
is its own, so that nothing learned from a view is taken for another's. Nothing of it is ever stored: `View` says how
to come to it from the cohort on disk (`Cohort.through`). A shard whose patients lie on both sides of a fold becomes
two `Part`s, which carry the rows that they keep: whoever holds one can read it, and no identifier is read for that.
A `Part` of another cohort also says where that lies.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from mskray.cohorts.schema import MISSING, Counts, Manifest, Shard, SplitCount, Task, content_hash, count_labels
from mskray.errors import UserError

LEARNED = ("train", "validation")
"""What folds are dealt from, and what `merged` joins."""
_SCALE = 1 << 48


@dataclass(frozen=True)
class Fold:
    """Fold `number`, from 0, of `count`; another seed deals otherwise."""

    number: int
    count: int
    seed: int


class Addition(BaseModel):
    """A cohort whose train split is learned beside that of the main one.

    Args:
        uri, content_hash: of the cohort.
        images: of its train split that were taken.
        replaced: images of the main train split that gave way, because these show the same with a label of their own.
        left_out: images that were not taken, because they or others of their patient are held out.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    uri: str
    content_hash: str
    images: int
    replaced: int
    left_out: int


@dataclass(frozen=True)
class View:
    """How a cohort is seen: its splits exchanged or not, then merged, as one fold, or neither, then others added.

    Args:
        alone: content hash of the view before anything was added; "" where nothing was.
    """

    exchanged: bool = False
    merged: bool = False
    fold: Fold | None = None
    added: tuple[Addition, ...] = ()
    alone: str = ""

    def __str__(self) -> str:
        said = ["validation and test exchanged"] if self.exchanged else []
        said += ["train and validation merged"] if self.merged else []
        if self.fold:
            said.append(f"fold {self.fold.number + 1} of {self.fold.count} (seed {self.fold.seed})")
        said += [f"{each.uri} added" for each in self.added]
        return ", ".join(said) or "as it is"

    def exchange(self) -> "View":
        self._check_open("exchanged")
        return replace(self, exchanged=not self.exchanged)

    def merge(self) -> "View":
        self._check_open("merged")
        return replace(self, merged=True)

    def deal(self, fold: Fold) -> "View":
        self._check_open("dealt to folds")
        return replace(self, fold=fold)

    def add(self, addition: Addition, before: str) -> "View":
        """Add a cohort to a view whose content hash was `before`."""
        return replace(self, added=(*self.added, addition), alone=self.alone or before)

    def _check_open(self, what: str) -> None:
        if self.merged or self.fold or self.added:
            raise ValueError(f"a cohort that is already seen with {self} cannot be {what}")


AS_IS = View()
"""As it is on disk."""


class Part(Shard):
    """Some rows of a stored shard; `rows` are those that are kept.

    Args:
        stored: rows of the object.
        kept: a bit for each of them, as `numpy.packbits` packs them.
        home: URI of the cohort whose shard it is; "" for the one that is seen.
        lacks: columns that the object does not have; they read as missing.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_bytes="base64")

    stored: int
    kept: bytes
    home: str = ""
    lacks: tuple[str, ...] = ()

    @property
    def mask(self) -> np.ndarray:
        """Which rows are kept: (stored,) bool."""
        return np.unpackbits(np.frombuffer(self.kept, np.uint8), count=self.stored).astype(bool)


def kept(shard: Shard, stored: pa.Table) -> pa.Table:
    """Return the shard's rows of what is stored of it. Raises UserError where that has changed."""
    if not isinstance(shard, Part):
        return stored
    if len(stored) != shard.stored:
        raise UserError(f"shard {shard.path} has {len(stored)} rows, {shard.stored} were written: run the ingest again")
    return stored.filter(pa.array(shard.mask))


def exchanged(before: Manifest) -> Manifest:
    """The manifest with validation and test exchanged."""
    names = {"validation": "test", "test": "validation"}
    shards = tuple(_moved(shard, names.get(shard.split, shard.split)) for shard in before.shards)
    splits = {names.get(split, split): count for split, count in before.counts.splits.items()}
    return _manifest(before, shards, before.counts.model_copy(update={"splits": splits}))


def merged(before: Manifest, where: str) -> Manifest:
    """The manifest whose train split holds the validation split too. Raises UserError where one of them is missing.

    Args:
        where: the cohort, for the message.
    """
    splits = before.counts.splits
    if not set(LEARNED) <= set(splits):
        raise UserError(f"cohort {where} has no {' and '.join(LEARNED)} split to merge (it has {', '.join(splits)})")
    train, validation = (splits[name] for name in LEARNED)
    both = {name: _added(labels, validation.labels.get(name, {})) for name, labels in train.labels.items()}
    whole = SplitCount(
        images=train.images + validation.images,
        studies=train.studies + validation.studies,
        patients=train.patients + validation.patients,  # no patient is in two splits of a cohort
        labels=both,
    )
    joined = [_moved(shard, "train") for split in LEARNED for shard in before.shards if shard.split == split]
    shards = (*joined, *(shard for shard in before.shards if shard.split != "train"))
    return _manifest(before, shards, before.counts.model_copy(update={"splits": {**splits, "train": whole}}))


def folds(
    before: Manifest, shards: Sequence[Shard], rows: pa.Table, count: int, seed: int, where: str
) -> list[Manifest]:
    """Deal the patients of some shards to folds.

    Args:
        shards: those of train and validation.
        rows: patient_id, study_id and the columns of all tasks of their rows, in the order of the shards.
        where: the cohort, for the message.
    Returns:
        The manifest of each fold.
    Raises:
        UserError: fewer patients than folds, or fewer than two folds.
    """
    patients, codes = np.unique(rows["patient_id"].to_numpy().astype(str), return_inverse=True)
    if count < 2:
        raise UserError(f"cohort {where}: {count} folds leave nothing to learn from: ask for 2 or more")
    if len(patients) < count:
        raise UserError(
            f"cohort {where}: {len(patients)} patients cannot be dealt to {count} folds: ask for fewer folds, or "
            "ingest more patients"
        )
    fold = deal(patients.tolist(), _amounts(rows, codes, before.tasks), count, seed)[codes]
    return [_fold(before, shards, rows, fold == number) for number in range(count)]


def deal(patients: Sequence[str], amounts: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Deal patients to folds that are alike in all they hold: (n,) fold of each, 0 to count − 1.

    What is kept small is Σ over columns of Σ over folds of (the fold's share of the column)²: least where every fold
    has the same share of the patients, the images, and the images of each class of each task. Patients come one after
    the other and each goes to the fold that makes the sum grow least: which first deals those who hold much of
    something rare, and evens out the numbers with the others. Among patients whose largest share is alike, to a factor
    of two, the order is that of a seeded hash. All in whole numbers: every machine deals the same.

    Args:
        patients: distinct identifiers, at least `count`; with a column of ones no fold stays empty.
        amounts: (n, columns) int64, what each patient holds of each.
    """
    amounts = amounts[:, amounts.any(axis=0)]
    totals = amounts.sum(axis=0)
    weights = np.maximum(_SCALE // np.square(totals), 1)
    rarest = np.where(amounts > 0, totals // np.maximum(amounts, 1), totals.max()).min(axis=1)
    rarity = np.frexp(rarest)[1]  # bits of a whole number
    hashes = [hashlib.sha256(f"{seed}:{patient}".encode()).digest() for patient in patients]
    held = np.zeros((count, len(totals)), np.int64)
    result = np.empty(len(patients), np.int64)
    for patient in sorted(range(len(patients)), key=lambda each: (rarity[each], hashes[each])):
        result[patient] = np.argmin(held @ (amounts[patient] * weights))
        held[result[patient]] += amounts[patient]
    return result


def _amounts(rows: pa.Table, codes: np.ndarray, tasks: Sequence[Task]) -> np.ndarray:
    """What each of n patients holds: (n, columns) int64: one patient, images, images of each class and of none."""
    count = int(codes.max()) + 1
    columns = [np.ones(count, np.int64), np.bincount(codes)]
    for task in tasks:
        labels = rows[task.column].fill_null(MISSING).to_numpy()
        columns += [np.bincount(codes[labels == label], minlength=count) for label in np.unique(labels)]
    return np.stack(columns, axis=1).astype(np.int64)


def _fold(before: Manifest, shards: Sequence[Shard], rows: pa.Table, held: np.ndarray) -> Manifest:
    """The manifest whose validation split has the rows in `held` (rows,) and whose train split has the others."""
    ends = np.cumsum([shard.rows for shard in shards])[:-1]
    parts: list[Shard] = []
    splits = {}
    for split, mask in zip(LEARNED, (~held, held), strict=True):
        of_split = [part(shard, split, here) for shard, here in zip(shards, np.split(mask, ends), strict=True)]
        parts += [each for each in of_split if each.rows]
        inside = rows.filter(pa.array(mask))
        splits[split] = SplitCount(
            images=len(inside),
            studies=len(inside["study_id"].unique()),
            patients=len(inside["patient_id"].unique()),
            labels={task.name: count_labels(inside[task.column], task) for task in before.tasks},
        )
    images, quarantined = len(rows), before.counts.quarantined
    counts = Counts(listed=images + quarantined, images=images, quarantined=quarantined, splits=splits)
    return of_parts(before, parts, counts)


def of_parts(before: Manifest, parts: Sequence[Shard], counts: Counts) -> Manifest:
    """The manifest of a view that keeps some rows of its shards."""
    found = _manifest(before, parts, counts)
    bits = [part.kept.hex() if isinstance(part, Part) else "" for part in parts]
    digest = hashlib.sha256(json.dumps([found.content_hash, bits]).encode()).hexdigest()
    return found.model_copy(update={"content_hash": digest})


def part(shard: Shard, split: str, mask: np.ndarray, home: str = "", lacks: Sequence[str] = ()) -> Shard:
    """The rows of a shard in `mask` (rows,), in a split; the shard itself where they are all of it.

    Args:
        home, lacks: of a shard of another cohort, see `Part`.
    """
    if mask.all() and not home:
        return _moved(shard, split)
    whole, of, without = mask, home, tuple(lacks)
    if isinstance(shard, Part):  # the mask is of the rows that it keeps
        whole = shard.mask
        whole[whole] = mask
        of, without = (home, without) if home else (shard.home, shard.lacks)
    facts = {**shard.model_dump(include=set(Shard.model_fields)), "split": split, "rows": int(mask.sum())}
    return Part(**facts, stored=len(whole), kept=np.packbits(whole).tobytes(), home=of, lacks=without)


def _moved(shard: Shard, split: str) -> Shard:
    return shard.model_copy(update={"split": split})


def _manifest(before: Manifest, shards: Sequence[Shard], counts: Counts) -> Manifest:
    digest = content_hash(before.tasks, before.image, shards)
    return before.model_copy(update={"shards": tuple(shards), "counts": counts, "content_hash": digest})


def _added(one: dict[str, int], other: dict[str, int]) -> dict[str, int]:
    return {
        name: one.get(name, 0) + other.get(name, 0) for name in [*one, *(name for name in other if name not in one)]
    }
