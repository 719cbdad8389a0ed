"""Small copies of the foreign layouts, with images that a decoder accepts, for the tests of cohorts."""

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

CR_IMAGE = "1.2.840.10008.5.1.4.1.1.1"
BASIC_SR = "1.2.840.10008.5.1.4.1.1.88.11"


def picture(seed: int = 0, rows: int = 40, columns: int = 48) -> np.ndarray:
    """A grey gradient with noise, (rows, columns) uint8."""
    noise = np.random.default_rng(seed).integers(0, 60, (rows, columns))
    return (np.linspace(20, 180, columns)[None, :] + noise).astype(np.uint8)


def png(path: Path, seed: int = 0, rows: int = 40, columns: int = 48) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", picture(seed, rows, columns))[1].tobytes())
    return path


def knee(root: Path, images: Iterable[str], split: str = "train") -> Path:
    """Images are "grade/subject+side", e.g. "3/9000001L"."""
    for seed, image in enumerate(images):
        png(root / split / f"{image}.png", seed)
    return root


def mura(root: Path, studies: Iterable[tuple[str, str, int, str, int]], split: str = "train") -> Path:
    """Studies are (part, patient, study number, "positive" or "negative", images)."""
    for part, patient, number, label, images in studies:
        for image in range(images):
            png(root / split / f"XR_{part}" / patient / f"study{number}_{label}" / f"image{image + 1}.png", image)
    return root


def dicom(path: Path, **values: object) -> Path:
    """A minimal CR image with the given header values; `rows=0` leaves the image out."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = CR_IMAGE
    meta.MediaStorageSOPInstanceUID = str(values.get("SOPInstanceUID", "1.2.3"))
    data = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
    data.SOPClassUID = CR_IMAGE
    data.Modality = "CR"
    rows = values.pop("rows", 32)
    if rows:
        pixels = picture(1, int(str(rows)), 24).astype(np.uint16) * 16
        data.Rows, data.Columns = pixels.shape
        data.SamplesPerPixel, data.PixelRepresentation = 1, 0
        data.PhotometricInterpretation = "MONOCHROME2"
        data.BitsAllocated, data.BitsStored, data.HighBit = 16, 12, 11
        data.PixelData = pixels.tobytes()
    for name, value in values.items():
        setattr(data, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return path
