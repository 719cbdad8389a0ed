"""GRAZPEDWRI-DX (Nagy et al. 2022, doi 10.1038/s41597-022-01328-z): children's wrists with boxes.

    mskray ingest grazpedwri FOLDER --out URI

Read are `dataset.csv` (one row an image), images `<filestem>.png` and YOLO labels `<filestem>.txt`, the latter in any
folder below `FOLDER`, as `images_part1` to `4` and `yolov5/labels` of the published archives. Names of the classes are
those of `meta.yaml` where there is one. Boxes of `text` are flags, those of `metal` implants; others keep their names
(`bonelesion` is `lesion`). The published set has a label file for each image, and an empty one says that nothing is
marked. An image without one goes to quarantine: a detector would learn that its flags are none.

Tasks: fracture (`fracture_visible`), osteopenia, cast, metal; a blank is 0. Splits are cut by patient.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import yaml

from mskray.cohorts.schema import Task
from mskray.cohorts.sources import Finding, Item, Rejected, Source, fingerprint, register
from mskray.cohorts.sources._boxes import yolo_boxes
from mskray.cohorts.sources._table import Row, read_table
from mskray.config import Section
from mskray.errors import UserError
from mskray.storage import FileEntry, Location

_CSV, _META, _IMAGE, _LABELS = "dataset.csv", "meta.yaml", ".png", ".txt"
_COLUMNS = ("filestem", "patient_id", "study_number", "laterality", "projection", "fracture_visible")
_FLAGS = {"fracture": "fracture_visible", "osteopenia": "osteopenia", "cast": "cast", "metal": "metal"}
_NAMES = (
    "boneanomaly",
    "bonelesion",
    "foreignbody",
    "fracture",
    "metal",
    "periostealreaction",
    "pronatorsign",
    "softtissue",
    "text",
)
_KINDS = {"text": "flag", "metal": "implant", "bonelesion": "lesion"}
_VIEWS = {"1": "AP", "2": "LATERAL", "3": "OBLIQUE"}
_YES = {"": 0, "0": 0, "0.0": 0, "1": 1, "1.0": 1}
_THREADS = 16


class GrazOptions(Section):
    """None: the layout says it all."""


@register
class GrazPedWri(Source[GrazOptions]):
    name = "grazpedwri"
    summary = "GRAZPEDWRI-DX: dataset.csv, images and YOLO labels; boxes of text are flags"
    Options = GrazOptions
    relative_boxes = True

    def root(self, location: Location, options: GrazOptions) -> Location:
        if not location.join(_CSV).is_file():
            raise UserError(f"{location} is not laid out like GRAZPEDWRI-DX: expected {_CSV} in it")
        return location

    def tasks(self, location: Location | None, options: GrazOptions) -> tuple[Task, ...]:
        return tuple(Task(name=name, classes=(f"no_{name}", name)) for name in _FLAGS)

    def items(self, location: Location | None, options: GrazOptions) -> Iterator[Item | Rejected]:
        assert location is not None
        table = read_table(location.join(_CSV), _COLUMNS)
        files = _by_name(location)
        names = _names(location, files)
        stems = {row["filestem"] for _, row in table.rows}
        boxes = _read_all(location, {stem: files[stem + _LABELS] for stem in stems if stem + _LABELS in files})
        for line, reason in table.malformed:
            yield Rejected(f"{_CSV} line {line}", reason, line)
        seen: set[str] = set()
        for line, row in table.rows:
            image = files.get(row["filestem"] + _IMAGE)
            try:
                if image is None:
                    raise ValueError("there is no such image")
                if row["filestem"] in seen:
                    raise ValueError("listed more than once")
                seen.add(row["filestem"])
                if row["filestem"] not in boxes:
                    raise ValueError(
                        f"there is no {row['filestem']}{_LABELS} with its boxes, an empty one if it has none"
                    )
                found = yolo_boxes(boxes[row["filestem"]], names, _KINDS)
                yield _item(row, line, image, found)
            except ValueError as error:
                yield Rejected(row["filestem"] + _IMAGE, str(error), line)
        for name in sorted(name for name in files if name.endswith(_IMAGE) and name[: -len(_IMAGE)] not in stems):
            yield Rejected(files[name].path, f"not listed in {_CSV}")


def _item(row: Row, line: int, image: FileEntry, boxes: tuple[Finding, ...]) -> Item:
    if not row["patient_id"]:
        raise ValueError("no patient_id")
    labels = {}
    for task, column in _FLAGS.items():
        value = row.get(column, "")
        if value not in _YES:
            raise ValueError(f"{column} {value!r} is neither 0 nor 1 nor blank")
        labels[task] = _YES[value]
    view = row["projection"].removesuffix(".0")
    side = row["laterality"].upper()
    return Item(
        path=image.path,
        patient_id=row["patient_id"],
        study_id=row["study_number"],
        fingerprint=fingerprint(image),
        labels=labels,
        body_part="WRIST",
        view=_VIEWS.get(view),
        view_index=int(view) - 1 if view in _VIEWS else 0,
        laterality=side if side in ("L", "R") else None,
        row=line,
        findings=boxes,
    )


def _by_name(root: Location) -> dict[str, FileEntry]:
    """Images and labels below a folder by file name, the first of each name: archives repeat images."""
    found: dict[str, FileEntry] = {}
    for entry in root.walk():
        name = entry.path.rpartition("/")[2]
        if name.endswith((_IMAGE, _LABELS)) or name == _META:
            found.setdefault(name, entry)
    return found


def _names(root: Location, files: dict[str, FileEntry]) -> tuple[str, ...]:
    if _META not in files:
        return _NAMES
    place = root.join(files[_META].path)
    try:
        names = yaml.safe_load(place.read_bytes())["names"]
        return tuple(str(name).lower() for name in (names.values() if isinstance(names, dict) else names))
    except (yaml.YAMLError, KeyError, TypeError):
        raise UserError(f"{place} has no list `names` of classes: restore or remove it") from None


def _read_all(root: Location, files: dict[str, FileEntry]) -> dict[str, str]:
    with ThreadPoolExecutor(_THREADS) as pool:
        texts = pool.map(lambda entry: root.join(entry.path).read_bytes().decode(errors="replace"), files.values())
        return dict(zip(files, texts, strict=True))
