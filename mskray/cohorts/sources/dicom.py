"""A folder or prefix of DICOM files, in any order and under any names: grouped by what their headers say.

    mskray ingest dicom FOLDER --out URI labels=labels.csv

Patient, study, series, instance, body part, view and laterality come from the header; only the header is read while
listing. Views of a study are numbered by series and instance number. A blank PatientID (a de-identified file) makes
each study a patient of its own. Files that are no DICOM, or hold no image, go to quarantine; so do images that say that
text is drawn into them (BurnedInAnnotation), because it may be a name, unless `allow_burned_in=true`.

Labels come from a CSV with a column `uid` (of a SOP instance, a series or a study; the most specific wins) and label
columns as in the source `manifest`. A UID that no file has goes to quarantine with its line. Without labels the cohort
is good for prediction.
"""

import io
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pydicom
from pydicom.uid import DeflatedExplicitVRLittleEndian, MediaStorageDirectoryStorage

from mskray.cohorts.ahead import ahead
from mskray.cohorts.schema import Task
from mskray.cohorts.sources import BURNED_IN, UNKNOWN_PART, Item, Rejected, Source, fingerprint, register
from mskray.cohorts.sources._paged import Paged, TooLong
from mskray.cohorts.sources._table import Labels, find_labels, read_table
from mskray.cohorts.unreadable import unreadable
from mskray.config import Section, setting
from mskray.errors import UserError
from mskray.imaging.decode import DecodeError, DecodeLimits, decode
from mskray.imaging.dicom import is_dicom, term
from mskray.imaging.quiet import quiet
from mskray.storage import FileEntry, Location, locate

_THREADS = 16
_WAITING = 64
# Headers of images are a few KiB; private groups make some of them longer.
_MOST_HEADER_BYTES = 16 * 2**20
_PAGE = 64 * 2**10
_TAGS = [
    "SOPClassUID",
    "SOPInstanceUID",
    "Modality",
    "PatientID",
    "BodyPartExamined",
    "ViewPosition",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SeriesNumber",
    "InstanceNumber",
    "ImageLaterality",
    "Laterality",
    "Rows",
]


class DicomOptions(Section):
    labels: str = setting("", "CSV with the columns uid and label or label_<task>; empty: no labels")
    classes: dict[str, list[str]] = setting({}, "task → class names in the order of their index")
    allow_burned_in: bool = setting(False, BURNED_IN)


@dataclass(frozen=True)
class _Labels:
    """The CSV of labels: class indices by task, and the line, of each UID."""

    place: str = ""
    tasks: tuple[Task, ...] = ()
    by_uid: Mapping[str, dict[str, int | None]] = field(default_factory=dict)
    lines: Mapping[str, int] = field(default_factory=dict)

    def unmatched(self, headers: Iterable["_Header"]) -> Iterator[Rejected]:
        """The rows whose UID no file has. Raises UserError when these are all."""
        present = {uid for header in headers for uid in (header.instance, header.series, header.study)}
        absent = [line for uid, line in self.lines.items() if uid not in present]
        if present and absent and len(absent) == len(self.lines):
            raise UserError(
                f"none of the {len(absent)} UIDs in {self.place} is that of an instance, series or study of these "
                "files: give the labels of these files, or none"
            )
        name = locate(self.place).name if absent else ""
        for line in absent:
            yield Rejected(f"{name} line {line}", "no file has this uid", line)


@dataclass(frozen=True, slots=True)
class _Header:
    """What the listing needs of one file's header; "" where it is blank."""

    path: str
    mark: str
    patient: str
    study: str
    series: str
    instance: str
    series_number: int
    instance_number: int
    part: str
    view: str
    side: str


@register
class Dicom(Source[DicomOptions]):
    name = "dicom"
    summary = "a folder or prefix of DICOM files, grouped by study and series; labels from a CSV by UID"
    Options = DicomOptions

    def root(self, location: Location, options: DicomOptions) -> Location:
        if not location.is_dir():
            raise UserError(f"{location} is not a folder: the source dicom reads all files below a folder or prefix")
        return location

    def tasks(self, location: Location | None, options: DicomOptions) -> tuple[Task, ...]:
        return _labels(options).tasks

    def allows_burned_in(self, options: DicomOptions) -> bool:
        return options.allow_burned_in

    def items(self, location: Location | None, options: DicomOptions) -> Iterator[Item | Rejected]:
        assert location is not None
        labels = _labels(options)
        headers: list[_Header] = []
        # Threads read and this one parses: threads that parse wait for the interpreter, and take twice the time.
        begun = ahead(lambda entry: (entry, _begin(location, entry)), location.walk(), _THREADS, _WAITING)
        for entry, page in begun:
            found = page if isinstance(page, Rejected) else _read(location, entry, page)
            if isinstance(found, Rejected):
                yield found
            else:
                headers.append(found)
        yield from labels.unmatched(headers)
        headers.sort(key=lambda each: (each.study, each.series_number, each.series, each.instance_number, each.path))
        views: Counter[str] = Counter()
        for header in headers:
            uids = (header.instance, header.series, header.study)
            known = (labels.by_uid[uid] for uid in uids if uid in labels.by_uid)
            yield Item(
                path=header.path,
                patient_id=header.patient or header.study,
                study_id=header.study,
                fingerprint=header.mark,
                labels=next(known, {}),
                body_part=header.part or UNKNOWN_PART,
                view=header.view or None,
                view_index=views[header.study],
                laterality=header.side if header.side in ("L", "R") else None,
                instance_id=header.instance or None,
            )
            views[header.study] += 1


