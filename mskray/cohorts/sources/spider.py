"""SPIDER (van der Graaf et al. 2024, doi 10.1038/s41597-024-03090-w): lumbar MR with masks and gradings of discs.

    mskray ingest spider FOLDER --out URI sequence=t2

Read are `radiological_gradings.csv` (a row a disc), `overview.csv`, and `images/` and `masks/` with
`<patient>_{t1,t2,t2_SPACE}.mha`; `sequence` says which of them. Corners of the bodies come from the masks.

Discs are counted from below: 1 is L5/S1, 6 is T12/L1. Gradings of other discs go to quarantine, as do those of a
patient without an image or mask of this sequence, values that are no grades, and images without gradings. Tasks:
pfirrmann, modic, narrowing (two classes here), upper_endplate, lower_endplate, spondylolisthesis, herniation, bulging.

Splits: SPIDER's `validation` is its public held-out set and is kept as `test`; `validation` is cut from its `training`
by patient. `--split-fractions` cuts everything anew.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Literal

from mskray.cohorts.schema import Fractions, Task
from mskray.cohorts.sources import Item, Rejected, fingerprint, register
from mskray.cohorts.sources._discs import BODY_PART, Address, DiscSource, disc_path
from mskray.cohorts.sources._table import Row, read_table
from mskray.config import Section, setting
from mskray.errors import UserError
from mskray.imaging.spine import DISCS, GRADED_TASKS, SPINE_TASKS
from mskray.storage import Location

_GRADINGS, _OVERVIEW = "radiological_gradings.csv", "overview.csv"
_IMAGES, _MASKS = "images", "masks"
_NAME = re.compile(r"(?P<patient>\d+)_(?P<sequence>t1|t2|t2_SPACE)\.mha")
_SPLITS = {"training": None, "validation": "test"}

#: Task → column, in lower case as tables are read, and the value of the first class. "Pfirrman" is theirs.
_COLUMNS = {
    "pfirrmann": ("pfirrman grade", 1),
    "modic": ("modic", 0),
    "narrowing": ("disc narrowing", 0),
    "upper_endplate": ("up endplate", 0),
    "lower_endplate": ("low endplate", 0),
    "spondylolisthesis": ("spondylolisthesis", 0),
    "herniation": ("disc herniation", 0),
    "bulging": ("disc bulging", 0),
}
_CLASSES = {
    "pfirrmann": SPINE_TASKS["pfirrmann"],
    "modic": ("none", "I", "II", "III"),
    "narrowing": ("normal", "narrowed"),
    "upper_endplate": SPINE_TASKS["upper_endplate"],
    "lower_endplate": SPINE_TASKS["lower_endplate"],
}
_TASKS = tuple(
    Task(name=name, classes=_CLASSES.get(name, (f"no_{name}", name)), ordinal=name in GRADED_TASKS) for name in _COLUMNS
)


class SpiderOptions(Section):
    sequence: Literal["t1", "t2", "t2_SPACE"] = setting("t2", "which images of a patient are read")
    validation_fraction: float = setting(
        0.1, "share of the training patients that becomes the validation split", ge=0, le=0.9
    )


@register
class Spider(DiscSource[SpiderOptions]):
    name = "spider"
    summary = "SPIDER lumbar MR: images, masks and radiological_gradings.csv become graded discs"
    Options = SpiderOptions
    split_note = "test is SPIDER's public validation set; validation is cut from its training set by patient"

    def root(self, location: Location, options: SpiderOptions) -> Location:
        missing = [name for name in (_GRADINGS, _OVERVIEW) if not location.join(name).is_file()]
        missing += [f"{name}/" for name in (_IMAGES, _MASKS) if not location.join(name).is_dir()]
        if missing:
            raise UserError(f"{location} is not laid out like SPIDER: expected {', '.join(missing)} in it")
        return location

    def tasks(self, location: Location | None, options: SpiderOptions) -> tuple[Task, ...]:
        return _TASKS

    def fractions(self, options: SpiderOptions) -> Fractions:
        return (1 - options.validation_fraction, options.validation_fraction, 0.0)

    def items(self, location: Location | None, options: SpiderOptions) -> Iterator[Item | Rejected]:
        assert location is not None
        table = read_table(location.join(_GRADINGS), ("patient", "ivd label", *(name for name, _ in _COLUMNS.values())))
        splits = _splits(location)
        images, masks = (_files(location, folder) for folder in (_IMAGES, _MASKS))
        for line, reason in table.malformed:
            yield Rejected(f"{_GRADINGS} line {line}", reason, line)
        seen: set[str] = set()
        for line, row in table.rows:
            name = f"{row['patient']}_{options.sequence}.mha"
            try:
                item = _item(row, line, name, images, masks, splits)
                if item.path in seen:
                    raise ValueError("graded more than once")
                seen.add(item.path)
                yield item
            except ValueError as error:
                yield Rejected(f"{_IMAGES}/{name} ({_GRADINGS} line {line})", str(error), line)
        graded = {row["patient"] for _, row in table.rows}
        for name in sorted(images):
            match = _NAME.fullmatch(name)
            if match is None:
                yield Rejected(f"{_IMAGES}/{name}", "not <patient>_<t1, t2 or t2_SPACE>.mha")
            elif match["sequence"] == options.sequence and match["patient"] not in graded:
                yield Rejected(f"{_IMAGES}/{name}", f"not graded in {_GRADINGS}")


def _item(
    row: Row,
    line: int,
    name: str,
    images: Mapping[str, str],
    masks: Mapping[str, str],
    splits: Mapping[str, str],
) -> Item:
    """One graded disc. Raises ValueError with the reason."""
    if not row["patient"]:
        raise ValueError("no patient")
    level = _level(row["ivd label"])
    for folder, files in ((_IMAGES, images), (_MASKS, masks)):
        if name not in files:
            raise ValueError(f"graded, but there is no {folder}/{name}")
    stem = name.removesuffix(".mha")
    subset = splits.get(stem, "")
    if subset not in _SPLITS:
        raise ValueError(f"its subset in {_OVERVIEW} is {subset!r}, neither training nor validation")
    address = Address({f"{_IMAGES}/{name}": images[name], f"{_MASKS}/{name}": masks[name]}, level)
    return Item(
        path=disc_path(f"{_IMAGES}/{name}", level),
        patient_id=row["patient"],
        study_id=stem,
        fingerprint=address.fingerprint,
        labels={task.name: _grade(task, row) for task in _TASKS},
        body_part=BODY_PART,
        view=level,
        view_index=DISCS.index(level),
        split=_SPLITS[subset],
        row=line,
        address=str(address),
    )


def _level(label: str) -> str:
    word = label.removesuffix(".0")
    number = int(word) if word.isdecimal() else 0
    if not 1 <= number <= len(DISCS):
        raise ValueError(f"IVD label {label!r}: discs are counted from 1 (L5/S1) to {len(DISCS)} (T12/L1)")
    return DISCS[-number]


def _grade(task: Task, row: Row) -> int | None:
    column, first = _COLUMNS[task.name]
    value = row[column].removesuffix(".0")
    if not value:
        return None
    grade = int(value) - first if value.isdecimal() else -1
    if not 0 <= grade < len(task.classes):
        raise ValueError(f"{column} {value!r} is not {first} to {first + len(task.classes) - 1}")
    return grade


def _files(root: Location, folder: str) -> dict[str, str]:
    return {entry.path: fingerprint(entry) for entry in root.join(folder).walk()}


def _splits(root: Location) -> dict[str, str]:
    """Image → SPIDER's subset."""
    table = read_table(root.join(_OVERVIEW), ("new_file_name", "subset"))
    return {row["new_file_name"].removesuffix(".mha"): row["subset"].lower() for _, row in table.rows}
