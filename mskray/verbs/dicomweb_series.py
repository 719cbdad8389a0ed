"""Which series of a study may show a spine: each has a server read it, and gets results of its own.

Every sagittal MR volume is read, T1 and T2 alike: marrow changes are told by both, Pfirrmann's grades by T2, and which
one a site trusts is not ours to say; each result refers to its own series. CT is left alone: graders learned from MR.
"""

import re
from collections.abc import Callable, Iterator, Sequence

from pydicom import Dataset

from mskray.client import Client
from mskray.dicom import file_bytes
from mskray.dicom.study import Failed, Part, Study
from mskray.errors import Fault, UserError
from mskray.imaging.spine_cell import unfit_for_spines
from mskray.imaging.volumes import read_series
from mskray.serving.schemas.models import Models
from mskray.serving.schemas.spines import SpineAnswer
from mskray.verbs.dicomweb_asking import asking, check_same
from mskray.verbs.dicomweb_models import spine_algorithm
from mskray.verbs.dicomweb_spines import spine_results

MODALITY = "MR"
_PARTS = re.compile(
    r"|(WHOLE|TOTAL|T|TH|L|S|LS|TL|TLS|LUMBAR|LUMBO?SACRAL|THORACIC|THORACOLUMBAR)?SPINE|(SPINE)?(LUMBAR|THORACIC)"
)
"""Body parts whose pictures may show levels from T12 down, letters alone; "" is not known. Necks have no such level."""
_EXPLAIN = "hotspots"


def read_spines(client: Client, models: Models) -> Callable[[Study], Iterator[Part]]:
    """Return what has a server read each sagittal series of a study's MR images."""
    expected = spine_algorithm(models).hash

    def read(study: Study) -> Iterator[Part]:
        for held in study.series:
            first = study.fetch(held[:1])
            if reason := left_alone(first):
                yield Part(reason=reason)
                continue
            volumes, reasons = sagittal([*first, *study.fetch(held[1:])])
            yield from (Part(reason=reason) for reason in reasons)
            for images in volumes:
                try:
                    yield Part(spine_results(images, *_asked(client, images, expected), models))
                except (Fault, Failed):
                    raise
                except UserError as error:
                    yield Part(reason=str(error))  # of this volume; the next may have an answer

    return read


def sagittal(images: Sequence[Dataset]) -> tuple[list[list[Dataset]], list[str]]:
    """Return the images of each volume of a series that may show a spine, and why the others do not."""
    found = read_series((str(index), file_bytes(image)) for index, image in enumerate(images))
    volumes, reasons = [], []
    for volume, names in zip(found.volumes, found.files, strict=True):
        reason = unfit_for_spines(volume)
        if reason is None:
            used = dict.fromkeys(int(name.split()[0]) for name in names if name is not None)
            volumes.append([images[index] for index in used])
        else:
            reasons.append(reason)
    if not found.volumes:
        reasons.append(next((reason for _, reason in found.rejected), "no volume"))
    return volumes, reasons


def left_alone(images: Sequence[Dataset]) -> str | None:
    """Why a series is left alone, by the header of its first image; None where it is read."""
    if not images:
        return "no picture of a scanner"
    modality = str(images[0].get("Modality", ""))
    if modality != MODALITY:
        return f"spines are read on MR, not on {modality or 'pictures without a modality'}"
    part = str(images[0].get("BodyPartExamined", "") or "").upper()
    return None if _PARTS.fullmatch(re.sub("[^A-Z]", "", part)) else "another part of the body than the lower spine"


def _asked(client: Client, images: Sequence[Dataset], expected: str) -> tuple[SpineAnswer, dict[str, bytes]]:
    """What a server says of a volume, and its pictures of hotspots by their links."""
    with asking():
        answer = client.read_spine([file_bytes(image) for image in images], explain=_EXPLAIN)
        check_same(answer.model, expected)
        grades = [grade for disc in answer.discs for grade in disc.grades.values()]
        return answer, {href: client.fetch(href) for grade in grades for href in grade.hotspots or ()}
