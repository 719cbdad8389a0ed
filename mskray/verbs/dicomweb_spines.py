"""What a server says of a spine, as DICOM objects that lie on the slices that it was sent.

    made = spine_results(images, client.spine(…), {href: png}, client.models())

A structured report has a group for each disc, a segmentation the outline of each body in its middle slice, and a
parametric map shows the hotspots of a grade, each picture at its place in the patient.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from mskray.dicom import (
    NOT_A_DEVICE,
    Algorithm,
    Finding,
    Group,
    Segment,
    file_bytes,
    parametric_map,
    segmentation,
    structured_report,
)
from mskray.dicom.concepts import ANATOMICAL_STRUCTURE, VERTEBRAE
from mskray.errors import UserError
from mskray.imaging.decode import DecodeError, decode
from mskray.imaging.spine_cell import unfit_for_spines
from mskray.imaging.volumes import Volume, read_series, to_sagittal
from mskray.serving.schemas.models import Models
from mskray.serving.schemas.spines import BodyResult, DiscResult, Placement, SpineAnswer
from mskray.verbs.dicomweb_models import spine_algorithm


def spine_results(
    images: Sequence[Dataset], answer: SpineAnswer, hotspots: Mapping[str, bytes], models: Models
) -> list[Dataset]:
    """Return a report, a segmentation of the bodies that were found, and a map for each grade that has hotspots.

    Args:
        images: what was sent, pixels and all.
        hotspots: PNG files by the `href` that a grade of the answer names them by; those that lack make no map.
    Raises:
        UserError: the images hold no volume as large as the one that was read, or no disc could be graded.
    """
    algorithm = spine_algorithm(models)
    sent = _Sent.of(images, answer)
    made = [_report(sent, answer, algorithm)]
    segments = [segment for body in answer.bodies if (segment := _outline(sent, body)) is not None]
    if segments:
        made.append(segmentation(sent.images, segments, algorithm, "vertebral bodies"))
    for number, (label, placement, values) in enumerate(_maps(answer, hotspots), start=1):
        affine = sent.seen.affine @ _to_volume(placement)
        made.append(parametric_map(sent.images, values, algorithm, label, affine=affine, instance_number=number))
    return made


@dataclass(frozen=True, eq=False)
class _Sent:
    """The slices that the server read its volume from.

    Args:
        images: of the volume, in its order; one where it is a multi-frame object.
        stored: the volume as its slices lie; `seen`: in the order of `to_sagittal`, as the answer counts.
        frames: (slice of `stored`, image or frame) of each that is there.
    """

    images: list[Dataset]
    stored: Volume
    seen: Volume
    frames: list[tuple[int, int]]

    @classmethod
    def of(cls, images: Sequence[Dataset], answer: SpineAnswer) -> "_Sent":
        found = read_series((str(index), file_bytes(image)) for index, image in enumerate(images))
        wanted = (answer.volume.slices, answer.volume.rows, answer.volume.columns)
        fit = [
            (volume, names)
            for volume, names in zip(found.volumes, found.files, strict=True)
            if unfit_for_spines(volume) is None and to_sagittal(volume).pixels.shape == wanted
        ]
        if len(fit) != 1:
            raise UserError(
                f"the images hold {len(fit)} sagittal volumes of {' × '.join(map(str, wanted))} voxels, and the answer "
                "is about one: give the images that were sent"
            )
        volume, names = fit[0]
        places = [(place, name.split(" frame ")) for place, name in enumerate(names) if name is not None]
        used = list(dict.fromkeys(int(words[0]) for _, words in places))
        if len(used) == 1:
            frames = [(place, int(words[-1]) if len(words) > 1 else 0) for place, words in places]
        else:
            frames = [(place, used.index(int(words[0]))) for place, words in places]
        return cls([images[index] for index in used], volume, to_sagittal(volume), frames)

    def mask(self, seen: Mapping[int, NDArray[np.bool_]]) -> NDArray[np.bool_]:
        """Turn marks in slices of `seen` into those of the images, (images or frames, rows, columns)."""
        whole = np.zeros(self.stored.pixels.shape, bool)
        # Axes are permuted and flipped, nothing is copied: what is marked in the view is marked in the whole.
        view = to_sagittal(replace(self.stored, pixels=whole)).pixels
        for place, marked in seen.items():
            view[place] = marked
        count = len(self.images) if len(self.images) > 1 else int(self.images[0].get("NumberOfFrames") or 1)
        found = np.zeros((count, *whole.shape[1:]), bool)
        for place, frame in self.frames:
            found[frame] = whole[place]
        return found

    def shown(self, slices: Sequence[float]) -> tuple[int, ...]:
        """Numbers of the images that slices of `seen` come from."""
        if len(self.images) == 1:
            return (0,)
        every = np.ones(self.seen.pixels.shape[1:], bool)
        marked = self.mask({round(place): every for place in slices}).any(axis=(1, 2))
        return tuple(np.flatnonzero(marked).tolist())


def _report(sent: _Sent, answer: SpineAnswer, algorithm: Algorithm) -> Dataset:
    graded = [disc for disc in answer.discs if disc.grades]
    left_out = [f"{disc.level}: {disc.note}" for disc in answer.discs if disc.note]
    remarks = [warning.message for warning in answer.warnings] + left_out
    if not graded:
        raise UserError(f"no disc could be graded ({'; '.join(remarks) or 'none was found'}): there is nothing to file")
    comment = ". ".join([NOT_A_DEVICE.rstrip("."), *remarks]) + "."
    return structured_report(sent.images, [_group(sent, disc) for disc in graded], algorithm, comment=comment)


def _group(sent: _Sent, disc: DiscResult) -> Group:
    findings = tuple(Finding(task, grade.label, grade.probabilities) for task, grade in disc.grades.items())
    images = () if disc.placement is None else sent.shown(disc.placement.slices)
    return Group(disc.level, findings, images=images, level=disc.level)


def _outline(sent: _Sent, body: BodyResult) -> Segment | None:
    """A body in its middle slice; None where no image shows that."""
    marked = np.zeros(sent.seen.pixels.shape[1:], np.uint8)
    # fillPoly takes centres of pixels, here in 1/16 px.
    corners = np.rint((np.array(body.corners) - 0.5) * 16).astype(np.int32)
    cv2.fillPoly(marked, [corners], 1, shift=4)
    place = min(max(round(body.slice), 0), len(sent.seen.pixels) - 1)
    mask = sent.mask({place: marked.astype(bool)})
    if not mask.any():
        return None
    return Segment(f"{body.level}, middle slice", (), mask, ANATOMICAL_STRUCTURE, VERTEBRAE[body.level])


def _maps(answer: SpineAnswer, hotspots: Mapping[str, bytes]) -> Iterator[tuple[str, Placement, NDArray[np.float32]]]:
    """Each grade's hotspots: what they show, how they lie, (slices, rows, columns) in 0–1."""
    for disc in answer.discs:
        for task, grade in disc.grades.items():
            if disc.placement is None or not grade.hotspots or not all(each in hotspots for each in grade.hotspots):
                continue
            wanted = (len(disc.placement.slices), disc.placement.rows, disc.placement.columns)
            try:
                values = np.stack([decode(hotspots[each]).pixels for each in grade.hotspots])
            except (DecodeError, ValueError):
                values = np.zeros(0, np.uint8)
            if values.shape != wanted or values.dtype != np.uint8:
                raise UserError(f"{disc.level} {task}: its hotspots are not the pictures that the answer describes")
            yield f"{disc.level} {task} {grade.label}", disc.placement, (values / 255).astype(np.float32)


def _to_volume(placement: Placement) -> NDArray[np.float64]:
    """4 × 4: voxel (column, row, picture, 1) of the pictures → that of the volume in the order of `to_sagittal`."""
    a, b, c, d, e, f = placement.matrix
    first = placement.slices[0]
    step = placement.slices[1] - first if len(placement.slices) > 1 else 1.0
    # A matrix of CSS counts from pixels' edges, an affine from their centres.
    shift_x, shift_y = e + (a + c) / 2 - 0.5, f + (b + d) / 2 - 0.5
    return np.array([[a, c, 0, shift_x], [b, d, 0, shift_y], [0, 0, step, first], [0, 0, 0, 1]], np.float64)
