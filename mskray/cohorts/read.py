"""Reading a cohort: the manifest checked, shards as arrays, columns without pixels.

    cohort = open_cohort("s3://cohorts/knees")
    cohort.metadata("test", ["study_id", "label_abnormality"])     # pyarrow table, no pixel is read
    cohort.read_shard(cohort.shards("train")[0], ["image"])        # {"image": (n, size, size) uint8}

A `Cohort` can be sent to workers; it holds no open file, and of each shard some 230 bytes.
"""

import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mskray.cohorts import views
from mskray.cohorts.schema import (
    MANIFEST,
    QUARANTINE,
    SCHEMA_VERSION,
    SPLITS,
    ImageFormat,
    Manifest,
    Shard,
    Task,
    as_array,
    is_pixels,
    shard_schema,
)
from mskray.cohorts.stored import place_of, some_images, stored_columns
from mskray.cohorts.views import AS_IS, Fold, Part, View, kept
from mskray.errors import UserError
from mskray.storage import Location, locate

_THREADS = 8
# `cohort.json` has some 230 bytes a shard: a hundred million radiographs are 400,000 shards.
_MOST_BYTES = 1 << 30


@dataclass(frozen=True)
class Cohort:
    """An opened cohort. Columns are those of `mskray.cohorts.schema.shard_schema`."""

    location: Location
    manifest: Manifest
    view: View = AS_IS
    """How it is seen: a view's manifest is its own (`mskray.cohorts.views`)."""

    @property
    def exchanged(self) -> bool:
        """Whether this is the cohort with its validation and test splits exchanged (`exchange`)."""
        return self.view.exchanged

    @property
    def tasks(self) -> tuple[Task, ...]:
        return self.manifest.tasks

    @property
    def image(self) -> ImageFormat:
        return self.manifest.image

    @property
    def content_hash(self) -> str:
        return self.manifest.content_hash

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that hold images, in the order train, validation, test."""
        return tuple(split for split in SPLITS if split in self.manifest.counts.splits)

    @cached_property
    def schema(self) -> pa.Schema:
        return shard_schema(self.image, self.tasks, self.manifest.masks, self.manifest.vertebrae)

    def task(self, name: str) -> Task:
        """Find a task, or raise UserError that names those there are."""
        for task in self.tasks:
            if task.name == name:
                return task
        names = ", ".join(task.name for task in self.tasks) or "none"
        raise UserError(f"cohort {self.location} has no task {name!r}: its tasks are {names}")

    def shards(self, split: str) -> tuple[Shard, ...]:
        """Shards of a split in a fixed order, or UserError that names the splits there are."""
        if split not in self.splits:
            raise UserError(
                f"cohort {self.location} has no split {split!r}: it has {', '.join(self.splits)} (mskray ingest "
                "--split-fractions makes others)"
            )
        return tuple(shard for shard in self.manifest.shards if shard.split == split)

    def count(self, split: str) -> int:
        """Images of a split."""
        return sum(shard.rows for shard in self.shards(split))

    def exchange(self) -> "Cohort":
        """The same cohort with its validation and test splits exchanged: what was held out chooses, and the other way.

        Nothing is written. Its content hash is another one, so that nothing learned from it is taken for the other's.
        """
        return Cohort(self.location, views.exchanged(self.manifest), self.view.exchange())

    def merged(self) -> "Cohort":
        """The same cohort whose split `train` holds train and validation, to learn from all but test.

        The split `validation` is there too; its images are learned now. Raises UserError where a split is missing.
        """
        return Cohort(self.location, views.merged(self.manifest, str(self.location)), self.view.merge())

    def folds(self, count: int, seed: int) -> "list[Cohort]":
        """Deal the patients of train and validation to folds: a cohort each, for cross-validation.

        `validation` is the fold, `train` all other patients of both; `test` is not there. Folds are alike in their
        classes and sizes (`views.deal`), and no patient is in two. Reads the labels of both splits, no pixel.

        Raises:
            UserError: fewer patients than folds, or no split to deal from.
        """
        seen = [self.view.deal(Fold(number, count, seed)) for number in range(count)]
        names = [split for split in views.LEARNED if split in self.splits] or ["train"]  # refused below
        shards = [shard for split in names for shard in self.shards(split)]
        columns = ["patient_id", "study_id", *(task.column for task in self.tasks)]
        rows = pa.concat_tables([self.metadata(split, columns) for split in names])
        made = views.folds(self.manifest, shards, rows, count, seed, str(self.location))
        return [Cohort(self.location, *each) for each in zip(made, seen, strict=True)]

    def fold(self, number: int, count: int, seed: int) -> "Cohort":
        """One of `folds`, counted from 0."""
        if not 0 <= number < count:
            raise ValueError(f"fold {number} of {count}: folds are counted from 0")
        return self.folds(count, seed)[number]

    def alone(self) -> "Cohort":
        """The same view of the cohort without what was added to its train split."""
        if not self.view.added:
            return self
        return open_cohort(self.location, check=False).through(replace(self.view, added=(), alone=""))

    def without_shards(self) -> "Cohort":
        """The same without its list of shards: for `read_shard` and `table` of those that are sent with it.

        Of many shards the list is long (`infra/SCALING.md`), and whoever reads one needs no other.
        """
        return replace(self, manifest=self.manifest.model_copy(update={"shards": ()}))

    def through(self, view: View) -> "Cohort":
        """See a cohort as it is on disk in another way, but for what is added (`mskray.cohorts.added`)."""
        seen = self.exchange() if view.exchanged else self
        seen = seen.merged() if view.merged else seen
        return seen.fold(view.fold.number, view.fold.count, view.fold.seed) if view.fold else seen

    def read_shard(self, shard: Shard, columns: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Read one shard as arrays of its n rows.

        Args:
            columns: which to read; all by default.
        Returns:
            `image` (n, *shape) uint8 or uint16 and `mask` (n, *shape) uint8, contiguous; labels int32 with -1 for
            missing; spacings float32 with NaN for missing; strings as objects with None; `findings` as lists of
            {kind, x, y, w, h}, `vertebrae` as lists of {level, slice, x0, y0, … x3, y3}.
        """
        table = self._read(shard, self.known(columns))
        return {column.name: as_array(table[column.name], column) for column in table.schema}

    def table(self, shard: Shard) -> pa.Table:
        """One shard, all columns as they are stored."""
        return self._read(shard, self.schema.names)

    def metadata(self, split: str, columns: Sequence[str] | None = None) -> pa.Table:
        """Columns of a whole split without pixels (all of them by default), rows in the order of the shards."""
        plain = [column.name for column in self.schema if not is_pixels(column)]
        wanted = plain if columns is None else self.known(columns)
        pictures = sorted(set(wanted) - set(plain))
        if pictures:
            raise ValueError(f"metadata holds no pixels: read {', '.join(pictures)} with read_shard or images")
        with ThreadPoolExecutor(_THREADS) as pool:
            tables = list(pool.map(lambda shard: self._read(shard, wanted), self.shards(split)))
        return pa.concat_tables(tables)

    def columns(self, split: str, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Columns of a whole split without pixels as arrays; rows as in `metadata`, values as in `read_shard`."""
        table = self.metadata(split, names)
        return {field.name: as_array(table[field.name], field) for field in table.schema}

    def images(self, split: str, instance_ids: Iterable[str]) -> dict[str, np.ndarray]:
        """The images of some instances, reading only the row groups that hold them."""
        wanted = set(instance_ids)
        with ThreadPoolExecutor(_THREADS) as pool:
            parts = pool.map(lambda shard: self._some_images(shard, wanted), self.shards(split))
            found = {name: image for part in parts for name, image in part.items()}
        missing = sorted(wanted - set(found))
        if missing:
            raise UserError(f"split {split} of {self.location} lacks {len(missing)} of the images (first {missing[0]})")
        return found

    def quarantine(self) -> pa.Table:
        """What did not get in: path, reason, stage (listing, split, decode), split, row of the listing."""
        return pq.read_table(pa.BufferReader(self.location.join(QUARANTINE).read_bytes()))

    def verify(self) -> None:
        """Read every shard and compare it with its hash. Raises UserError that names the first that differs."""

        def check(shard: Shard) -> None:
            place = place_of(self.location, shard)
            if hashlib.sha256(place.read_bytes()).hexdigest() != shard.sha256:
                raise UserError(f"shard {place} is not what was written: delete it and run the ingest again")

        # Few at a time: each holds a whole shard.
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(check, {shard.path: shard for shard in self.manifest.shards}.values()))

    def known(self, columns: Sequence[str] | None) -> list[str]:
        """These columns, all where None is given. Raises UserError for one that the cohort lacks."""
        names = self.schema.names
        unknown = [name for name in columns or () if name not in names]
        if unknown:
            raise UserError(f"cohort {self.location} has no column {', '.join(unknown)}: it has {', '.join(names)}")
        return names if columns is None else list(columns)

    def _read(self, shard: Shard, columns: list[str]) -> pa.Table:
        return kept(shard, self._stored(shard, columns))

    def _stored(self, shard: Shard, columns: list[str]) -> pa.Table:
        return stored_columns(place_of(self.location, shard), shard, self.schema, columns)

    def _some_images(self, shard: Shard, wanted: set[str]) -> dict[str, np.ndarray]:
        names = self._stored(shard, ["instance_id"])["instance_id"]
        hit = pc.is_in(names, pa.array(sorted(wanted), pa.string())).to_numpy()
        hits = np.flatnonzero(hit & shard.mask if isinstance(shard, Part) else hit)
        images = some_images(place_of(self.location, shard), self.schema.field("image"), hits)
        return {names[row].as_py(): image for row, image in images.items()}


def open_cohort(place: str | Path | Location, check: bool = True) -> Cohort:
    """Open a cohort.

    Args:
        check: also list the shards, so that a missing one shows here and not in the middle of an epoch.
    Raises:
        UserError: no cohort, an unfinished one, one of a newer schema, or missing shards.
    """
    location = locate(place)
    cohort = Cohort(location, read_manifest(location))
    if check:
        sizes = {
            f"split={split}/{entry.path}": entry.size
            for split in cohort.splits
            for entry in location.join(f"split={split}").walk()
        }
        missing = [shard.path for shard in cohort.manifest.shards if sizes.get(shard.path) != shard.bytes]
        if missing:
            raise UserError(
                f"cohort {location} lacks {len(missing)} of its {len(cohort.manifest.shards)} shards or they have "
                f"another size (first {missing[0]}): run its ingest again"
            )
    return cohort


def read_manifest(location: Location) -> Manifest:
    """Read and check `cohort.json`. Raises UserError."""
    place = location.join(MANIFEST)
    if not place.is_file():
        raise UserError(f"{location} has no {MANIFEST}: it is no cohort, or its ingest did not end; run mskray ingest")
    try:
        data = place.read_json(_MOST_BYTES)
        version = data["schema_version"] if isinstance(data, dict) else None
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise UserError(
                f"cohort {location} has schema version {version}, this mskray reads up to {SCHEMA_VERSION}: "
                "update mskray, or ingest again with this one"
            )
        return Manifest.model_validate(data)
    except (ValueError, KeyError) as error:
        what = str(error).splitlines()[0] if isinstance(error, ValueError) else f"no {error}"
        raise UserError(f"{place} is not a valid cohort manifest ({what}): run the ingest again") from None
