"""A CSV with one row a pair of images of a patient, before and after: the way to bring any pairs.

    mskray ingest pairs pairs.csv --out URI

| column | |
| --- | --- |
| `before`, `after` | required: PNG, JPEG, TIFF or DICOM file, relative to the CSV's folder (or to `root`) |
| `patient_id` | required: who it is; never stored, only its keyed hash; a patient's pairs are in one split |
| `label` | task change: regressed, persisted or improved (or 0, 1, 2); empty = not known |
| `label_improved` | task improved: not_improved or improved; with `label` it follows from that and is not read |
| `label_<task>` | any other task: class names (sorted) or, with `classes.<task>`, also their index |
| `body_part` | e.g. KNEE; UNKNOWN where empty |
| `split` | train, validation (or val, valid) or test; a patient without one is assigned |

A member may be a slice of a volume, as `folder#12` (a DICOM series) or `scan.nii.gz#12` (NIfTI, MetaImage): slices
count from 0, as `mskray montage` numbers them, and the volume's percentiles 0.5 and 99.5 become black and white. Of a
folder with several volumes (two echoes, two series) one is named as `mskray montage` does: `folder#2#12`.

A row whose members differ in size, plane, modality or pixel spacing (by more than 5 %) goes to quarantine with its
line, as does one that names the same image twice or a slice that its series lacks. What improved has regressed when it
is seen in reverse (`mskray.cohorts.change`): with `label` given, training can learn each pair in both directions in
either task.
"""

from collections.abc import Iterator

from mskray.cohorts.change import CHANGE, IMPROVED, change_labels
from mskray.cohorts.schema import Task
from mskray.cohorts.sources import BURNED_IN, UNKNOWN_PART, Item, Rejected, register
from mskray.cohorts.sources._pairs import NAMES, Address, Member, PairSource, pair_path
from mskray.cohorts.sources._paths import fingerprints, inside, numbered
from mskray.cohorts.sources._table import SPLIT_NAMES, Labels, Row, Table, find_labels, read_table
from mskray.config import Section, setting
from mskray.errors import UserError
from mskray.storage import Location, locate


class PairsOptions(Section):
    root: str = setting("", "folder or URI that paths are relative to; empty: the folder of the CSV")
    classes: dict[str, list[str]] = setting({}, "task → class names in the order of their index")
    allow_burned_in: bool = setting(False, BURNED_IN)


@register
class PairsCsv(PairSource[PairsOptions]):
    name = "pairs"
    summary = (
        "a CSV with before, after, patient_id and, where known, label (regressed = worse, persisted, improved), split"
    )
    Options = PairsOptions
    split_note = "splits as in the CSV's column, where it has one"

    def root(self, location: Location, options: PairsOptions) -> Location:
        if not location.is_file():
            raise UserError(f"{location} is not a file: the source pairs reads a CSV")
        return locate(options.root) if options.root else locate(location.uri.rpartition("/")[0])

    def tasks(self, location: Location | None, options: PairsOptions) -> tuple[Task, ...]:
        assert location is not None
        return _read(location, options)[1].tasks

    def allows_burned_in(self, options: PairsOptions) -> bool:
        return options.allow_burned_in

    def items(self, location: Location | None, options: PairsOptions) -> Iterator[Item | Rejected]:
        assert location is not None
        table, labels = _read(location, options)
        root = self.root(location, options)
        for line, reason in table.malformed:
            yield Rejected(f"{table.name} line {line}", reason, line)
        named = {_named(row[name], root)[0] for _, row in table.rows for name in NAMES}
        files = fingerprints(root, {path for path in named if path is not None})
        seen: set[str] = set()
        for line, row in table.rows:
            shown = pair_path(row["before"] or "?", row["after"] or "?")
            try:
                members = [_member(name, row[name], root, files) for name in NAMES]
                item = _item(row, line, shown, Address((members[0], members[1])), labels)
                if shown in seen:
                    raise ValueError("listed more than once")
                seen.add(shown)
                yield item
            except ValueError as error:
                yield Rejected(shown, str(error), line)


def _read(location: Location, options: PairsOptions) -> tuple[Table, Labels]:
    """The table and its labels: `label` is task change, from which task improved follows."""
    table = read_table(location, (*NAMES, "patient_id"))
    if {"label", CHANGE.column} <= set(table.columns):
        raise UserError(f"{location} has both label and {CHANGE.column}, which are the same task: remove one")
    other = tuple(CHANGE.column if name == "label" else name for name in table.columns)
    renamed = [(line, dict(zip(other, row.values(), strict=True))) for line, row in table.rows]
    table = Table(table.name, other, tuple(renamed), table.malformed)
    fixed = {task.name: task for task in (CHANGE, IMPROVED)}
    given = sorted(set(options.classes) & set(fixed))
    if given:
        raise UserError(f"classes.{given[0]}: this task's classes are always {', '.join(fixed[given[0]].classes)}")
    known = {name: list(task.classes) for name, task in fixed.items() if task.column in table.columns}
    labels = find_labels(table, {**options.classes, **known})
    tasks = [fixed.get(task.name, task) for task in labels.tasks]
    if CHANGE in tasks:
        tasks = [CHANGE, IMPROVED, *(task for task in tasks if task not in (CHANGE, IMPROVED))]
    return table, Labels(labels.columns, tuple(tasks))


def _item(row: Row, line: int, shown: str, address: Address, labels: Labels) -> Item:
    """One row as an item. Raises ValueError with the reason."""
    if not row["patient_id"]:
        raise ValueError("no patient_id")
    before, after = address.members
    if before == after:
        raise ValueError("before and after are the same image")
    split = row.get("split", "").lower()
    if split and split not in SPLIT_NAMES:
        raise ValueError(f"split {row['split']!r} is none of train, validation, test")
    values = _labels(row, labels)
    return Item(
        path=shown,
        patient_id=row["patient_id"],
        study_id=shown,
        fingerprint=address.fingerprint,
        labels=values,
        body_part=row.get("body_part", "").upper() or UNKNOWN_PART,
        split=SPLIT_NAMES.get(split),
        row=line,
        address=str(address),
    )


def _labels(row: Row, labels: Labels) -> dict[str, int | None]:
    if CHANGE not in labels.tasks:
        return labels.of(row)
    read = Labels(labels.columns, tuple(task for task in labels.tasks if task != IMPROVED)).of(row)
    return {**read, **change_labels(read[CHANGE.name])}


def _named(text: str, root: Location) -> tuple[str | None, int | None, int | None]:
    """The path below the root that a cell names (None where there is none), the volume, and the slice."""
    name, index = numbered(text)
    if index is None:
        return inside(text, root), None, None
    name, volume = numbered(name)
    return inside(name, root), volume, index


def _member(name: str, text: str, root: Location, files: dict[str, dict[str, str]]) -> Member:
    path, volume, index = _named(text, root)
    if path is None:
        raise ValueError(f"no {name}" if not text else f"{name} is not inside {root}")
    if path not in files:
        raise ValueError(f"{name}: there is no such file")
    return Member(files[path], index, volume=volume)
