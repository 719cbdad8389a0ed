"""An overlay as a Secondary Capture image: a plain picture that every viewer shows, with a reference to its source."""

from collections.abc import Sequence

import numpy as np
from highdicom.sc import SCImage
from numpy.typing import NDArray
from pydicom import Dataset

from mskray.dicom import concepts
from mskray.dicom.results import NOT_A_DEVICE, Algorithm
from mskray.dicom.sources import headers, new_uids, settle_characters
from mskray.errors import UserError
from mskray.imaging.quiet import quiet

SERIES_NUMBER = 9702


def secondary_capture(
    sources: Sequence[Dataset],
    picture: NDArray[np.uint8],
    algorithm: Algorithm,
    label: str,
    *,
    instance_number: int = 1,
    series_number: int = SERIES_NUMBER,
) -> Dataset:
    """A picture as a DICOM image.

    Args:
        sources: the images that it was made of, of one study, as pydicom read them.
        picture: (rows, columns, 3) uint8, RGB.
        algorithm: the model whose result it shows.
        label: what it shows, distinct among the model's pictures of these sources ("overlay", "grad_cam").
        instance_number, series_number: its place within its series, and the series' within the study.
    Raises:
        UserError: sources do not do (`headers`), or the picture is none.
    """
    images = headers(sources)
    shape = np.shape(picture)
    if len(shape) != 3 or shape[2] != 3 or 0 in shape or np.asarray(picture).dtype != np.uint8:
        raise UserError(f"{label}: a picture is (rows, columns, 3) uint8, not {shape} {np.asarray(picture).dtype}")
    series, instance = new_uids("picture", images, algorithm, label, shape)
    first = images[0]
    with quiet("highdicom", "pydicom"):
        made = SCImage(
            pixel_array=np.ascontiguousarray(picture),
            photometric_interpretation="RGB",
            bits_allocated=8,
            coordinate_system="PATIENT",
            patient_orientation=("L", "F"),  # asked for; what is not known is left empty below
            study_instance_uid=first.StudyInstanceUID,
            series_instance_uid=series,
            series_number=series_number,
            sop_instance_uid=instance,
            instance_number=instance_number,
            **algorithm.equipment(),
            series_description="mskray overlays",
            specific_character_set=first.SpecificCharacterSet,
        )
        made.copy_patient_and_study_information(first)
    same = len(images) == 1 and shape[:2] == (first.Rows, first.Columns)
    made.PatientOrientation = (first.get("PatientOrientation") or []) if same else []
    made.ConversionType = "WSD"  # of a workstation: nothing was digitised
    made.DerivationDescription = f"{label}. {NOT_A_DEVICE}"
    made.SourceImageSequence = [_reference(image) for image in images]
    for keyword in ("BodyPartExamined", "Laterality", "ImageLaterality", "BurnedInAnnotation"):
        if keyword in first:
            setattr(made, keyword, first.get(keyword))
    if first.get("LossyImageCompression") == "01":
        for keyword in ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"):
            if keyword in first:
                setattr(made, keyword, first.get(keyword))
    return settle_characters(made)


def _reference(image: Dataset) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
    item.PurposeOfReferenceCodeSequence = [concepts.coded(concepts.SOURCE_IMAGE)]
    return item
