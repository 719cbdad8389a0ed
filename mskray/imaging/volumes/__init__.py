"""Volumes: DICOM series, NIfTI and MetaImage bytes → `Volume` with its geometry, or `DecodeError` with a reason.

- `volume`      `Volume`, its sagittal, coronal and axial views, what is refused
- `series`      files of DICOM series → volumes: echoes and time points apart, slices by position
- `nifti`, `metaimage`   one file → one volume
- `found`       any of them, recognised by content: what a folder holds
- `montage`     slices side by side

The command that shows what they find is `mskray montage`.
"""

from mskray.imaging.volumes.found import Found, read_volumes
from mskray.imaging.volumes.metaimage import read_metaimage
from mskray.imaging.volumes.nifti import read_nifti
from mskray.imaging.volumes.series import Series, read_series
from mskray.imaging.volumes.volume import Plane, Volume, check_volume, orientation, spacing_of, to_plane, to_sagittal

__all__ = [
    "Found",
    "Plane",
    "Series",
    "Volume",
    "check_volume",
    "orientation",
    "read_metaimage",
    "read_nifti",
    "read_series",
    "read_volumes",
    "spacing_of",
    "to_plane",
    "to_sagittal",
]
