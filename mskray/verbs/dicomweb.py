"""`mskray dicomweb ARCHIVE --server URL --ledger URI`: every new study of an archive is answered there, as DICOM.

The archive is any DICOMweb service, such as Orthanc's; the server is one that `mskray serve` started. Each study of
radiographs gets a structured report and, where members looked somewhere, a segmentation with their key areas. What was
done stands in the ledger, so that either side and this command may be restarted at any time.
"""

import os
import signal
import threading
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from pydicom import Dataset

from mskray.client import Client, RequestRefused
from mskray.dicom import Box, Finding, Group, Segment, file_bytes, segmentation, structured_report
from mskray.dicom.archive import Archive
from mskray.dicom.web import Outcome, Watcher
from mskray.errors import Fault, UserError
from mskray.evaluation.calibration import decision
from mskray.progress import Progress, Report, silent
from mskray.serving.schemas.common import Probabilities
from mskray.serving.schemas.models import Models
from mskray.serving.schemas.studies import KeyArea, StudyAnswer, ViewResult
from mskray.storage import check_access, locate
from mskray.verbs.dicomweb_models import ensemble_algorithm
from mskray.verbs.predict_remote import TOKEN_VARIABLE

PASSWORD_VARIABLE = "MSKRAY_ARCHIVE_PASSWORD"
_RADIOGRAPHS = ("CR", "DX", "RG", "DR")
"""Modalities; DR is an old name of DX that archives still hold."""
_OF_THE_STUDY = (413, 422)
"""What a server answers where only this study is to blame."""


def watch(
    archive: str,
    server: str,
    ledger: str,
    *,
    user: str | None = None,
    filters: Mapping[str, str] | None = None,
    every_s: float = 10.0,
    once: bool = False,
    report: Report = silent,
) -> int:
    """Answer what is new in an archive until SIGINT or SIGTERM, or once what is there; return how many were answered.

    The password is read from MSKRAY_ARCHIVE_PASSWORD and the server's token from MSKRAY_TOKEN.

    Args:
        archive: URL of the DICOMweb service.
        ledger: URI of the folder in which what was done is remembered.
        filters: QIDO's, by keyword, such as {"ModalitiesInStudy": "DX"}.
        once: answer what is there and end; studies that still grow are answered as they are.
    Raises:
        UserError: archive, server or ledger does not do.
    """
    place = locate(ledger)
    check_access(place, write=True)
    opened = Archive(archive, user=user, password=os.environ.get(PASSWORD_VARIABLE, ""))
    stored = 0

    def told(said: Outcome | Fault) -> None:
        nonlocal stored
        if isinstance(said, Fault):
            report(Progress(f"waiting: {said}"))
            return
        stored += said.state == "stored"
        report(Progress(f"study {said.study} {said.state}", note=said.reason))

    with Client(server, os.environ.get(TOKEN_VARIABLE) or None) as client:
        models = client.models()
        watcher = Watcher(
            opened, predictor(client, models), place, models.of_studies.hash, filters=filters, settled=not once
        )
        if once:
            for outcome in watcher.poll():
                told(outcome)
        else:
            report(Progress(f"watching {archive}, Ctrl-C stops"))
            watcher.watch(_stopped_by_signals(), told, every_s)
    return stored


def predictor(client: Client, models: Models) -> Callable[[Sequence[Dataset]], Sequence[Dataset]]:
    """Return what makes the results of a study's images.

    It raises UserError for a study without radiographs or one that the server cannot answer, Fault for a server that
    is away or has changed its model.
    """

    def predict(images: Sequence[Dataset]) -> Sequence[Dataset]:
        radiographs = [image for image in images if str(image.get("Modality", "")) in _RADIOGRAPHS]
        if not radiographs:
            found = ", ".join(sorted({str(image.get("Modality", "") or "no modality") for image in images}))
            raise UserError(f"no radiograph in it: {found}")
        try:
            answer = client.predict_study([file_bytes(image) for image in radiographs])
        except RequestRefused as error:
            if error.status in _OF_THE_STUDY:
                raise
            raise Fault(str(error)) from None
        if answer.model.hash != models.of_studies.hash:
            raise Fault("the server has another model now: start this command again")
        return results(radiographs, answer, models)

    return predict


def results(images: Sequence[Dataset], answer: StudyAnswer, models: Models) -> list[Dataset]:
    """Return a structured report on a study's images and, of each image in which members looked somewhere, a
    segmentation."""
    algorithm = ensemble_algorithm(answer.model, models, "studies")
    made = [structured_report(images, groups(answer), algorithm)]
    for place, view in enumerate(answer.views):
        if segments := [Segment(f"{each.member}: {each.name}", (_box(each),)) for each in view.boxes]:
            made.append(segmentation([images[place]], segments, algorithm, f"key areas of image {place + 1}"))
    return made


def groups(answer: StudyAnswer) -> list[Group]:
    """Return what is said of the study, and of each of its views, for a report."""
    views = [view.members for view in answer.views]
    mean = {name: _mean([members[name] for members in views]) for name in views[0]}
    study = answer.study
    notes = tuple(warning.message for warning in answer.warnings)
    first = Group("study", (_finding(answer, study.label, study.probabilities, mean),), notes=notes)
    return [first, *(_group(answer, view, place) for place, view in enumerate(answer.views))]


def _group(answer: StudyAnswer, view: ViewResult, place: int) -> Group:
    shares = np.array([list(view.probabilities.values())])
    threshold = 0.5 if answer.study.threshold is None else answer.study.threshold
    label = list(view.probabilities)[int(decision(shares, threshold)[0])]
    boxes = tuple(_box(each, place) for each in view.boxes)
    finding = _finding(answer, label, view.probabilities, view.members)
    return Group(f"image {place + 1}", (finding,), images=(place,), boxes=boxes)


def _finding(
    answer: StudyAnswer, label: str, probabilities: Probabilities, votes: Mapping[str, Probabilities]
) -> Finding:
    return Finding(answer.model.task, label, probabilities, answer.study.threshold, votes)


def _mean(votes: Sequence[Probabilities]) -> Probabilities:
    return {name: float(np.mean([vote[name] for vote in votes])) for name in votes[0]}


def _box(area: KeyArea, image: int = 0) -> Box:
    return Box(area.x, area.y, area.width, area.height, image)


def _stopped_by_signals() -> threading.Event:
    """An event that Ctrl-C and SIGTERM set, so that a study that is being answered is answered to its end."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    return stop
