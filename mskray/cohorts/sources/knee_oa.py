"""Knee OA (Chen 2018, Mendeley doi 10.17632/56rmx5bjcr.1): knee radiographs graded by Kellgren and Lawrence.

    mskray ingest knee-oa FOLDER --out URI

Layout: `{train,val,test}/{0..4}/<subject><L|R>.png`, the folder being the KL grade and the subject the first seven
digits. A study is a subject's images. Abnormal means KL 2 or more, the usual threshold of radiographic
osteoarthritis. The source's splits are kept: train, val → validation, test → test; a copy without `test` gives a
cohort without one. `--split-fractions` cuts anew by subject instead.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from mskray.cohorts.schema import ABNORMALITY, Task
from mskray.cohorts.sources import Item, Rejected, Source, child_folders, fingerprint, register
from mskray.config import Section
from mskray.errors import UserError
from mskray.storage import Location

_SPLITS = {"train": "train", "val": "validation", "test": "test"}
_FILE = re.compile(r"(?P<grade>[0-4])/(?P<subject>\d{7})(?P<side>[LR])\.(png|jpe?g|tiff?)", re.IGNORECASE)
_ABNORMAL_FROM = 2

KL_GRADE = Task(name="kl_grade", classes=tuple(f"KL{grade}" for grade in range(5)), ordinal=True)


@dataclass(frozen=True, slots=True)
class Radiograph:
    """One file of the layout; `side` is "L" or "R", `grade` that of Kellgren and Lawrence."""

    path: str
    split: str
    subject: str
    side: str
    grade: int
    fingerprint: str


class KneeOptions(Section):
    """None: the layout says it all."""


@register
class KneeOA(Source[KneeOptions]):
    name = "knee-oa"
    summary = "Knee OA (Chen 2018): {train,val,test}/{0..4}/<subject><L|R>.png"
    Options = KneeOptions
    split_note = "the source's own splits; val is validation"

    def root(self, location: Location, options: KneeOptions) -> Location:
        folders = child_folders(location, tuple(_SPLITS))
        graded = [name for name in folders if child_folders(location.join(name), tuple("01234"))]
        if not graded:
            raise UserError(
                f"{location} is not laid out like knee-oa: expected train/, val/ or test/ with folders 0 to 4 in it"
            )
        return location

    def tasks(self, location: Location | None, options: KneeOptions) -> tuple[Task, ...]:
        return (ABNORMALITY, KL_GRADE)

    def items(self, location: Location | None, options: KneeOptions) -> Iterator[Item | Rejected]:
        assert location is not None
        seen: dict[tuple[str, str], int] = {}
        for found in radiographs(location):
            if isinstance(found, Rejected):
                yield found
                continue
            # The walk goes grade by grade: a subject's images are counted as they come.
            key = (found.split, found.subject)
            seen[key] = seen.get(key, -1) + 1
            yield Item(
                path=found.path,
                patient_id=found.subject,
                study_id=found.subject,
                fingerprint=found.fingerprint,
                labels={ABNORMALITY.name: int(found.grade >= _ABNORMAL_FROM), KL_GRADE.name: found.grade},
                body_part="KNEE",
                view="PA",
                view_index=seen[key],
                laterality=found.side,
                split=found.split,
            )


def radiographs(location: Location) -> Iterator[Radiograph | Rejected]:
    """Every file of the layout, in the order of its paths."""
    for folder in child_folders(location, tuple(_SPLITS)):
        for entry in location.join(folder).walk():
            path = f"{folder}/{entry.path}"
            match = _FILE.fullmatch(entry.path)
            if match is None:
                yield Rejected(path, "not <grade 0 to 4>/<7 digits><L or R>.png")
                continue
            side, split = match["side"].upper(), _SPLITS[folder]
            yield Radiograph(path, split, match["subject"], side, int(match["grade"]), fingerprint(entry))
