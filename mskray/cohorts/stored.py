"""Where a shard's object lies, and its columns as they are stored.

A shard of a view may be of another cohort (`mskray.cohorts.views.Part`), which may lack columns that this one has.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mskray.cohorts.schema import Shard, is_pixels, pixels
from mskray.cohorts.views import Part
from mskray.storage import Location, locate
from mskray.storage.tables import read_parquet


def place_of(cohort: Location, shard: Shard) -> Location:
    """Where the object of a cohort's shard lies."""
    home = locate(shard.home) if isinstance(shard, Part) and shard.home else cohort
    return home.join(shard.path)


def stored_columns(place: Location, shard: Shard, schema: pa.Schema, columns: Sequence[str]) -> pa.Table:
    """Columns of all rows of the object at `place`; those that it lacks are missing in every row.

    Args:
        schema: of the cohort that the columns are read for.
    """
    lacks = set(shard.lacks) if isinstance(shard, Part) else set()
    wanted = [name for name in columns if name not in lacks]
    found = _read(place, schema, wanted or ["instance_id"])
    if not lacks & set(columns):
        return found
    for name in lacks & set(columns):
        found = found.append_column(schema.field(name), pa.nulls(len(found), schema.field(name).type))
    return found.select(list(columns))


def some_images(place: Location, field: pa.Field, rows: np.ndarray) -> dict[int, np.ndarray]:
    """The images of some rows of the object at `place`, by row, reading only the row groups that hold them."""
    if not len(rows):
        return {}

    def read(file: pq.ParquetFile) -> dict[int, np.ndarray]:
        found: dict[int, np.ndarray] = {}
        start = 0
        for group in range(file.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            inside = rows[(rows >= start) & (rows < start + count)]
            if len(inside):
                images = pixels(file.read_row_group(group, [field.name])[field.name], field)
                found.update({int(row): images[row - start].copy() for row in inside})
            start += count
        return found

    return read_parquet(place, read)


def _read(place: Location, schema: pa.Schema, columns: list[str]) -> pa.Table:
    # With pixels nearly the whole object is needed: one request. Without, a few ranges of it.
    if any(is_pixels(schema.field(name)) for name in columns):
        return pq.read_table(pa.BufferReader(place.read_bytes()), columns=columns, use_threads=False)
    return read_parquet(place, lambda file: file.read(columns, use_threads=False))
