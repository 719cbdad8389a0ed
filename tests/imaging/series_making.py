"""Small DICOM series for the tests of volumes: slices of known grey levels at known places."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from dicom_making import make_dicom
from pydicom import Dataset
from pydicom.uid import EnhancedMRImageStorage, MRImageStorage

#: Rows run to the feet and columns to the back: a sagittal slice as it is looked at.
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
ROWS, COLUMNS = 5, 7


def levels(index: int, rows: int = ROWS, columns: int = COLUMNS) -> np.ndarray:
    """(rows, columns) uint16, different in every pixel and slice."""
    return (1000 * index + np.arange(1, rows * columns + 1)).reshape(rows, columns).astype(np.uint16)


def make_slice(
    index: int,
    axes: Sequence[float] = SAGITTAL,
    spacing: float = 4.0,
    series: str = "1.2.3",
    stored: np.ndarray | None = None,
    **elements: Any,
) -> bytes:
    """The slice at `index` × `spacing` mm along the normal of `axes`, from (10, 20, 30) mm on."""
    directions = np.reshape(axes, (2, 3))
    position = np.array([10, 20, 30]) + index * spacing * np.cross(*directions)
    geometry = {
        "ImagePositionPatient": [round(float(value), 6) for value in position],
        "ImageOrientationPatient": [round(float(value), 8) for value in axes],
        "PixelSpacing": [0.5, 0.75],
        "SliceThickness": 3,
        "SpacingBetweenSlices": spacing,
    }
    header = {"SOPClassUID": MRImageStorage, "Modality": "MR", "SeriesInstanceUID": series, "InstanceNumber": index + 1}
    image_type = {"ImageType": ["ORIGINAL", "PRIMARY", "M"]}
    return make_dicom(levels(index) if stored is None else stored, 16, **(header | image_type | geometry | elements))


def make_series(count: int, **options: Any) -> list[tuple[str, bytes]]:
    """Slices 0 to count − 1, named by their index."""
    return [(f"{index:02}.dcm", make_slice(index, **options)) for index in range(count)]


def make_enhanced(places: Sequence[float], times: Sequence[int] = (), **elements: Any) -> bytes:
    """An enhanced MR file of axial frames at the heights (mm) given, which need not be in order."""
    shared = Dataset()
    shared.PixelMeasuresSequence = [_item(PixelSpacing=[0.5, 0.75], SliceThickness=3)]
    shared.PlaneOrientationSequence = [_item(ImageOrientationPatient=list(AXIAL))]
    shared.MRImageFrameTypeSequence = [_item(FrameType=["ORIGINAL", "PRIMARY", "M"])]
    frames = []
    for index, place in enumerate(places):
        frame = Dataset()
        frame.PlanePositionSequence = [_item(ImagePositionPatient=[10.0, 20.0, place])]
        frame.FrameContentSequence = [_item(TemporalPositionIndex=times[index] if times else 1)]
        frame.PixelValueTransformationSequence = [_item(RescaleSlope=2, RescaleIntercept=index)]
        frames.append(frame)
    stored = np.stack([levels(index) for index in range(len(places))])
    groups = {"SharedFunctionalGroupsSequence": [shared], "PerFrameFunctionalGroupsSequence": frames}
    header = {"SOPClassUID": EnhancedMRImageStorage, "Modality": "MR", "SeriesInstanceUID": "1.2.3"}
    return make_dicom(stored, 16, **(header | groups | elements))


def _item(**elements: Any) -> Dataset:
    item = Dataset()
    for keyword, value in elements.items():
        setattr(item, keyword, value)
    return item
