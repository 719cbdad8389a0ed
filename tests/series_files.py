"""Small DICOM series on disk."""

from pathlib import Path

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

ROWS, COLUMNS = 40, 30


def write_series(folder: Path, slices: list[int], echo: int = 1) -> None:
    """Sagittal slices 4 mm apart, brighter from one to the next, named against their order."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in slices:
        header = Dataset()
        header.SOPClassUID, header.SOPInstanceUID = MRImageStorage, generate_uid()
        header.SeriesInstanceUID, header.PatientName, header.PatientID = "1.2.3", "Doe^Jane", "MRN-0042"
        header.Modality, header.EchoNumbers, header.EchoTime = "MR", echo, 10.0 * echo
        header.ImagePositionPatient = [-4.0 * index, 0.0, 0.0]
        header.ImageOrientationPatient, header.PixelSpacing = [0, 1, 0, 0, 0, -1], [0.5, 1.0]
        header.SliceThickness = 3
        header.Rows, header.Columns, header.SamplesPerPixel = ROWS, COLUMNS, 1
        header.PhotometricInterpretation = "MONOCHROME2"
        header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 16, 12, 11, 0
        header.PixelData = np.full((ROWS, COLUMNS), 100 * index, np.uint16).tobytes()
        header["PixelData"].VR = "OW"
        header.file_meta = FileMetaDataset()
        header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        header.save_as(folder / f"{echo}-{99 - index}.dcm", enforce_file_format=True)
