"""NIfTI and MetaImage files of known volumes, made by the libraries that define them."""

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import SimpleITK

#: (slices, rows, columns), every voxel with a value of its own.
STORED = np.arange(-12, 48, dtype=np.int16).reshape(3, 4, 5)
#: (column, row, slice) → RAS: turned about two axes, 0.5 × 0.75 × 4 mm, and mirrored.
RAS = np.array([[0.0, 0.6, -2.4, 10], [0.5, 0, 0, -20], [0, 0.45, 3.2, 30], [0, 0, 0, 1]])
LPS = np.diag([-1, -1, 1, 1]) @ RAS


def make_nifti(stored: np.ndarray = STORED, affine: np.ndarray | None = RAS, kind: Any = nibabel.Nifti1Image) -> Any:
    """An image object, to be changed and then written by `to_bytes()`; axes of `stored` as in a `Volume`."""
    return kind(stored.transpose(range(stored.ndim)[::-1]), affine)


def make_metaimage(folder: Path, stored: np.ndarray = STORED, compressed: bool = False) -> bytes:
    image = SimpleITK.GetImageFromArray(stored)
    spacing = np.linalg.norm(LPS[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((LPS[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(LPS[:3, 3].tolist())
    path = folder / "made.mha"
    SimpleITK.WriteImage(image, str(path), compressed)
    return path.read_bytes()


def metaimage_text(pixels: bytes = STORED.tobytes(), **keys: str | None) -> bytes:
    """A MetaImage of a header written out, keys changed, added, or left out (None)."""
    words = {"ObjectType": "Image", "NDims": "3", "DimSize": "5 4 3", "ElementType": "MET_SHORT"} | keys
    words["ElementDataFile"] = words.pop("ElementDataFile", "LOCAL")
    return "".join(f"{key} = {value}\n" for key, value in words.items() if value is not None).encode() + pixels
