"""Pairs that an archive holds: a picture, and the same place of the same patient in the latest earlier study.

What a pair is, is a site's knowledge: a study of one knee may be followed by another of the same knee after surgery, or
be the other half of an examination. Headers cannot tell, so pairs are made only where they are asked for (`--pairs`).
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

from pydicom import Dataset

from mskray.client import Client
from mskray.dicom import file_bytes
from mskray.dicom.archive import Refused, TooLarge, Visit
from mskray.dicom.study import Failed, Part, Study
from mskray.errors import Fault, UserError
from mskray.serving.schemas.models import Models
from mskray.verbs.dicomweb_asking import asking, check_same
from mskray.verbs.dicomweb_pairs import pair_results
from mskray.verbs.dicomweb_studies import RADIOGRAPHS

MODALITIES = (*RADIOGRAPHS, "MR", "CT")
_MOST_EARLIER = 20
"""Studies of a patient that are looked into, from the latest back."""
_MOST_PICTURES = 20
"""Series of one picture in a study; one with more holds something else."""


class Place(NamedTuple):
    """What two pictures must agree in to be a pair; "" where a header says nothing."""

    patient: str
    issuer: str
    born: str
    modality: str
    body_part: str
    side: str
    view: str
    series: str


def read_pairs(client: Client, expected: str, models: Models) -> Callable[[Study], Iterator[Part]]:
    """Return what has a server judge each picture of a study beside its earlier one, by the model of this hash."""

    def read(study: Study) -> Iterator[Part]:
        pictures = _pictures(study)
        alike = Counter(place for place, _ in pictures)
        wanted: dict[Place, Dataset] = {}
        for place, picture in pictures:
            if not place.body_part or not place.patient:
                yield Part(reason="a picture whose patient or part of the body is not stated has no earlier one")
            elif alike[place] > 1:
                yield Part(reason="pictures that headers do not tell apart have no earlier one each")
            else:
                wanted[place] = picture
        found = _earlier(study, wanted) if wanted else {}
        for place, after in wanted.items():
            before = found.get(place)
            if before is None:
                yield Part(reason="no earlier picture of the same place")
                continue
            try:
                with asking():
                    answer = client.predict_pair(file_bytes(before), file_bytes(after))
                check_same(answer.model.hash, expected)
                yield Part(pair_results(before, after, answer, models))
            except (Fault, Failed):
                raise
            except UserError as error:
                yield Part(reason=str(error))
        if not pictures:
            raise UserError("a pair is of single pictures, and no series of this study holds one alone")

    return read


def place_of(image: Dataset) -> Place:
    """Return what a picture shows, as far as its header tells."""
    return Place(
        patient=str(image.get("PatientID", "") or ""),
        issuer=str(image.get("IssuerOfPatientID", "") or ""),
        born=str(image.get("PatientBirthDate", "") or ""),
        modality=_word(image, "Modality"),
        body_part=_word(image, "BodyPartExamined"),
        side=_word(image, "ImageLaterality") or _word(image, "Laterality"),
        view=_word(image, "ViewPosition"),
        series=_word(image, "SeriesDescription"),
    )


def _pictures(study: Study) -> list[tuple[Place, Dataset]]:
    """The pictures that are alone in their series, with what they show."""
    alone = [held for held in study.series if len(held) == 1]
    if len(alone) > _MOST_PICTURES:
        return []
    images = [image for held in alone for image in study.fetch(held)]
    return [(place_of(image), image) for image in images if str(image.get("Modality", "")) in MODALITIES]


def _earlier(study: Study, wanted: dict[Place, Dataset]) -> dict[Place, Dataset]:
    """The latest earlier picture of each place; none where a study holds several that are alike."""
    first = next(iter(wanted.values()))
    date, time = (str(first.get(keyword, "") or "") for keyword in ("StudyDate", "StudyTime"))
    if not date:
        return {}
    visits = [visit for visit in _visits(study, str(first.PatientID)) if _before(visit, date, time)]
    found: dict[Place, Dataset] = {}
    ambiguous: set[Place] = set()
    for visit in visits[:_MOST_EARLIER]:
        try:
            held = [each for each in study.archive.images(visit.study) if each.modality in ("", *MODALITIES)]
        except TooLarge:
            continue
        pictures = _pictures(Study(study.archive, visit.study, held))
        alike = Counter(place for place, _ in pictures)
        ambiguous |= {place for place, count in alike.items() if count > 1}
        for place, picture in pictures:
            if place in wanted and place not in ambiguous:
                found.setdefault(place, picture)
        if all(place in found or place in ambiguous for place in wanted):
            break
    return found


def _visits(study: Study, patient: str) -> list[Visit]:
    try:
        return study.archive.visits(patient)
    except (Fault, Refused):
        raise
    except UserError as error:
        raise Failed(str(error)) from error


def _before(visit: Visit, date: str, time: str) -> bool:
    """Whether a study is earlier; of one day only where both say when."""
    if visit.date != date:
        return bool(visit.date) and visit.date < date
    return bool(visit.time and time) and visit.time < time


def _word(image: Dataset, keyword: str) -> str:
    return re.sub(r"\s+", " ", str(image.get(keyword, "") or "")).strip().upper()
