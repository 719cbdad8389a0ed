"""What a server says of a study of radiographs, as DICOM: a report, key areas, and pictures of the members' reasons.

Reasons become secondary captures and not parametric maps. They are shares of each picture's own peak, no quantity that
a viewer could compare or measure; a map needs a frame of reference, which a radiograph lacks; and every viewer shows a
picture. They are asked for as arrays: that needs no store at the server, and nothing of the study stays there.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from mskray.client import Client
from mskray.dicom import (
    Algorithm,
    Box,
    Finding,
    Group,
    Segment,
    file_bytes,
    secondary_capture,
    segmentation,
    structured_report,
)
from mskray.dicom.study import Part, Study
from mskray.errors import UserError
from mskray.evaluation.calibration import decision
from mskray.imaging.decode import decode
from mskray.imaging.overlay import draw
from mskray.serving.schemas.common import Probabilities
from mskray.serving.schemas.models import Models
from mskray.serving.schemas.studies import KeyArea, Overlay, StudyAnswer, ViewResult
from mskray.verbs.dicomweb_asking import asking, check_same
from mskray.verbs.dicomweb_models import ensemble_algorithm

RADIOGRAPHS = ("CR", "DX", "RG", "DR")
"""Modalities; DR is an old name of DX that archives still hold."""
_EXPLAIN = "grad_cam"
_NOT_EXPLAINED = "not-explained"
"""A doubt about a picture that was asked for and is not there: none about the finding."""


def read_studies(client: Client, models: Models) -> Callable[[Study], Iterator[Part]]:
    """Return what has a server predict a study's radiographs."""

    def read(study: Study) -> Iterator[Part]:
        fetched = study.fetch(study.images)
        images = [image for image in fetched if str(image.get("Modality", "")) in RADIOGRAPHS]
        if not images:
            found = ", ".join(sorted({str(image.get("Modality", "") or "no modality") for image in fetched}))
            raise UserError(f"no radiograph in it: {found}")
        with asking():
            answer = client.predict_study([file_bytes(image) for image in images], explain=[_EXPLAIN], arrays=True)
        check_same(answer.model.hash, models.of_studies.hash)
        yield Part(study_results(images, answer, models))

    return read


def study_results(images: Sequence[Dataset], answer: StudyAnswer, models: Models) -> list[Dataset]:
    """Return a structured report on a study's images; of each image in which members looked somewhere a segmentation,
    and a picture of each member's reasons.

    Args:
        images: what was sent, pixels and all, in its order.
        answer: with overlays as arrays, if it has any.
    """
    algorithm = ensemble_algorithm(answer.model, models, "studies")
    made = [structured_report(images, groups(answer), algorithm)]
    for place, view in enumerate(answer.views):
        if segments := [Segment(f"{each.member}: {each.name}", (_box(each),)) for each in view.boxes]:
            made.append(segmentation([images[place]], segments, algorithm, f"key areas of image {place + 1}"))
    number = 0
    for place, view in enumerate(answer.views):
        shown = [each for each in view.overlays if each.array]
        pixels = decode(file_bytes(images[place])).pixels if shown else np.zeros((0, 0), np.uint8)
        for each in shown:
            number += 1
            made.append(_picture(images[place], pixels, each, view, algorithm, number))
    return made


def groups(answer: StudyAnswer) -> list[Group]:
    """Return what is said of the study, and of each of its views, for a report."""
    views = [view.members for view in answer.views]
    mean = {name: _mean([members[name] for members in views]) for name in views[0]}
    study = answer.study
    notes = tuple(warning.message for warning in answer.warnings if warning.code != _NOT_EXPLAINED)
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


def _picture(
    image: Dataset, pixels: NDArray[np.integer], overlay: Overlay, view: ViewResult, algorithm: Algorithm, number: int
) -> Dataset:
    """A radiograph with a member's reasons laid over it."""
    title = f"{overlay.member}: {overlay.method} for {overlay.label}"
    share = view.members.get(overlay.member, {}).get(overlay.label)
    said = title if share is None else f"{title}, its probability {share:.2f}"
    drawn = draw(pixels, _shares(overlay, *pixels.shape), title=said)
    return secondary_capture([image], drawn, algorithm, title, instance_number=number)


def _shares(overlay: Overlay, rows: int, columns: int) -> NDArray[np.floating]:
    """(rows, columns) in 0–1: the overlay at its place in the view, 0 around it."""
    values: NDArray[np.floating] = np.array(overlay.array, np.float32) / 255
    if (overlay.x, overlay.y, overlay.width, overlay.height) == (0, 0, columns, rows):
        return values  # `draw` fits what covers the whole
    # From the overlay's pixel to the view's: both count from their first pixel's centre, edges are half a pixel off.
    across, down = overlay.width / values.shape[1], overlay.height / values.shape[0]
    move = np.array([[across, 0, overlay.x + across / 2 - 0.5], [0, down, overlay.y + down / 2 - 0.5]])
    return cv2.warpAffine(values, move, (columns, rows), flags=cv2.INTER_LINEAR).astype(np.float32)
