"""Volumes: DICOM series, NIfTI and MetaImage bytes → `Volume` with its geometry, or `DecodeError` with a reason.

- `volume`      `Volume`, its sagittal, coronal and axial views, what is refused
- `series`      files of DICOM series → volumes: echoes and time points apart, slices by position
- `nifti`, `metaimage`   one file → one volume
- `found`       any of them, recognised by content: what a folder holds
- `montage`     slices side by side

The command that shows what they find is `mskray montage`.
"""

from mskray.imaging.volumes.volume import Plane, Volume, check_volume, orientation, spacing_of, to_plane, to_sagittal

__all__ = ["Plane", "Volume", "check_volume", "orientation", "spacing_of", "to_plane", "to_sagittal"]
