"""Small DICOM files for the decoding tests, made from arrays: what they should decode to is known."""

from io import BytesIO
from pathlib import Path
from typing import Any

import gdcm
import numpy as np
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    generate_uid,
)


def make_dicom(stored: np.ndarray, bits: int, **elements: Any) -> bytes:
    """An explicit little endian file of `stored`: ([frames,] rows, columns[, 3]), u1, u2, i1 or i2.

    elements: header elements by keyword, set last; None deletes.
    """
    header = Dataset()
    header.SOPClassUID = DigitalXRayImageStorageForPresentation
    header.SOPInstanceUID, header.StudyInstanceUID, header.SeriesInstanceUID = (generate_uid() for _ in range(3))
    header.PatientID, header.PatientName, header.Modality = "MRN-0042", "Doe^Jane", "DX"
    colour = stored.shape[-1] == 3 and stored.ndim > 2
    if colour:
        header.PlanarConfiguration = 0
    header.SamplesPerPixel = 3 if colour else 1
    header.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    shape = stored.shape[:-1] if colour else stored.shape
    header.Rows, header.Columns = shape[-2:]
    if len(shape) == 3:
        header.NumberOfFrames = shape[0]
    size = stored.dtype.itemsize
    header.BitsAllocated, header.BitsStored, header.HighBit = 8 * size, bits, bits - 1
    header.PixelRepresentation = int(stored.dtype.kind == "i")
    raw = (stored.view(f"u{size}") & ((1 << bits) - 1)).tobytes()
    header.PixelData = raw + b"\x00" * (len(raw) % 2)
    header["PixelData"].VR = "OB" if size == 1 else "OW"
    for keyword, value in elements.items():
        if value is None:
            delattr(header, keyword)
        else:
            setattr(header, keyword, value)
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return to_bytes(header)


def to_bytes(header: Dataset) -> bytes:
    """A data set with file meta as a DICOM file."""
    stream = BytesIO()
    header.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def transcode(data: bytes, syntax: UID, folder: Path) -> bytes:
    """The same picture in another transfer syntax, by GDCM, which reads and writes files: in `folder`."""
    source, target = folder / "source.dcm", folder / "target.dcm"
    source.write_bytes(data)
    reader = gdcm.ImageReader()
    reader.SetFileName(str(source))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(str(syntax))))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(target))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    return target.read_bytes()


def encapsulated(data: bytes, syntax: UID, frames: list[bytes]) -> bytes:
    """The file with its pixel data replaced by compressed frames in the transfer syntax named."""
    header = dcmread(BytesIO(data))
    header.PixelData = encapsulate(frames)
    header["PixelData"].VR = "OB"
    header["PixelData"].is_undefined_length = True
    header.file_meta.TransferSyntaxUID = syntax
    return to_bytes(header)


def waves(rows: int, columns: int, bits: int, signed: bool = False) -> np.ndarray:
    """A smooth picture that uses every one of `bits`, as u1, u2 or i2."""
    y, x = np.mgrid[:rows, :columns]
    levels = (np.sin(x / 5) + np.cos(y / 7)) / 2
    levels = np.rint((levels - levels.min()) / np.ptp(levels) * ((1 << bits) - 1))
    if signed:
        return (levels - (1 << (bits - 1))).astype(np.int16)
    return levels.astype(np.uint8 if bits == 8 else np.uint16)
