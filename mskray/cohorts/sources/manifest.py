"""A CSV or Parquet file with one row an image: the documented way to bring any data.

    mskray ingest manifest images.csv --out URI
    mskray ingest manifest images.parquet --out URI       of any number of rows

| column | |
| --- | --- |
| `path` | required: PNG, JPEG, TIFF or DICOM file, relative to the CSV's folder (or to `root`) |
| `patient_id` | required: who it is; never stored, only its keyed hash |
| `study_id` | images of one examination; without it, a patient's images of one body part are one study |
| `body_part` | e.g. WRIST; UNKNOWN where empty |
| `view` | e.g. PA, LATERAL |
| `view_index` | 0-based place in the study; without it, the order of the rows |
| `laterality` | L or R |
| `split` | train, validation (or val, valid) or test; a patient without one is assigned |
| `label` | task abnormality: normal or abnormal, or 0 or 1; empty = not known |
| `label_<task>` | any other task: class names (sorted) or, with `classes.<task>`, also their index |
| `fingerprint` | Parquet only: what changes with the file, such as its size and ETag; the files are then not listed |

UTF-8 with or without byte order mark, commas, quotes as in RFC 4180. Other columns are not read: a task of your own
needs its prefix, `label_fracture` and not `fracture`. A row that cannot be used goes to quarantine with its line; a
missing column or an unreadable file is one line before any work. DICOM files that say that text is drawn into them
(BurnedInAnnotation) go to quarantine, because it may be a name, unless `allow_burned_in=true`.

A Parquet file (named `*.parquet`) has these columns as text or whole numbers, and is read a row group at a time: with a
column `fingerprint`, an ingest of a hundred million rows asks the store for nothing but the file itself and the images.
A row whose image is not there goes to quarantine when it is to be read. Row groups of some 100,000 rows are good.

`annotations=boxes.json` adds the boxes of a COCO file: `file_name` is the image's path below the root, or ends
as that does in its last folders and its own name; where two images or two file names share that end, neither has boxes.
A category is a kind of finding; `kinds.marker=flag` renames one. Images that only
the COCO file knows go to quarantine.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace

from mskray.cohorts.schema import Task
from mskray.cohorts.sources import BURNED_IN, UNKNOWN_PART, Item, Rejected, Source, register
from mskray.cohorts.sources._boxes import CocoBoxes
from mskray.cohorts.sources._files import file_index
from mskray.cohorts.sources._parquet import SUFFIX, ParquetTable, check_types, read_parquet_table
from mskray.cohorts.sources._paths import fingerprints, inside
from mskray.cohorts.sources._table import SPLIT_NAMES, Labels, Row, Table, find_labels, read_table
from mskray.config import Section, setting
from mskray.errors import UserError
from mskray.storage import Location, locate

_COLUMNS = ("path", "patient_id", "study_id", "body_part", "view", "view_index", "laterality", "split", "fingerprint")
_SIDES = {"": None, "l": "L", "left": "L", "r": "R", "right": "R"}


class ManifestOptions(Section):
    root: str = setting("", "folder or URI that paths are relative to; empty: the folder of the CSV or Parquet file")
    classes: dict[str, list[str]] = setting({}, "task → class names in the order of their index")
    annotations: str = setting("", "URI of a COCO JSON file with the images' boxes; empty: none")
    kinds: dict[str, str] = setting({}, "COCO category → kind of finding (flag, implant, …) where they differ")
    allow_burned_in: bool = setting(False, BURNED_IN)


@register
class ManifestCsv(Source[ManifestOptions]):
    name = "manifest"
    summary = "a CSV or Parquet file with path, patient_id and, where known, study_id, body_part, view, split, label, …"
    Options = ManifestOptions
    split_note = "splits as in the CSV's column, where it has one"

    def root(self, location: Location, options: ManifestOptions) -> Location:
        if not location.is_file():
            raise UserError(f"{location} is not a file: the source manifest reads a CSV or a Parquet file")
        return locate(options.root) if options.root else locate(location.uri.rpartition("/")[0])

    def tasks(self, location: Location | None, options: ManifestOptions) -> tuple[Task, ...]:
        assert location is not None
        if _is_parquet(location):
            return _read_parquet(location, options)[1].tasks
        return _read(location, options)[1].tasks

    def allows_burned_in(self, options: ManifestOptions) -> bool:
        return options.allow_burned_in

    def items(self, location: Location | None, options: ManifestOptions) -> Iterator[Item | Rejected]:
        assert location is not None
        root = self.root(location, options)
        if _is_parquet(location):
            yield from _parquet_items(location, root, options)
            return
        table, labels = _read(location, options)
        for line, reason in table.malformed:
            yield Rejected(f"{table.name} line {line}", reason, line)
        paths = {path for _, row in table.rows if (path := inside(row["path"], root)) is not None}
        boxes = CocoBoxes(locate(options.annotations), options.kinds, paths) if options.annotations else None
        files = {path: marks[path] for path, marks in fingerprints(root, paths).items() if path in marks}
        seen: set[str] = set()
        views: Counter[tuple[str, str]] = Counter()
        for line, row in table.rows:
            path = inside(row["path"], root)
            try:
                if path is None:
                    raise ValueError("no path" if not row["path"] else f"path is not inside {root}")
                if path in seen:
                    raise ValueError("listed more than once")
                seen.add(path)
                if path not in files:
                    raise ValueError("there is no such file")
                found = boxes.of(path) if boxes else ()
                yield replace(_item(row, line, path, files[path], labels, views), findings=found)
            except ValueError as error:
                yield Rejected(row["path"] or f"{table.name} line {line}", str(error), line)
        if boxes is not None:
            for name in sorted(boxes.unread):
                yield Rejected(name, f"has boxes in {boxes.name}, but no row in {table.name}")


def _read(location: Location, options: ManifestOptions) -> tuple[Table, Labels]:
    table = read_table(location, ("path", "patient_id"))
    return table, find_labels(table, options.classes)


def _is_parquet(location: Location) -> bool:
    return location.name.lower().endswith(SUFFIX)


def _read_parquet(location: Location, options: ManifestOptions) -> tuple[ParquetTable, Labels]:
    table = read_parquet_table(location, ("path", "patient_id"))
    check_types(table, _known(table))
    return table, find_labels(table, options.classes)


def _known(table: ParquetTable) -> list[str]:
    return [name for name in table.columns if name in _COLUMNS or name == "label" or name.startswith("label_")]


def _parquet_items(location: Location, root: Location, options: ManifestOptions) -> Iterator[Item | Rejected]:
    """As of a CSV; a path that is listed twice is left to the plan, which holds what is listed."""
    table, labels = _read_parquet(location, options)
    marked = "fingerprint" in table.columns
    paths = (path for _, row in table.read(["path"]) if (path := inside(row["path"], root)) is not None)
    boxes = CocoBoxes(locate(options.annotations), options.kinds, set(paths)) if options.annotations else None
    paths = (path for _, row in table.read(["path"]) if (path := inside(row["path"], root)) is not None)
    with nullcontext() if marked else file_index(root, paths) as files:
        for number, row in table.read(_known(table)):
            path = inside(row["path"], root)
            try:
                if path is None:
                    raise ValueError("no path" if not row["path"] else f"path is not inside {root}")
                mark = row["fingerprint"] if files is None else files.of(path)
                if not mark:
                    raise ValueError("its fingerprint is empty" if files is None else "there is no such file")
                item = _item(row, number, path, mark, labels, None)
                yield replace(item, findings=found) if boxes and (found := boxes.of(path)) else item
            except ValueError as error:
                yield Rejected(row["path"] or f"{table.name} row {number}", str(error), number)
    if boxes is not None:
        for name in sorted(boxes.unread):
            yield Rejected(name, f"has boxes in {boxes.name}, but no row in {table.name}")


def _item(row: Row, line: int, path: str, mark: str, labels: Labels, views: Counter[tuple[str, str]] | None) -> Item:
    """One row as an item. Raises ValueError with the reason.

    Args:
        views: images of each study so far; None: the plan counts them.
    """
    if not row["patient_id"]:
        raise ValueError("no patient_id")
    part = row.get("body_part", "").upper() or UNKNOWN_PART
    study = row.get("study_id") or part
    side, split = row.get("laterality", "").lower(), row.get("split", "").lower()
    if side not in _SIDES:
        raise ValueError(f"laterality {row['laterality']!r} is neither L nor R")
    if split and split not in SPLIT_NAMES:
        raise ValueError(f"split {row['split']!r} is none of train, validation, test")
    values = labels.of(row)
    index = row.get("view_index", "")
    if index and not (index.isdecimal() and int(index) < 2**31):
        raise ValueError(f"view_index {index!r} is no whole number from 0")
    place = int(index) if index else None
    if views is not None:
        key = (row["patient_id"], study)
        place = views[key] if place is None else place
        views[key] += 1
    return Item(
        path=path,
        patient_id=row["patient_id"],
        study_id=study,
        fingerprint=mark,
        labels=values,
        body_part=part,
        view=row.get("view", "").upper() or None,
        view_index=place,
        laterality=_SIDES[side],
        split=SPLIT_NAMES.get(split),
        row=line,
    )
