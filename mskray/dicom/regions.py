"""Boxes and masks as a DICOM Segmentation: binary, a segment for each thing that was marked."""

from collections.abc import Sequence

import numpy as np
from highdicom import AlgorithmIdentificationSequence
from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentationTypeValues, SegmentDescription
from numpy.typing import NDArray
from pydicom import Dataset

from mskray.dicom import concepts
from mskray.dicom.report import image_of
from mskray.dicom.results import Algorithm, Segment
from mskray.dicom.sources import finish_frames, headers, new_uids, placed, uid
from mskray.errors import UserError
from mskray.imaging.quiet import quiet

SERIES_NUMBER = 9703
_TURN = 1e-3
"""Between two slices' direction cosines; scanners write them with six digits."""


def segmentation(
    sources: Sequence[Dataset],
    segments: Sequence[Segment],
    algorithm: Algorithm,
    label: str = "key areas",
    *,
    instance_number: int = 1,
    series_number: int = SERIES_NUMBER,
) -> Dataset:
    """Marked parts of a radiograph, or of the slices of one series.

    Args:
        sources: one radiograph, or slices of one series; as pydicom read them.
        segments: in the order of their segment numbers, from 1; they may overlap.
        algorithm: the model.
        label: what is marked, distinct among the model's segmentations of these sources.
        instance_number, series_number: its place within its series, and the series' within the study.
    Raises:
        UserError: sources do not do (`headers`), are several radiographs or of several series or sizes; there is no
            segment, or one has nothing in it or does not lie in the images.
    """
    images = one_series(headers(sources), "a segmentation")
    if not segments:
        raise UserError("nothing to segment: give at least one box or mask")
    pixels = np.stack([_mask(segment, images) for segment in segments], axis=-1)
    series, instance = new_uids("segmentation", images, algorithm, label, *(each.label for each in segments))
    descriptions = [
        SegmentDescription(
            segment_number=number,
            segment_label=segment.label[:64],
            segmented_property_category=concepts.coded(segment.category or concepts.SPATIAL_CONCEPT),
            segmented_property_type=concepts.coded(segment.kind or concepts.REGION),
            algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=AlgorithmIdentificationSequence(
                name=algorithm.name[:64],
                family=concepts.coded(concepts.NEURAL_NETWORK),
                version=algorithm.version[:64],
                source=algorithm.manufacturer[:64],
                parameters=algorithm.settings or None,
            ),
            tracking_uid=uid("segment", instance, number),
            tracking_id=f"{label} {number}: {segment.label}"[:64],
        )
        for number, segment in enumerate(segments, start=1)
    ]
    with quiet("highdicom", "pydicom"):
        made = Segmentation(
            source_images=images,
            pixel_array=pixels,
            segmentation_type=SegmentationTypeValues.BINARY,
            segment_descriptions=descriptions,
            series_instance_uid=series,
            series_number=series_number,
            sop_instance_uid=instance,
            instance_number=instance_number,
            **algorithm.equipment(instance[-16:]),
            content_label="MSKRAY",
            content_description=label[:64],
            content_creator_name="mskray^",
            series_description="mskray segmentations",
            coding_schemes=[concepts.scheme()],
        )
    return finish_frames(made, images[0])


def one_series(images: list[Dataset], what: str) -> list[Dataset]:
    """The images, checked to be one radiograph, one multi-frame image, or equally large slices of one series."""
    if len({image.SeriesInstanceUID for image in images}) > 1:
        raise UserError(f"{what} is about one series, and its sources are of several: make one for each")
    if len({(image.Rows, image.Columns) for image in images}) > 1:
        raise UserError(f"{what} is about images of one size, and its sources differ: make one for each")
    several = len(images) > 1 or int(images[0].get("NumberOfFrames", 1)) > 1
    if several and not all(placed(image) for image in images):
        raise UserError(f"{what} of several images without place in the patient: make one for each")
    axes = [list(map(float, image.get("ImageOrientationPatient", ()))) for image in images]
    if len(set(map(len, axes))) > 1 or (np.ptp(axes, axis=0) > _TURN).any():
        raise UserError(f"{what} is about parallel slices, and its sources are turned against each other: make several")
    return images


def _mask(segment: Segment, images: Sequence[Dataset]) -> NDArray[np.bool_]:
    """(frames, rows, columns): what is marked in each source."""
    frames = len(images) if len(images) > 1 else int(images[0].get("NumberOfFrames", 1))
    marked = np.zeros((frames, images[0].Rows, images[0].Columns), bool)
    if segment.mask is not None:
        given = np.asarray(segment.mask)
        given = given[None] if given.ndim == 2 else given
        if given.shape != marked.shape or given.dtype != bool:
            sizes = " × ".join(map(str, np.shape(segment.mask)))
            wanted = " × ".join(map(str, marked.shape))
            raise UserError(f"{segment.label}: a mask of {sizes} {given.dtype}, and the images are {wanted}: give bool")
        marked |= given
    for box in segment.boxes:
        image_of(box, images)
        left, top = int(np.floor(box.x)), int(np.floor(box.y))
        right, bottom = int(np.ceil(box.x + box.width)), int(np.ceil(box.y + box.height))
        marked[box.image, top:bottom, left:right] = True
    if not marked.any():
        raise UserError(f"{segment.label}: nothing is marked")
    return marked
