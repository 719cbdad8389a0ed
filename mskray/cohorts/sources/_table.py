"""CSV files that people write by hand: read once, checked as a whole, labels turned into class indices.

`_parquet` reads the same columns from Parquet, a row group at a time.

Used by the sources `manifest` (one row an image), `discs` (one row a disc) and `dicom` (one row a labelled UID).
"""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pydantic import ValidationError

from mskray.cohorts.schema import ABNORMALITY, SECOND, Task
from mskray.errors import UserError
from mskray.storage import Location

_MOST_BYTES = 512 * 2**20
# More distinct values than this are not classes: most likely a column of identifiers or measurements.
_MOST_DISCOVERED = 50

#: What people call the splits.
SPLIT_NAMES = {
    "train": "train",
    "validation": "validation",
    "val": "validation",
    "valid": "validation",
    "test": "test",
}

Row = dict[str, str]


@dataclass(frozen=True)
class Table:
    """A CSV file with a header.

    Args:
        rows: (line in the file, values by column) with blanks stripped; "" where a value is missing.
        malformed: (line, reason) of rows that do not fit the header.
    """

    name: str
    columns: tuple[str, ...]
    rows: tuple[tuple[int, Row], ...]
    malformed: tuple[tuple[int, str], ...]

    def values(self, columns: Sequence[str]) -> Iterator[str]:
        """Every value of some columns."""
        return (row[name] for name in columns for _, row in self.rows)


class Labelled(Protocol):
    """What `find_labels` asks of a table, however it is read; `values` may leave repetitions out."""

    @property
    def name(self) -> str: ...
    @property
    def columns(self) -> tuple[str, ...]: ...
    def values(self, columns: Sequence[str]) -> Iterator[str]: ...


def read_table(location: Location, required: Sequence[str]) -> Table:
    """Read a CSV: UTF-8 with or without a byte order mark, comma separated, quoted as RFC 4180 says.

    Raises:
        UserError: not readable, empty, or columns missing, naming them all.
    """
    try:
        text = location.read_bytes(max_bytes=_MOST_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{location} is not UTF-8 text: save it as CSV (UTF-8, comma separated)") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        columns = tuple(name.strip().lower() for name in next(reader, []))
        missing = [name for name in required if name not in columns]
        if missing:
            found = ", ".join(columns) or "nothing"
            raise UserError(f"{location} lacks the column(s) {', '.join(missing)}: its first line has {found}")
        twice = sorted({name for name in columns if columns.count(name) > 1})
        if twice:
            raise UserError(f"{location} has the column(s) {', '.join(twice)} more than once")
        rows: list[tuple[int, Row]] = []
        malformed: list[tuple[int, str]] = []
        for values in reader:
            if not values:
                continue
            if len(values) > len(columns):
                malformed.append((reader.line_num, f"{len(values)} values for {len(columns)} columns"))
                continue
            padded = [*values, *[""] * (len(columns) - len(values))]
            rows.append((reader.line_num, {name: value.strip() for name, value in zip(columns, padded, strict=True)}))
    except csv.Error as error:
        raise UserError(f"{location} line {reader.line_num} is not valid CSV ({error}): repair it") from None
    return Table(location.name, columns, tuple(rows), tuple(malformed))


@dataclass(frozen=True)
class Labels:
    """Label columns of a table: `label` (abnormality), and `label_<task>` for any other task.

    Args:
        columns: task name → column.
        tasks: the label space, in the order of the columns.
    """

    columns: Mapping[str, str]
    tasks: tuple[Task, ...]
    _found: dict[tuple[str, str], int | None] = field(default_factory=dict, repr=False, compare=False)

    def of(self, row: Row) -> dict[str, int | None]:
        """Class indices of a row, None where the cell is empty. Raises ValueError with the reason."""
        return {task.name: self._index(task, row[self.columns[task.name]]) for task in self.tasks}

    def _index(self, task: Task, value: str) -> int | None:
        """As `_index`, looked up once for each word: to look is half of what a row of a large listing takes."""
        key = (task.name, value)
        if key not in self._found:
            self._found[key] = _index(task, value)
        return self._found[key]


def find_labels(table: Labelled, classes: Mapping[str, Sequence[str]]) -> Labels:
    """Find the label columns and their classes.

    Args:
        classes: task → class names in the order of their index; a task without them gets the sorted values of its
            column, `abnormality` is always normal, abnormal. A second reading (`<task>_second`) has the classes of the
            first, and where none are given the values of both.
    Raises:
        UserError: classes for a task without a column, or a column that holds no closed set of classes.
    """
    columns = {name.removeprefix("label_"): name for name in table.columns if name.startswith("label_")}
    if "label" in table.columns:
        columns = {ABNORMALITY.name: "label", **columns}
    unknown = sorted(set(classes) - set(columns))
    if unknown:
        raise UserError(
            f"classes are given for {', '.join(unknown)}, but {table.name} has no column label_{unknown[0]}"
        )
    tasks = []
    for name, column in columns.items():
        if name == ABNORMALITY.name and name not in classes:
            tasks.append(ABNORMALITY)
            continue
        readings = _readings(name, columns)
        given = next((classes[each] for each in (name, *readings) if each in classes), None)
        if given is None and ABNORMALITY.name in readings:
            given = ABNORMALITY.classes
        found = list(given or _distinct(table.values([columns[each] for each in readings])))
        if not given and not 2 <= len(found) <= _MOST_DISCOVERED:
            raise UserError(
                f"{table.name} column {column} has {len(found)} different values: a task needs 2 to "
                f"{_MOST_DISCOVERED} classes; remove the column or give its classes with classes.{name}"
            )
        try:
            tasks.append(Task(name=name, classes=tuple(found)))
        except ValidationError:
            raise UserError(
                f"{table.name} column {column}: a task is named in lower case letters, digits and _, "
                "and its 2 or more classes are distinct words"
            ) from None
    return Labels(columns, tuple(tasks))


def _readings(name: str, columns: Mapping[str, str]) -> list[str]:
    """The tasks that answer the same question: a task and the second reading of it, where there is one."""
    first = name.removesuffix(SECOND)
    return [each for each in (first, first + SECOND) if each in columns] if first in columns else [name]


def _distinct(values: Iterator[str]) -> list[str]:
    found = {value for value in values if value}
    return sorted(found, key=lambda value: (not value.isdecimal(), int(value) if value.isdecimal() else 0, value))


def _index(task: Task, value: str) -> int | None:
    """Class index of a cell: a class name in any case, or the index itself."""
    if not value:
        return None
    if value in task.classes:
        return task.classes.index(value)
    lowered = [name.lower() for name in task.classes]
    if value.lower() in lowered:
        return lowered.index(value.lower())
    # Where classes are numbers themselves, a number is a name and never an index.
    numbered = any(name.isdecimal() for name in task.classes)
    if value.isdecimal() and not numbered and int(value) < len(task.classes):
        return int(value)
    raise ValueError(f"{task.name} {value!r} is none of {', '.join(task.classes)}")