def _labels(options: DicomOptions) -> _Labels:
    if not options.labels:
        return _Labels()
    place = locate(options.labels)
    table = read_table(place, ("uid",))
    columns: Labels = find_labels(table, options.classes)
    found: dict[str, dict[str, int | None]] = {}
    problems = [f"line {line}: {reason}" for line, reason in table.malformed]
    for line, row in table.rows:
        try:
            if not row["uid"]:
                raise ValueError("no uid")
            found[row["uid"]] = columns.of(row)
        except ValueError as error:
            problems.append(f"line {line}: {error}")
    if problems:
        # A label that is lost here would pass for "not known" later.
        raise UserError(f"{place} has {len(problems)} rows that cannot be read ({problems[0]}): repair them")
    return _Labels(str(place), columns.tasks, found, {row["uid"]: line for line, row in table.rows})


def _begin(root: Location, entry: FileEntry) -> bytes | Rejected:
    """Read a file's first page. Raises UserError where the store, not the file, is at fault."""
    place = root.join(entry.path)
    try:
        with place.filesystem.open_input_file(place.path) as source:
            return bytes(source.read(_PAGE))
    except (UserError, OSError) as error:
        return Rejected(entry.path, unreadable(error, place, root).reason)


def _read(root: Location, entry: FileEntry, page: bytes) -> _Header | Rejected:
    """Read one header. Raises UserError where the store, not the file, is at fault."""
    place, mark = root.join(entry.path), fingerprint(entry)
    start = page[:2048]
    if not is_dicom(start):
        return Rejected(entry.path, "not a DICOM file")
    try:
        if DeflatedExplicitVRLittleEndian.encode() in start:
            return _deflated(entry.path, mark, place)
        with io.BufferedReader(Paged(place, entry.size, page, _MOST_HEADER_BYTES), _PAGE) as file:
            return _header(entry.path, mark, file)
    except TooLong:
        return Rejected(entry.path, f"its DICOM header is longer than {_MOST_HEADER_BYTES // 2**20} MiB")
    except (UserError, OSError) as error:
        return Rejected(entry.path, unreadable(error, place, root).reason)


def _header(path: str, mark: str, file: Any) -> _Header | Rejected:
    try:
        with quiet("pydicom"):
            data = pydicom.dcmread(file, stop_before_pixels=True, force=True, specific_tags=list(_TAGS))
            words = {name: _word(data, name) for name in _TAGS}
            modality, part, view = (term(data, name) for name in ("Modality", "BodyPartExamined", "ViewPosition"))
    except (TooLong, OSError):
        raise
    # pydicom raises many kinds of errors on damaged headers; each of them is this file's alone.
    except Exception as error:
        return Rejected(path, f"damaged DICOM header ({type(error).__name__})")
    if data.file_meta.get("MediaStorageSOPClassUID") == MediaStorageDirectoryStorage:
        return Rejected(path, "a DICOMDIR, not an image")
    if not words["Rows"]:
        return Rejected(path, f"DICOM {modality or 'object'} holds no image")
    if not words["StudyInstanceUID"]:
        return Rejected(path, "no StudyInstanceUID in its DICOM header")
    return _Header(
        path=path,
        mark=mark,
        patient=words["PatientID"],
        study=words["StudyInstanceUID"],
        series=words["SeriesInstanceUID"],
        instance=words["SOPInstanceUID"],
        series_number=_number(words["SeriesNumber"]),
        instance_number=_number(words["InstanceNumber"]),
        part=part or "",
        view=view or "",
        side=(words["ImageLaterality"] or words["Laterality"]).upper(),
    )


def _deflated(path: str, mark: str, place: Location) -> _Header | Rejected:
    """A deflated header cannot be read without inflating what follows: the guarded decoder does both."""
    try:
        image = decode(place.read_bytes(max_bytes=DecodeLimits().max_bytes))
    except DecodeError as error:
        return Rejected(path, error.reason)
    if not image.study_id:
        return Rejected(path, "no StudyInstanceUID in its DICOM header")
    known: dict[str, Any] = image.metadata
    return _Header(
        path=path,
        mark=mark,
        patient=image.patient_id or "",
        study=image.study_id,
        series=image.series_id or "",
        instance=image.instance_id or "",
        series_number=0,
        instance_number=int(known.get("instance_number") or 0),
        part=str(known.get("body_part") or ""),
        view=str(known.get("view_position") or ""),
        side=str(known.get("laterality") or ""),
    )


def _word(data: pydicom.Dataset, name: str) -> str:
    return str(data.get(name) or "").replace("\x00", "").strip()


def _number(text: str) -> int:
    try:
        return int(float(text))
    except (ValueError, OverflowError):
        return 0
