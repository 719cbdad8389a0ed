"""Source images for the tests of DICOM results: radiographs and slices of phantoms, as scanners would write them."""

from copy import deepcopy
from typing import Any

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    generate_uid,
)

from mskray.dicom import Algorithm, Finding

ALGORITHM = Algorithm(
    "knees",
    "0.1.0",
    "5f" * 32,
    {"threshold": "0.5"},
    (Algorithm("densenet169", "0.1.0", "a1" * 32), Algorithm("mobilenet_v2", "0.1.0", "b2" * 32)),
)


KNEE_FINDING = Finding(
    "abnormality",
    "abnormal",
    {"normal": 0.18, "abnormal": 0.82},
    0.5,
    {"densenet169": {"normal": 0.2, "abnormal": 0.8}, "mobilenet_v2": {"normal": 0.31234, "abnormal": 0.68766}},
)


def radiograph(stored: np.ndarray | None = None, name: str = "1", **elements: Any) -> Dataset:
    """A CR of the patient and study that all sources here share; elements by keyword, None deletes."""
    made = _image(np.arange(60 * 48, dtype=np.uint16).reshape(60, 48) if stored is None else stored, "cr", name)
    made.SOPClassUID, made.Modality = ComputedRadiographyImageStorage, "CR"
    made.BodyPartExamined, made.Laterality, made.ImagerPixelSpacing = "KNEE", "L", [0.15, 0.15]
    made.PatientOrientation = ["L", "F"]
    return _finished(made, elements)


def slices(pixels: np.ndarray, affine: np.ndarray, **elements: Any) -> list[Dataset]:
    """An MR series: (slices, rows, columns) uint16 with voxel (column, row, slice, 1) → LPS mm."""
    along, down, through = affine[:3, :3].T
    spacing = [float(np.linalg.norm(axis)) for axis in (down, along, through)]
    series = []
    for index, stored in enumerate(pixels):
        made = _image(stored, "mr", str(index))
        made.SOPClassUID, made.Modality = MRImageStorage, "MR"
        made.FrameOfReferenceUID, made.PositionReferenceIndicator = generate_uid(entropy_srcs=["frame"]), ""
        made.PixelSpacing, made.SliceThickness = [f"{each:.10g}" for each in spacing[:2]], f"{spacing[2]:.10g}"
        made.ImageOrientationPatient = [f"{each:.12f}" for each in (*(along / spacing[1]), *(down / spacing[0]))]
        made.ImagePositionPatient = [f"{each:.8f}" for each in affine[:3, 3] + index * through]
        made.InstanceNumber, made.BodyPartExamined = index + 1, "LSPINE"
        series.append(_finished(made, elements))
    return series


def multi_frame(series: list[Dataset]) -> Dataset:
    """The slices as frames of one enhanced MR object, in their order."""
    enhanced = deepcopy(series[0])
    enhanced.SOPClassUID, enhanced.NumberOfFrames = EnhancedMRImageStorage, len(series)
    shared, frames = Dataset(), []
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [Dataset()], [Dataset()]
    shared.PixelMeasuresSequence[0].PixelSpacing = enhanced.PixelSpacing
    shared.PixelMeasuresSequence[0].SliceThickness = enhanced.SliceThickness
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = enhanced.ImageOrientationPatient
    for each in series:
        frames.append(Dataset())
        frames[-1].PlanePositionSequence = [Dataset()]
        frames[-1].PlanePositionSequence[0].ImagePositionPatient = each.ImagePositionPatient
    for keyword in ("PixelSpacing", "SliceThickness", "ImageOrientationPatient", "ImagePositionPatient"):
        delattr(enhanced, keyword)
    enhanced.SharedFunctionalGroupsSequence, enhanced.PerFrameFunctionalGroupsSequence = [shared], frames
    enhanced.PixelData = b"".join(each.PixelData for each in series)
    return enhanced


def _image(stored: np.ndarray, series: str, name: str) -> Dataset:
    made = Dataset()
    made.SOPInstanceUID = generate_uid(entropy_srcs=["instance", series, name])
    made.SeriesInstanceUID = generate_uid(entropy_srcs=["series", series])
    made.StudyInstanceUID = generate_uid(entropy_srcs=["study"])
    made.PatientName, made.PatientID, made.PatientBirthDate, made.PatientSex = "Doe^Jane", "MRN-0042", "19500203", "F"
    made.StudyDate, made.StudyTime, made.StudyID, made.AccessionNumber = "20200102", "101112", "77", "A-1"
    made.ReferringPhysicianName, made.StudyDescription, made.SeriesNumber = "Roe^Richard", "Knee", 1
    made.Manufacturer, made.InstanceNumber = "Maker", 1
    made.Rows, made.Columns = stored.shape
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, 12, 11, 0
    made.PixelData = stored.astype(np.uint16).tobytes()
    made["PixelData"].VR = "OW"
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return made


def _finished(made: Dataset, elements: dict[str, Any]) -> Dataset:
    for keyword, value in elements.items():
        if value is None:
            delattr(made, keyword)
        else:
            setattr(made, keyword, value)
    return made
