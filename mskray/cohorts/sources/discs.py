"""A CSV with one row a disc: the documented way to bring graded discs of any volumes.

    mskray ingest discs discs.csv --out URI corners=corners.json

| column | |
| --- | --- |
| `path` | required: NIfTI or MetaImage file, or folder of a DICOM series, as seen from the CSV's folder (or `root`) |
| `patient_id` | required: who it is; never stored, only its keyed hash |
| `level` | required: T12/L1 … L5/S1 |
| `split` | train, validation (or val, valid) or test; a patient without one is assigned |
| `label_<task>` | class names, or their index with `classes.<task>`; empty = not known |
| `slice`, `upper_x0`, `upper_y0`, … `lower_y3` | corners of the bodies above and below, and their mid-sagittal slice |

The path `.` is that folder itself; of a folder with several volumes one is named as in `corners.json`, `folder#2`.
Corners are those of `corners.json` (`mskray find-vertebrae` writes it; its paths are those of the CSV), or the 17
columns: upper anterior, upper posterior, lower posterior, lower anterior, in pixels of the volume in sagittal order. A
row's own columns go before the file.

SpineNet's tasks (`label_pfirrmann`, `label_narrowing`, …) have its classes where the column holds one of their names
(Pfirrmann's grades also as 1 to 5), and rows with other words are refused; all other tasks are as in the source
`manifest`. Pfirrmann and narrowing are grades in order, unless their classes are words that only the alphabet orders. A
column `label_<task>_second` is a second reading of the same discs, with the classes of the first.

Discs of a volume without a sacrum in view, whose levels are a guess, are taken and counted (`corners.json` notes it).
Volumes of which a DICOM header says that text is drawn into them (BurnedInAnnotation) go to quarantine, as in
`manifest`.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from mskray.cohorts.corners import VolumeCorners, read_corners
from mskray.cohorts.schema import SECOND, Task
from mskray.cohorts.sources import BURNED_IN, Item, Rejected, register
from mskray.cohorts.sources._discs import BODY_PART, Address, DiscSource, disc_path, read_level, volume_name
from mskray.cohorts.sources._paths import fingerprints, inside, numbered
from mskray.cohorts.sources._table import SPLIT_NAMES, Labels, Row, Table, find_labels, read_table
from mskray.config import Section, setting
from mskray.errors import UserError
from mskray.imaging.spine import DISCS, GRADED_TASKS, SPINE_TASKS, Vertebra
from mskray.storage import Location, locate

_COLUMNS = {body: [f"{body}_{axis}{number}" for number in range(4) for axis in "xy"] for body in ("upper", "lower")}
_NONE = VolumeCorners({})
_ALL = ["slice", *_COLUMNS["upper"], *_COLUMNS["lower"]]


class DiscsOptions(Section):
    root: str = setting("", "folder or URI that paths are relative to; empty: the folder of the CSV")
    corners: str = setting("", "corners.json with the bodies of these volumes; empty: corners are columns of the CSV")
    classes: dict[str, list[str]] = setting({}, "task → class names in the order of their index")
    allow_burned_in: bool = setting(False, BURNED_IN)


@register
class Discs(DiscSource[DiscsOptions]):
    name = "discs"
    summary = "a CSV with path, patient_id, level and labels of discs; corners from columns or corners.json"
    Options = DiscsOptions
    split_note = "splits as in the CSV's column, where it has one"

    def root(self, location: Location, options: DiscsOptions) -> Location:
        if not location.is_file():
            raise UserError(f"{location} is not a file: the source discs reads a CSV")
        return locate(options.root) if options.root else locate(location.uri.rpartition("/")[0])

    def allows_burned_in(self, options: DiscsOptions) -> bool:
        return options.allow_burned_in

    def tasks(self, location: Location | None, options: DiscsOptions) -> tuple[Task, ...]:
        assert location is not None
        return _read(location, options)[1].tasks

    def items(self, location: Location | None, options: DiscsOptions) -> Iterator[Item | Rejected]:
        assert location is not None
        table, labels = _read(location, options)
        corners = read_corners(locate(options.corners)) if options.corners else {}
        root = self.root(location, options)
        for line, reason in table.malformed:
            yield Rejected(f"{table.name} line {line}", reason, line)
        named = {name for _, row in table.rows for name in (row["path"], numbered(row["path"])[0])}
        files = fingerprints(root, {path for name in named if (path := inside(name, root)) is not None})
        if "." in files:
            # Of this folder's files the tables are no slices, and change for other reasons.
            tables = {location.uri, options.corners and locate(options.corners).uri}
            files["."] = {path: mark for path, mark in files["."].items() if root.join(path).uri not in tables}
            # The folder itself goes by its name, and so do its volumes.
            own = {name: each for name, each in corners.items() if numbered(name)[0] == root.name}
            corners = {f".{name.removeprefix(root.name)}": each for name, each in own.items()} | corners
        seen: set[str] = set()
        for line, row in table.rows:
            try:
                path, number = _named(row["path"], root, files)
                if path is None:
                    raise ValueError("no path" if not row["path"] else f"path is not inside {root}")
                item = _item(row, line, _Place(path, number, files.get(path, {})), corners, labels)
                if item.path in seen:
                    raise ValueError("listed more than once")
                seen.add(item.path)
                yield item
            except ValueError as error:
                yield Rejected(f"{row['path'] or table.name} line {line}", str(error), line)


def _read(location: Location, options: DiscsOptions) -> tuple[Table, Labels]:
    table = read_table(location, ("path", "patient_id", "level"))
    missing = [name for name in _ALL if name not in table.columns]
    if missing and not options.corners:
        raise UserError(
            f"{table.name} has no corners: give corners=corners.json, or the column(s) {', '.join(missing[:3])}"
            + (", …" if len(missing) > 3 else "")
        )
    table = _roman(table, options.classes)
    known = {
        name: list(classes)
        for task, classes in SPINE_TASKS.items()
        for name in (task, f"{task}{SECOND}")
        if (column := f"label_{name}") in table.columns
        and not {row[column].lower() for _, row in table.rows}.isdisjoint(name.lower() for name in classes)
    }
    labels = find_labels(table, {**known, **options.classes})
    return table, replace(labels, tasks=tuple(_graded(task, options.classes) for task in labels.tasks))


def _roman(table: Table, given: Collection[str]) -> Table:
    """The table with Pfirrmann's grades in Roman numerals, where they are written as 1 to 5.

    Raises:
        UserError: another number, which would be taken for the index of a class.
    """
    names = SPINE_TASKS["pfirrmann"]
    columns = [
        column
        for task in ("pfirrmann", f"pfirrmann{SECOND}")
        if (column := f"label_{task}") in table.columns and {task, "pfirrmann"}.isdisjoint(given)
    ]
    rows = []
    for line, row in table.rows:
        for column in columns:
            if row[column].isdecimal():
                grade = int(row[column])
                if not 1 <= grade <= len(names):
                    raise UserError(
                        f"{table.name} line {line}: {column} is {grade}: Pfirrmann's grades are {', '.join(names)}, or "
                        f"1 to {len(names)}; other grades are named in order with classes.pfirrmann"
                    )
                row = {**row, column: names[grade - 1]}
        rows.append((line, row))
    return replace(table, rows=tuple(rows))


def _graded(task: Task, given: Collection[str]) -> Task:
    """The task, ordinal where its classes are grades in order: the known ones, numbers without a gap, or as given."""
    name = task.name.removesuffix(SECOND)
    numbers = [int(each) for each in task.classes if each.isdecimal()]
    in_order = (
        task.classes == SPINE_TASKS.get(name)
        or not {name, task.name}.isdisjoint(given)
        or (bool(numbers) and numbers == list(range(numbers[0], numbers[0] + len(task.classes))))
    )
    return task.model_copy(update={"ordinal": name in GRADED_TASKS and in_order})


@dataclass(frozen=True)
class _Place:
    """A path below the root, the number of the volume in it, and its files with their fingerprints."""

    path: str
    number: int | None
    files: Mapping[str, str]


def _named(text: str, root: Location, files: Collection[str]) -> tuple[str | None, int | None]:
    """The path below the root that a cell names, and the volume in it; what has such a name itself goes first."""
    whole = inside(text, root)
    name, number = numbered(text)
    return (whole, None) if number is None or whole in files else (inside(name, root), number)


def _item(row: Row, line: int, place: _Place, corners: Mapping[str, VolumeCorners], labels: Labels) -> Item:
    """One row as a disc. Raises ValueError with the reason."""
    if not row["patient_id"]:
        raise ValueError("no patient_id")
    level, split = read_level(row["level"]), row.get("split", "").lower()
    if split and split not in SPLIT_NAMES:
        raise ValueError(f"split {row['split']!r} is none of train, validation, test")
    if not place.files:
        raise ValueError("there is no such file or folder of files")
    volume = volume_name(place.path, place.number)
    found = _own_corners(row, level) or corners.get(volume, _NONE)
    if not found.bodies:
        first = f"{volume}#1"
        several = f": it is one of several, such as {first}" if first in corners else ""
        raise ValueError(f"no corners of this volume{several}")
    address = Address.between(place.files, level, found, place.number)
    return Item(
        path=disc_path(volume, level),
        patient_id=row["patient_id"],
        study_id=volume,
        fingerprint=address.fingerprint,
        labels=labels.of(row),
        body_part=BODY_PART,
        view=level,
        view_index=DISCS.index(level),
        split=SPLIT_NAMES.get(split),
        row=line,
        address=str(address),
    )


def _own_corners(row: Row, level: str) -> VolumeCorners | None:
    """Bodies that the row itself states, None where it states none. Raises ValueError for a part of them."""
    words = [row.get(name, "") for name in _ALL]
    if not any(words):
        return None
    try:
        place, *numbers = (float(word) for word in words)
    except ValueError:
        wrong = next(name for name, word in zip(_ALL, words, strict=True) if not _is_number(word))
        raise ValueError(f"{wrong} {row.get(wrong, '')!r} is not a number") from None
    points = np.array(numbers).reshape(2, 4, 2)
    named = zip(level.split("/"), points, strict=True)
    return VolumeCorners({name: Vertebra(name, place, corners) for name, corners in named})


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
