"""A table of images as Parquet: the columns of `_table`, of any number of rows, of which one row group is in memory.

A row group that does not arrive whole from a store is read again (`mskray.storage.tables.row_groups`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from mskray.cohorts.sources._table import Row
from mskray.errors import UserError
from mskray.storage import Location
from mskray.storage.tables import parquet_footer, row_groups

SUFFIX = ".parquet"
_BATCH = 8192


@dataclass(frozen=True)
class ParquetTable:
    """A Parquet file whose columns hold text, whole numbers or nothing.

    Args:
        columns: lower case, as `names` has them in the file.
        rows: how many.
    """

    location: Location
    columns: tuple[str, ...]
    names: tuple[str, ...]
    rows: int

    @property
    def name(self) -> str:
        return self.location.name

    def read(self, columns: Sequence[str]) -> Iterator[tuple[int, Row]]:
        """Rows counted from 1, with the values of some columns; blanks stripped, "" where a value is missing."""
        number = 0
        for group in self._groups(columns):
            for batch in group.to_batches(_BATCH):
                for values in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                    number += 1
                    yield number, dict(zip(columns, values, strict=True))

    def values(self, columns: Sequence[str]) -> Iterator[str]:
        """The values of some columns, each once a row group."""
        for group in self._groups(columns):
            for column in group.columns:
                yield from pc.unique(column).to_pylist()

    def _groups(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        stored = [self.names[self.columns.index(name)] for name in columns]
        for group in row_groups(self.location, stored):
            texts = [self._text(group[name]) for name in stored]
            yield pa.table(texts, names=list(columns))

    def _text(self, column: pa.ChunkedArray) -> pa.ChunkedArray:
        kind = column.type
        if pa.types.is_dictionary(kind):
            column, kind = column.cast(kind.value_type), kind.value_type
        if pa.types.is_boolean(kind) or _whole(column, kind):  # pandas makes a float of a whole number beside a gap
            column = column.cast(pa.int64())
        return pc.utf8_trim_whitespace(pc.fill_null(column.cast(pa.string()), ""))


def read_parquet_table(location: Location, required: Sequence[str]) -> ParquetTable:
    """Look at a Parquet file's columns.

    Raises:
        UserError: no Parquet file, columns missing (all are named) or twice.
    """
    footer = parquet_footer(location)
    names = tuple(footer.schema.to_arrow_schema().names)
    columns = tuple(name.strip().lower() for name in names)
    missing = [name for name in required if name not in columns]
    if missing:
        found = ", ".join(columns) or "none"
        raise UserError(f"{location} lacks the column(s) {', '.join(missing)}: it has {found}")
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if twice:
        raise UserError(f"{location} has the column(s) {', '.join(twice)} more than once")
    return ParquetTable(location, columns, names, footer.num_rows)


def check_types(table: ParquetTable, columns: Sequence[str]) -> None:
    """Raise UserError where a column that is read holds neither text nor numbers."""
    schema = parquet_footer(table.location).schema.to_arrow_schema()
    for name in columns:
        kind = schema.field(table.names[table.columns.index(name)]).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)
        if not (text or pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
            raise UserError(f"{table.location} column {name} holds {kind}: write it as text or whole numbers")


def _whole(column: pa.ChunkedArray, kind: pa.DataType) -> bool:
    if not pa.types.is_floating(kind):
        return False
    whole = pc.and_(pc.is_finite(column), pc.equal(pc.floor(column), column))
    return pc.all(whole).as_py() is not False
