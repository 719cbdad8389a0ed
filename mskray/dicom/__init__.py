"""Results as DICOM: what a hospital's archive stores beside the images that they are about.

    structured_report    findings as text and codes (TID 1500)        segmentation      boxes and masks
    secondary_capture    an overlay as a picture                      parametric_map    hotspots as floats

Each takes the sources as pydicom read them (`dcmread(path, stop_before_pixels=True)` does), what was found as the small
dataclasses of `results`, and the `Algorithm`; it returns a pydicom Dataset, which `file_bytes` turns into a file. New
UIDs depend on sources, model and result alone: what is stored twice is one object.

`mskray.dicom.archive.Archive` speaks to a DICOMweb server, and `mskray.dicom.web.Watcher` answers what is new in it.
"""

from mskray.dicom.maps import disc_affine, parametric_map
from mskray.dicom.pictures import secondary_capture
from mskray.dicom.regions import segmentation
from mskray.dicom.report import structured_report
from mskray.dicom.results import NOT_A_DEVICE, Algorithm, Box, Finding, Group, Segment
from mskray.dicom.sources import file_bytes

__all__ = [
    "NOT_A_DEVICE",
    "Algorithm",
    "Box",
    "Finding",
    "Group",
    "Segment",
    "disc_affine",
    "file_bytes",
    "parametric_map",
    "secondary_capture",
    "segmentation",
    "structured_report",
]
