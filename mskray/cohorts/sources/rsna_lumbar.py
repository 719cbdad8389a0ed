"""RSNA 2024 lumbar spine (Kaggle): DICOM series of the lumbar spine with five conditions graded at five levels.

    mskray ingest rsna-lumbar FOLDER --out URI series=t2 corners=corners.json

Read are `train.csv` (a row a study: condition × level → Normal/Mild, Moderate, Severe or blank),
`train_series_descriptions.csv`, and the sagittal series in `train_images/<study>/<series>/`. `series=t2` takes those
called "Sagittal T2/STIR", which show the spinal canal, `t1` those called "Sagittal T1", which show the foramina; the
condition that a series shows comes first. Axial series show no disc as a sagittal volume does, and are not read.

Corners of the bodies come from `mskray find-vertebrae FOLDER/train_images --out corners.json`. A study without labels
or without such a series, a series without files or without corners, and a level whose bodies were not found go to
quarantine, and so do series in which a header says that text is drawn (BurnedInAnnotation), unless
`allow_burned_in=true`. Discs of a series without a sacrum in view, whose levels are a guess, are taken and counted
(`corners.json` notes it). `train_label_coordinates.csv` is not read: it has a point for a condition and level, where a
disc is cut between the corners of two bodies. A blank grade is a missing label. A study is a patient; splits are cut
here. Of a series that holds several volumes, each with corners becomes discs (`<series>#2`).
"""

from collections.abc import Iterator, Mapping
from typing import Literal

from mskray.cohorts.corners import VolumeCorners, read_corners
from mskray.cohorts.schema import Task
from mskray.cohorts.sources import BURNED_IN, Item, Rejected, fingerprint, register
from mskray.cohorts.sources._discs import BODY_PART, Address, DiscSource, disc_path, volume_name
from mskray.cohorts.sources._paths import numbered
from mskray.cohorts.sources._table import Row, read_table
from mskray.config import Section, setting
from mskray.errors import UserError
from mskray.imaging.spine import DISCS
from mskray.storage import Location, locate

_TRAIN, _SERIES, _IMAGES = "train.csv", "train_series_descriptions.csv", "train_images"
_DESCRIPTIONS = {"t2": "Sagittal T2/STIR", "t1": "Sagittal T1"}
_CANAL = "spinal_canal_stenosis"
_SIDES = [
    f"{side}_{name}" for name in ("neural_foraminal_narrowing", "subarticular_stenosis") for side in ("left", "right")
]
_CONDITIONS = {"t2": (_CANAL, *_SIDES), "t1": (*_SIDES[:2], _CANAL, *_SIDES[2:])}
_GRADES = ("normal/mild", "moderate", "severe")
_LEVELS = {level: level.lower().replace("/", "_") for level in DISCS if level != DISCS[0]}


class RsnaLumbarOptions(Section):
    series: Literal["t2", "t1"] = setting("t2", "sagittal T2/STIR or T1 series")
    corners: str = setting("", "corners.json with the bodies of these series (required)")
    allow_burned_in: bool = setting(False, BURNED_IN)


