"""Whole files of every kind that the server reads, small, for `mutations` to damage."""

import gzip
import io
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np
from block_spine import BlockSpine
from dicom_making import make_dicom, transcode, waves
from disc_layouts import metaimage, series
from pydicom import uid
from serving_samples import encoded, radiograph

_SYNTAXES = (
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
    uid.RLELossless,
    uid.JPEGBaseline8Bit,
    uid.JPEGLosslessSV1,
    uid.JPEGLSLossless,
    uid.JPEG2000Lossless,
)


def pictures() -> dict[str, bytes]:
    """Radiographs by name of their kind."""
    small, deep = radiograph(1, 64, 56), radiograph(2, 48, 64, np.uint16)
    found = {
        "png": encoded(small, "PNG"),
        "png of 16 bits": encoded(deep, "PNG"),
        "jpeg": encoded(small, "JPEG"),
        "tiff": encoded(small, "TIFF"),
        "tiff of 16 bits": encoded(deep, "TIFF"),
        "dicom": make_dicom(waves(40, 48, 12), 12, BodyPartExamined="KNEE"),
        "dicom of 8 bits": make_dicom(waves(40, 48, 8), 8),
        "dicom in colour": make_dicom(np.stack([waves(32, 32, 8)] * 3, axis=-1), 8),
    }
    with tempfile.TemporaryDirectory() as folder:
        for syntax in _SYNTAXES:
            bits = 8 if syntax == uid.JPEGBaseline8Bit else 12
            found[f"dicom, {syntax.name}"] = transcode(make_dicom(waves(40, 48, bits), bits), syntax, Path(folder))
    return {**found, "zip": zipped([found["png"], found["dicom"]])}


def volumes() -> dict[str, list[bytes]]:
    """Sagittal volumes by name of their kind, each of one file or several."""
    volume = BlockSpine(shape=(5, 60, 48)).volume
    nifti = nibabel.Nifti1Image(volume.pixels.transpose(2, 1, 0), np.diag([-1.0, -1, 1, 1]) @ volume.affine).to_bytes()
    with tempfile.TemporaryDirectory() as folder:
        slices = [path.read_bytes() for path in sorted(series(Path(folder) / "a", volume, uid="1.2.4").iterdir())]
        image = metaimage(Path(folder) / "a.mha", volume).read_bytes()
    return {
        "series": slices,
        "zip of a series": [zipped(slices)],
        "nifti": [nifti],
        "nifti, gzipped": [gzip.compress(nifti)],
        "metaimage": [image],
    }


def zipped(contents: Sequence[bytes], folders: int = 1) -> bytes:
    """Return a zip of files, spread over so many folders."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for place, content in enumerate(contents):
            archive.writestr(f"study-{place % folders}/{place}.dcm", content)
    return target.getvalue()
