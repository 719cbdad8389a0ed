"""`mskray grade BUNDLE PATH --corners corners.json --out grades.csv`: grades of all discs of sagittal volumes.

The last step from a scan to a report: `find-vertebrae` finds the bodies, a person may correct them, and each disc
between two of them is cut out and graded as a cohort's would be. A row of the CSV is a disc: `volume` and `level`, for
each task the class that is called and, as `<task>:<class>`, all probabilities; `note` says what a reader must know,
or, where nothing is called, why.

A disc that the file has already, of the same volume, corners and bundle, is not graded again: a run that was
interrupted goes on.
"""

import csv
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from mskray.cohorts.corners import VolumeCorners, read_corners
from mskray.errors import UserError
from mskray.families.disc_grading import CutDisc, DiscGrader, discs_between, load_disc_grader
from mskray.imaging.spine import Vertebra
from mskray.imaging.volumes.volume import Volume, to_sagittal
from mskray.progress import Progress, Report, silent
from mskray.storage import Location, check_access, locate
from mskray.verbs.volume_files import content_hash, no_volume, reasons, spines_below

_FIXED = ("volume", "level", "note", "made_of")
_BETWEEN_WRITES = 10
"""Volumes: what was graded so far outlives an interruption."""
_MOST_BYTES = 256 * 2**20

Row = dict[str, str]


@dataclass
class Graded:
    """Rows of the CSV, how many of them were there before, and (path, reason) of files and volumes left out."""

    rows: list[Row] = field(default_factory=list)
    kept: int = 0
    rejected: list[tuple[str, str]] = field(default_factory=list)

    @property
    def called(self) -> int:
        """Discs with grades."""
        return sum(not row["note"].startswith(_NOT_GRADED) for row in self.rows)

    def lines(self) -> str:
        """One line for each reason for which discs, files or volumes were left out."""
        discs = [(f"{row['volume']} {row['level']}", row["note"]) for row in self.rows]
        without = [(name, note) for name, note in discs if note.startswith(_NOT_GRADED)]
        return "\n".join(f"left out: {reason}" for reason in reasons([*without, *self.rejected]))


_NOT_GRADED = "not graded: "


def grade(bundle: str, source: str, corners: str, out: str, *, gpu: bool = False, report: Report = silent) -> Graded:
    """Grade the discs of one volume or of all below a folder or prefix, and write them as one CSV.

    Args:
        bundle: URI of a `spinenet` that learned from discs.
        source: as `find_vertebrae` takes it; volumes go by the same names.
        corners: URI of the corners.json with their bodies.
        out: URI of the CSV, which is also written now and then on the way.
    Raises:
        UserError: before any work, when bundle, source, corners or `out` does not do; at the end, when there was no
            disc to grade.
    """
    model, place, target = locate(bundle), locate(source), locate(out)
    for where, write in ((model, False), (place, False), (target, True)):
        check_access(where, write)
    bodies = read_corners(locate(corners))
    report(Progress("loading the model"))
    described, grader = load_disc_grader(model, "cuda" if gpu else "cpu")
    columns = [*_FIXED, *(name for task, classes in described.tasks.items() for name in _columns(task, classes))]
    before = {_key(row): row for row in _read(target, columns)}
    done = Graded()

    def store() -> None:
        """Write what was graded, and of before what this run has not come to yet."""
        there = {_key(row) for row in done.rows}
        if done.kept < len(done.rows):
            _write(target, columns, [*done.rows, *(row for key, row in before.items() if key not in there)])

    undrawn = 0
    try:
        for number, (name, volume) in enumerate(spines_below(place, done.rejected), start=1):
            if name not in bodies:
                done.rejected.append((name, f"no bodies of it in {corners}: run find-vertebrae"))
                continue
            made_of = f"{described.hash[:16]}-{content_hash(volume)[:16]}"
            discs = {level: f"{made_of}-{_hash(pair)}" for level, pair in discs_between(bodies[name].bodies)}
            if not discs:
                done.rejected.append((name, f"no two neighbouring bodies of it in {corners}"))
                undrawn += 1
                continue
            known = [before[name, each] for each in discs.values() if (name, each) in before]
            if len(known) == len(discs):
                done.rows += known
                done.kept += len(known)
            else:
                done.rows += _grade(grader, name, to_sagittal(volume), bodies[name], discs)
            report(Progress("looked at", number, unit="volumes"))
            if number % _BETWEEN_WRITES == 0:
                store()
    except BaseException:  # Ctrl-C is one
        store()
        raise
    if not done.rows and undrawn:
        raise UserError(
            f"{place} holds no disc to grade ({'; '.join(reasons(done.rejected, 3))}): draw the bodies' corners into "
            f"{corners}, or find them with a better detector"
        )
    if not done.rows:
        raise no_volume(place, done.rejected)
    _write(target, columns, done.rows)
    return done


def _grade(
    grader: DiscGrader, name: str, volume: Volume, corners: VolumeCorners, made_of: Mapping[str, str]
) -> list[Row]:
    """The rows of one volume's discs."""
    rows: list[Row] = []
    cut: list[tuple[Row, CutDisc]] = []
    notes = "; ".join((*volume.notes, *corners.assumed))
    for level, (upper, lower) in discs_between(corners.bodies):
        row: Row = {"volume": name, "level": level, "note": notes, "made_of": made_of[level]}
        disc = grader.cut(volume, upper, lower)
        if disc.cut is None:
            row["note"] = f"{_NOT_GRADED}{disc.reason}"
        else:
            cut.append((row, disc.cut))
        rows.append(row)
    for (row, _), said in zip(cut, grader.grade([disc for _, disc in cut]), strict=True):
        for task, classes in grader.tasks.items():
            row[task] = classes[int(said[task].argmax())]
            values = (f"{float(value):.4f}" for value in said[task])
            row |= dict(zip(_columns(task, classes)[1:], values, strict=True))
    return rows


def _key(row: Row) -> tuple[str, str]:
    """What names a row: copies of a volume are made of the same."""
    return row["volume"], row["made_of"]


def _columns(task: str, classes: Sequence[str]) -> list[str]:
    return [task, *(f"{task}:{each}" for each in classes)]


def _hash(pair: Sequence[Vertebra]) -> str:
    facts = [(body.level, float(body.slice), np.asarray(body.corners, float).tolist()) for body in pair]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _read(target: Location, columns: Sequence[str]) -> list[Row]:
    """Rows of an earlier run. Raises UserError for a file that is no table of grades."""
    if not target.is_file():
        return []
    try:
        reader = csv.DictReader(io.StringIO(target.read_bytes(_MOST_BYTES).decode("utf-8")))
        rows = list(reader)
    except (UnicodeDecodeError, csv.Error):
        rows, reader = [], csv.DictReader(io.StringIO(""))
    if not set(_FIXED) <= set(reader.fieldnames or ()):
        raise UserError(f"{target} is there and is no table of grades: give another --out, or delete it")
    return [row for row in rows if set(row) == set(columns)]


def _write(target: Location, columns: Sequence[str], rows: Sequence[Row]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    target.write_bytes(text.getvalue().encode())
