"""From a source's listing to shards: who is who (keyed), which split, which shard, and what each shard must hold.

Runs on the driver before any pixel is read, in memory that does not grow with the number of images but for a byte an
image and the plan of each shard: what is listed lies on disk, by study (`mskray.cohorts.spill`), is decided about in
thin records (`dealing`), and is read back a part at a time, sorted, cut and kept on disk as the shards will hold it. A
source that must see its whole listing first, such as `dicom`, holds that beside it.

A shard is a range of study hashes within a split: 2^k equal ranges, k the least that keeps shards below their size.
Rows of a study stay together, the order is that of the hashes (already random), and a new study changes one shard.
A shard's plan is a hash over all that decides its bytes (rows, fingerprints of their files, format, key): a shard
with the same plan need not be written again.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mskray.cohorts.dealing import DOUBLED, MOVED, Dealt, deal
from mskray.cohorts.listing import Listing, Quarantined
from mskray.cohorts.schema import LEDGER, SPLITS, Fractions, Task
from mskray.cohorts.sources import Item, Rejected
from mskray.cohorts.spill import HELD_ROWS, Batches, Spill
from mskray.imaging.deidentify import Pseudonymiser

__all__ = ["INGEST_VERSION", "Plan", "Quarantined", "ShardPlan", "make_plan"]

# Raise it when the same file would become other pixels or columns, or be refused: every shard is then written anew.
INGEST_VERSION = 2
SHARD_BYTES = 16 * 2**20
_ORDER = [(name, "ascending") for name in ("study_id", "view_index", "instance_id")]


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """One shard to be.

    Args:
        number: its range among the ranges of the split.
        plan: hash over all that decides its bytes.
        start, rows: where its rows stand among those of the whole plan.
    """

    split: str
    number: int
    plan: str
    start: int
    rows: int

    @property
    def path(self) -> str:
        """Where the shard lies, below the cohort."""
        return f"split={self.split}/part-{self.number:05d}-{self.plan}.parquet"

    @property
    def ledger(self) -> str:
        """Where its entry lies, below the cohort."""
        return f"{LEDGER}/{self.split}/{self.number:05d}-{self.plan}.json"


@dataclass(frozen=True)
class Plan:
    """What an ingest has to do. Its rows may lie in temporary files, which go when it does (`close`).

    Args:
        shards: by split and number.
        quarantined: what listing and splitting refused.
        own_splits: whether some image came with a split of the source.
        assigned: whether some patient was assigned here.
        images, studies: planned.
        spill: where its rows are.
    """

    shards: tuple[ShardPlan, ...]
    quarantined: tuple[Quarantined, ...]
    own_splits: bool
    assigned: bool
    images: int
    studies: int
    spill: Spill
    _schema: pa.Schema
    _rows: Batches
    _numbers: np.ndarray

    @property
    def listed(self) -> int:
        """Inputs in all."""
        return self.images + len(self.quarantined)

    def rows(self, shard: ShardPlan, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of a shard of this plan, an image each: columns of the listing, without what no image has, and
        `split`."""
        starts, numbers = self._numbers
        number = int(numbers[np.searchsorted(starts, shard.start)])
        return self._rows.read(number, None if columns is None else list(columns))

    def parts(self, columns: Sequence[str] | None = None) -> Iterator[tuple[ShardPlan, pa.Table]]:
        """Each shard with its rows."""
        return ((shard, self.rows(shard, columns)) for shard in self.shards)

    @property
    def table(self) -> pa.Table:
        """All rows at once, in the order of the shards: for those who know that they are few."""
        return pa.concat_tables([self._schema.empty_table(), *(part for _, part in self.parts())]).combine_chunks()

    def close(self) -> None:
        """Delete its temporary files."""
        self.spill.close()


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
    held: int = HELD_ROWS,
    planned: Callable[[int, int], None] = lambda _done, _all: None,
) -> Plan:
    """List, key, split and cut into shards.

    Args:
        fractions: shares for patients without a split of their own.
        resplit: forget the source's splits and assign every patient.
        image_bytes: bytes of one stored image.
        shard_rows: most rows of a shard, on average.
        context: all else that decides a shard's bytes (source, options, format, key fingerprint).
        held: rows, or patients, that are kept in memory; what is more goes to disk.
        planned: told of images planned, and how many there are, from time to time.
    Raises:
        UserError: no room for temporary files, and what the source raises.
    """
    spill = Spill()
    try:
        listing = Listing(tasks, keys, spill, held)
        for item in items:
            listing.add(item)
        listing.end()
        dealt = deal(listing, spill, fractions, seed, resplit)
        most_rows = max(1, min(shard_rows, SHARD_BYTES // image_bytes))
        return _Cutting(listing, dealt, spill, most_rows, context).plan(planned)
    except BaseException:
        spill.close()
        raise


class _Cutting:
    """Cuts the listed rows, which come in the order of study hashes, into the shards of each split."""

    def __init__(self, listing: Listing, dealt: Dealt, spill: Spill, most_rows: int, context: dict[str, Any]) -> None:
        self._listing, self._dealt, self._spill = listing, dealt, spill
        self._settings = json.dumps(context, sort_keys=True).encode()
        counts = np.bincount(dealt.states, minlength=len(SPLITS))
        self._images = int(counts[: len(SPLITS)].sum())
        self._bits = {
            split: max(0, int(np.ceil(np.log2(counts[code] / most_rows)))) if counts[code] else 0
            for code, split in enumerate(SPLITS)
        }
        self._left_out = self._empty_columns()
        self._rows = Batches(spill, "planned", listing.held)
        self._open: dict[str, tuple[int, list[pa.Table]]] = {}
        self._made: dict[str, list[tuple[int, str, int, int]]] = {split: [] for split in sorted(SPLITS)}
        self._quarantined = listing.quarantined
        self._studies = 0

    def plan(self, told: Callable[[int, int], None]) -> Plan:
        done = 0
        for part in self._listing.rows.parts(last=True):
            self._cut(part)
            done += part.num_rows
            told(done, self._listing.count)
        for split in SPLITS:
            self._close(split)
        shards, numbers, start = [], [], 0
        for split, made in self._made.items():
            for number, plan, rows, place in made:
                shards.append(ShardPlan(split, number, plan, start, rows))
                numbers.append((start, place))
                start += rows
        return Plan(
            tuple(shards),
            tuple(self._quarantined),
            self._dealt.own_splits,
            self._dealt.assigned,
            self._images,
            self._studies,
            self._spill,
            self._planned(self._listing.schema.empty_table(), SPLITS[0]).schema,
            self._rows,
            np.array(numbers, np.int64).reshape(-1, 2).T,
        )

    def _empty_columns(self) -> list[str]:
        """Columns that are left out because no image has them: such a source has the plans that it always had."""
        findings, addresses = self._listing.findings, self._listing.addresses
        if self._dealt.doubled and (findings or addresses):
            findings = addresses = 0
            for part in self._listing.rows.parts():
                part = part.filter(pa.array(self._dealt.states[part["seq"].to_numpy()] != DOUBLED))
                findings += pc.sum(pc.list_value_length(part["findings"])).as_py() or 0
                addresses += part.num_rows - part["address"].null_count
        return [name for name, images in (("findings", findings), ("address", addresses)) if not images]

    def _cut(self, part: pa.Table) -> None:
        states = self._dealt.states[part["seq"].to_numpy()]
        self._refuse(part, states)
        part = _numbered(part.filter(pa.array(states != DOUBLED)))
        states = states[states != DOUBLED]
        for code, split in enumerate(SPLITS):
            rows = self._planned(part.filter(pa.array(states == code)).sort_by(_ORDER).combine_chunks(), split)
            if not rows.num_rows:
                continue
            studies = rows["study_id"].to_pylist()
            self._studies += len(set(studies))
            numbers = np.fromiter((int(study[:8], 16) for study in studies), np.int64) >> (32 - self._bits[split])
            starts = np.flatnonzero(np.diff(numbers, prepend=-1)).tolist()
            for start, end in zip(starts, [*starts[1:], len(numbers)], strict=True):
                self._add(split, int(numbers[start]), rows.slice(start, end - start))

    def _planned(self, rows: pa.Table, split: str) -> pa.Table:
        rows = rows.drop_columns(["own", "seq", *self._left_out])
        return rows.append_column("split", pa.array([split] * rows.num_rows, pa.string()))

    def _refuse(self, part: pa.Table, states: np.ndarray) -> None:
        out = states >= MOVED
        if not out.any():
            return
        named = part.select(["path", "row", "own"]).filter(pa.array(out)).to_pylist()
        for row, state in zip(named, states[out].tolist(), strict=True):
            if state == DOUBLED:
                reason, stage = "the same instance is listed more than once", "listing"
            else:
                reason = f"its patient is in {SPLITS[state - MOVED]} with more images: no patient may be in two splits"
                stage = "split"
            self._quarantined.append(Quarantined(row["path"], reason, stage, row["own"], row["row"]))

    def _add(self, split: str, number: int, rows: pa.Table) -> None:
        if split in self._open and self._open[split][0] != number:
            self._close(split)
        self._open.setdefault(split, (number, []))[1].append(rows)

    def _close(self, split: str) -> None:
        if split not in self._open:
            return
        number, tables = self._open.pop(split)
        rows = pa.concat_tables(tables)
        # `repr` of words and numbers is as exact as JSON here, and five times as fast.
        digest = hashlib.sha256(self._settings + repr(rows.to_pydict()).encode()).hexdigest()
        self._made[split].append((number, digest[:16], rows.num_rows, self._rows.append(rows)))


def _numbered(part: pa.Table) -> pa.Table:
    """Number the images whose place in their study is that in the listing."""
    if not part["view_index"].null_count:
        return part
    order = part.select(["study_id", "seq"]).append_column("place", pa.array(np.arange(part.num_rows)))
    order = order.sort_by([("study_id", "ascending"), ("seq", "ascending")])
    studies, places = order["study_id"].to_numpy(), order["place"].to_numpy()
    starts = np.flatnonzero(np.concatenate([[True], studies[1:] != studies[:-1]]))
    within = np.arange(len(studies)) - np.repeat(starts, np.diff([*starts, len(studies)]))
    numbers = np.empty(len(studies), np.int32)
    numbers[places] = within
    column = pc.coalesce(part["view_index"], pa.chunked_array([pa.array(numbers, pa.int32())]))
    return part.set_column(part.schema.get_field_index("view_index"), part.schema.field("view_index"), column)