@register
class RsnaLumbar(DiscSource[RsnaLumbarOptions]):
    name = "rsna-lumbar"
    summary = "RSNA 2024 lumbar spine: sagittal DICOM series and train.csv become graded discs; needs corners.json"
    Options = RsnaLumbarOptions

    def root(self, location: Location, options: RsnaLumbarOptions) -> Location:
        missing = [name for name in (_TRAIN, _SERIES) if not location.join(name).is_file()]
        missing += [] if location.join(_IMAGES).is_dir() else [f"{_IMAGES}/"]
        if missing:
            raise UserError(f"{location} is not laid out like RSNA 2024 lumbar: expected {', '.join(missing)} in it")
        if not options.corners:
            raise UserError(
                "rsna-lumbar needs corners=…: write them with "
                f"mskray find-vertebrae BUNDLE {location.join(_IMAGES)} --out corners.json"
            )
        return location

    def allows_burned_in(self, options: RsnaLumbarOptions) -> bool:
        return options.allow_burned_in

    def tasks(self, location: Location | None, options: RsnaLumbarOptions) -> tuple[Task, ...]:
        return tuple(Task(name=name, classes=_GRADES, ordinal=True) for name in _CONDITIONS[options.series])

    def items(self, location: Location | None, options: RsnaLumbarOptions) -> Iterator[Item | Rejected]:
        assert location is not None
        columns = [f"{condition}_{level}" for condition in _CONDITIONS["t2"] for level in _LEVELS.values()]
        table = read_table(location.join(_TRAIN), ("study_id", *columns))
        corners = _by_folder(read_corners(locate(options.corners)))
        series, strange = _series(location, _DESCRIPTIONS[options.series])
        for line, reason in table.malformed:
            yield Rejected(f"{_TRAIN} line {line}", reason, line)
        yield from strange
        seen: set[str] = set()
        for line, row in table.rows:
            study = row["study_id"]
            if not study or study in seen:
                yield Rejected(
                    f"{_TRAIN} line {line}", "no study_id" if not study else f"{study} is listed twice", line
                )
                continue
            seen.add(study)
            if study not in series:
                reason = f"no {_DESCRIPTIONS[options.series]} series in {_SERIES}"
                yield Rejected(f"{_IMAGES}/{study}", reason, line)
            for folder, files in series.get(study, {}).items():
                # `find-vertebrae` may have been given the whole folder or `train_images`.
                found = corners.get(folder) or corners.get(folder.removeprefix(f"{_IMAGES}/"), {})
                if not files or not found:
                    reason = "the series has no files" if not files else "no corners of this series"
                    yield Rejected(folder, reason, line)
                    continue
                for number, each in found.items():
                    yield from _items(row, line, folder, number, files, each)
        for study in sorted(set(series) - seen):
            yield Rejected(f"{_IMAGES}/{study}", f"no labels in {_TRAIN}")


def _items(
    row: Row, line: int, folder: str, number: int | None, files: Mapping[str, str], corners: VolumeCorners
) -> Iterator[Item | Rejected]:
    """The five discs of one volume of a series."""
    volume = volume_name(folder, number)
    for level, suffix in _LEVELS.items():
        path = disc_path(volume, level)
        try:
            labels = {name: _grade(name, row[f"{name}_{suffix}"]) for name in _CONDITIONS["t2"]}
            address = Address.between(files, level, corners, number)
        except ValueError as error:
            yield Rejected(path, str(error), line)
            continue
        yield Item(
            path=path,
            patient_id=row["study_id"],
            study_id=volume,
            fingerprint=address.fingerprint,
            labels=labels,
            body_part=BODY_PART,
            view=level,
            view_index=DISCS.index(level),
            row=line,
            address=str(address),
        )


def _grade(condition: str, value: str) -> int | None:
    if not value:
        return None
    if value.lower() not in _GRADES:
        raise ValueError(f"{condition} {value!r} is none of Normal/Mild, Moderate, Severe")
    return _GRADES.index(value.lower())


def _by_folder(corners: Mapping[str, VolumeCorners]) -> dict[str, dict[int | None, VolumeCorners]]:
    """Folder of a series → number of the volume in it, None for the only one → its bodies, where it has any."""
    found: dict[str, dict[int | None, VolumeCorners]] = {}
    for name, each in corners.items():
        folder, number = numbered(name)
        if each.bodies:
            found.setdefault(folder, {})[number] = each
    return found


def _series(root: Location, description: str) -> tuple[dict[str, dict[str, dict[str, str]]], list[Rejected]]:
    """Study → folder of a series of this kind → fingerprints of its files; and series that no list describes."""
    table = read_table(root.join(_SERIES), ("study_id", "series_id", "series_description"))
    found: dict[str, dict[str, dict[str, str]]] = {}
    described: dict[str, bool] = {}
    for _, row in table.rows:
        folder = f"{_IMAGES}/{row['study_id']}/{row['series_id']}"
        described[folder] = row["series_description"].lower() == description.lower()
        if described[folder]:
            found.setdefault(row["study_id"], {})[folder] = {}
    strange = [Rejected(f"{_SERIES} line {line}", reason, line) for line, reason in table.malformed]
    unknown: set[str] = set()
    for entry in root.join(_IMAGES).walk():
        path = f"{_IMAGES}/{entry.path}"
        folder = path.rpartition("/")[0]
        if described.get(folder):
            found[folder.split("/")[1]][folder][path] = fingerprint(entry)
        elif folder not in described:
            unknown.add(folder)
    strange += [Rejected(folder, f"not listed in {_SERIES}") for folder in sorted(unknown)]
    return found, strange
