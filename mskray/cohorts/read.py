"""Reading a cohort: the manifest checked, shards as arrays, columns without pixels, a Ray data set.

    cohort = open_cohort("s3://cohorts/knees")
    cohort.metadata("test", ["study_id", "label_abnormality"])     # pyarrow table, no pixel is read
    cohort.read_shard(cohort.shards("train")[0], ["image"])        # {"image": (n, size, size) uint8}

A `Cohort` is small and can be sent to workers; it holds no open file.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray.data

from mskray.cohorts.schema import (
    MANIFEST,
    MISSING,
    QUARANTINE,
    SCHEMA_VERSION,
    SPLITS,
    ImageFormat,
    Manifest,
    Shard,
    Task,
    content_hash,
    is_pixels,
    pixels,
    shard_schema,
)
from mskray.errors import UserError
from mskray.storage import Location, locate

_THREADS = 8


@dataclass(frozen=True)
class Cohort:
    """An opened cohort. Columns are those of `mskray.cohorts.schema.shard_schema`."""

    location: Location
    manifest: Manifest
    exchanged: bool = False
    """Whether this is the cohort with its validation and test splits exchanged (`exchange`)."""

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
            raise UserError(f"cohort {self.location} has no split {split!r}: it has {', '.join(self.splits)}")
        return tuple(shard for shard in self.manifest.shards if shard.split == split)

    def count(self, split: str) -> int:
        """Images of a split."""
        return sum(shard.rows for shard in self.shards(split))

    def exchange(self) -> "Cohort":
        """The same cohort with its validation and test splits exchanged: what was held out chooses, and the other way.

        Nothing is written. Its content hash is another one, so that nothing learned from it is taken for the other's.
        """
        before, names = self.manifest, {"validation": "test", "test": "validation"}
        shards = tuple(
            shard.model_copy(update={"split": names.get(shard.split, shard.split)}) for shard in before.shards
        )
        splits = {names.get(split, split): count for split, count in before.counts.splits.items()}
        counts = before.counts.model_copy(update={"splits": splits})
        digest = content_hash(before.tasks, before.image, shards)
        manifest = before.model_copy(update={"shards": shards, "counts": counts, "content_hash": digest})
        return Cohort(self.location, manifest, not self.exchanged)

    def read_shard(self, shard: Shard, columns: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Read one shard as arrays of its n rows.

        Args:
            columns: which to read; all by default.
        Returns:
            `image` (n, *shape) uint8 or uint16 and `mask` (n, *shape) uint8, contiguous; labels int32 with -1 for
            missing; spacings float32 with NaN for missing; strings as objects with None; `findings` as lists of
            {kind, x, y, w, h}, `vertebrae` as lists of {level, slice, x0, y0, … x3, y3}.
        """
        table = self._read(shard, self._known(columns))
        return {column.name: _array(table[column.name], column) for column in table.schema}

    def table(self, shard: Shard) -> pa.Table:
        """One shard as it is stored, all columns."""
        return self._read(shard, self.schema.names)

    def metadata(self, split: str, columns: Sequence[str] | None = None) -> pa.Table:
        """Columns of a whole split without pixels (all of them by default), rows in the order of the shards."""
        plain = [column.name for column in self.schema if not is_pixels(column)]
        wanted = plain if columns is None else self._known(columns)
        pictures = sorted(set(wanted) - set(plain))
        if pictures:
            raise ValueError(f"metadata holds no pixels: read {', '.join(pictures)} with read_shard or images")
        with ThreadPoolExecutor(_THREADS) as pool:
            tables = list(pool.map(lambda shard: self._read(shard, wanted), self.shards(split)))
        return pa.concat_tables(tables)

    def columns(self, split: str, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Columns of a whole split without pixels as arrays; rows as in `metadata`, values as in `read_shard`."""
        table = self.metadata(split, names)
        return {field.name: _array(table[field.name], field) for field in table.schema}

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

    def dataset(self, split: str, columns: Sequence[str] | None = None) -> ray.data.Dataset:
        """A Ray data set of a split's rows, one task a shard; values as in `read_shard`."""
        shards, wanted = self.shards(split), self._known(columns)

        def read(batch: Any) -> Iterator[Any]:
            for place in batch["shard"]:
                yield self.read_shard(shards[int(place)], wanted)

        places = ray.data.from_items(
            [{"shard": place} for place in range(len(shards))], override_num_blocks=len(shards)
        )
        return places.map_batches(read, batch_size=1)

    def quarantine(self) -> pa.Table:
        """What did not get in: path, reason, stage (listing, split, decode), split, row of the listing."""
        return pq.read_table(pa.BufferReader(self.location.join(QUARANTINE).read_bytes()))

    def verify(self) -> None:
        """Read every shard and compare it with its hash. Raises UserError that names the first that differs."""

        def check(shard: Shard) -> None:
            if hashlib.sha256(self.location.join(shard.path).read_bytes()).hexdigest() != shard.sha256:
                raise UserError(
                    f"shard {self.location.join(shard.path)} is not what was written: "
                    "delete it and run the ingest again"
                )

        # Few at a time: each holds a whole shard.
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(check, self.manifest.shards))

    def _known(self, columns: Sequence[str] | None) -> list[str]:
        names = self.schema.names
        unknown = [name for name in columns or () if name not in names]
        if unknown:
            raise UserError(f"cohort {self.location} has no column {', '.join(unknown)}: it has {', '.join(names)}")
        return names if columns is None else list(columns)

    def _read(self, shard: Shard, columns: list[str]) -> pa.Table:
        # With pixels nearly the whole object is needed: one request. Without, a few ranges of it.
        place = self.location.join(shard.path)
        if any(is_pixels(self.schema.field(name)) for name in columns):
            return pq.read_table(pa.BufferReader(place.read_bytes()), columns=columns, use_threads=False)
        return pq.read_table(place.path, filesystem=place.filesystem, columns=columns, partitioning=None)

    def _some_images(self, shard: Shard, wanted: set[str]) -> dict[str, np.ndarray]:
        names = self._read(shard, ["instance_id"])["instance_id"]
        hits = np.flatnonzero(pc.is_in(names, pa.array(sorted(wanted), pa.string())).to_numpy())
        if not len(hits):
            return {}
        place, found = self.location.join(shard.path), {}
        with pq.ParquetFile(place.path, filesystem=place.filesystem) as file:
            start = 0
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                inside = hits[(hits >= start) & (hits < start + rows)]
                if len(inside):
                    images = pixels(file.read_row_group(group, ["image"])["image"], self.schema.field("image"))
                    found.update({names[int(hit)].as_py(): images[hit - start].copy() for hit in inside})
                start += rows
        return found


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
        data = place.read_json()
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


def _array(column: pa.ChunkedArray, field: pa.Field) -> np.ndarray:
    if is_pixels(field):
        return pixels(column, field)
    if pa.types.is_integer(field.type):
        return column.fill_null(MISSING).to_numpy()
    if pa.types.is_floating(field.type):
        return column.fill_null(float("nan")).to_numpy()
    if pa.types.is_string(field.type):
        return column.to_numpy()
    values = np.empty(len(column), dtype=object)
    values[:] = column.to_pylist()
    return values
