"""A stack of slices with its geometry in the patient, and its views: sagittal, coronal, axial.

    volume = to_sagittal(read_nifti(data))
    x, y, z = volume.affine[:3] @ [column, row, slice, 1]     # mm; DICOM's L, P, S

Views are made by permuting and flipping alone: no grey level is interpolated here.
"""

from dataclasses import dataclass, replace
from itertools import permutations, product
from typing import Literal

import numpy as np

from mskray.imaging.decoded import DecodeError

Plane = Literal["sagittal", "coronal", "axial"]

#: The patient's direction (LPS) in which each axis of a view runs: slice, row, column.
_VIEWS: dict[Plane, np.ndarray] = {
    "sagittal": np.array([(1, 0, 0), (0, 0, -1), (0, 1, 0)]),  # right → left, superior → inferior, anterior → posterior
    "coronal": np.array([(0, 1, 0), (0, 0, -1), (1, 0, 0)]),  # anterior → posterior, superior → inferior, right → left
    "axial": np.array([(0, 0, 1), (0, 1, 0), (1, 0, 0)]),  # inferior → superior, anterior → posterior, right → left
}


@dataclass(frozen=True)
class Volume:
    """Slices at even distances, with their place in the patient.

    Args:
        pixels: (slices, rows, columns) float32 as a reader gives them: the scanner's values (after rescaling), not
            display levels; high is bright.
        spacing_mm: between the centres of neighbouring (slices, rows, columns), in mm.
        affine: 4 × 4; voxel (column, row, slice, 1) → DICOM's patient coordinates (x to the left, y to the posterior,
            z to the head; mm) of its centre.
        thickness_mm: of a slice, where the file says it; less than the spacing where slices have gaps.
        modality: DICOM's code such as "MR"; "" where the file does not say.
        notes: what a reader found worth saying, a short clause each.
        burned_in: whether a slice's header says that text is drawn into it (BurnedInAnnotation); it may be a name.
        missing: which slices were not there, ascending; they are black.
    """

    pixels: np.ndarray
    spacing_mm: tuple[float, float, float]
    affine: np.ndarray
    thickness_mm: float | None = None
    modality: str = ""
    notes: tuple[str, ...] = ()
    burned_in: bool = False
    missing: tuple[int, ...] = ()

    @property
    def axes(self) -> np.ndarray:
        """(3, 3) unit vectors: the patient's direction (LPS) in which slices, rows and columns run, one a row."""
        columns = self.affine[:3, :3].T
        return (columns / np.linalg.norm(columns, axis=1, keepdims=True))[::-1]


def spacing_of(affine: np.ndarray) -> tuple[float, float, float]:
    """Spacing between (slices, rows, columns) in mm, that an affine of voxel (column, row, slice) implies.

    Raises:
        DecodeError: values that are not finite, axes without length, or axes that lie in one plane.
    """
    if affine.shape != (4, 4) or not np.isfinite(affine).all():
        raise DecodeError("no valid geometry: its affine is not finite")
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    # In units of the axes' lengths: 1 for axes at right angles, 0 for axes in one plane.
    if (lengths <= 0).any() or abs(np.linalg.det(affine[:3, :3] / lengths)) < 0.1:
        raise DecodeError("no valid geometry: its axes have no length or lie in one plane")
    column, row, slice_ = (float(length) for length in lengths)
    return slice_, row, column


def check_volume(volume: Volume, least: int = 2) -> None:
    """Refuse a volume of fewer than `least` slices, for what needs several: depth, a middle, neighbours.

    Raises:
        DecodeError: it has too few.
    """
    slices = len(volume.pixels)
    if slices < least:
        what = "one slice" if slices == 1 else f"{slices} slices"
        raise DecodeError(f"a volume of {what}: at least {least} are needed")


def check_same_place(image: Volume, mask: Volume) -> None:
    """Refuse a mask that is not of this image: other voxels, or the same ones elsewhere in the patient.

    Raises:
        DecodeError: shapes differ, or a voxel of one lies more than half the smallest spacing from that of the other.
    """
    sizes = [" × ".join(map(str, each.pixels.shape)) for each in (image, mask)]
    if sizes[0] != sizes[1]:
        raise DecodeError(f"image and mask differ: {sizes[0]} and {sizes[1]} voxels")
    # Both are affine: what lies farthest apart is a corner.
    corners = np.array([(*place, 1) for place in product(*((0, side - 1) for side in image.pixels.shape[::-1]))])
    apart = float(np.linalg.norm((corners @ (image.affine - mask.affine).T)[:, :3], axis=1).max())
    if apart > min(image.spacing_mm) / 2:
        raise DecodeError(f"image and mask differ: the same voxels lie up to {apart:.1f} mm apart in the patient")


def to_sagittal(volume: Volume) -> Volume:
    """Slices right → left, rows superior → inferior, columns anterior → posterior, as near as permuting comes."""
    return to_plane(volume, "sagittal")


def to_plane(volume: Volume, plane: Plane) -> Volume:
    """The view of a volume that comes nearest to a plane of the body, its axes permuted and flipped.

    Nothing is resampled: an oblique volume stays as oblique as it is, and `affine` says how much. `pixels` is a view of
    the same memory where it can be. `thickness_mm` and `missing` are kept where slices stay slices; across them, each
    slice of the view has a black line for each that is missing.
    """
    wanted = _VIEWS[plane]
    order = _nearest(volume.axes, wanted)
    pixels = volume.pixels.transpose(order)
    # Columns of the affine are (column, row, slice): the reverse of the array's axes.
    directions = volume.affine[:3, :3].T[::-1][list(order)].copy()
    origin = volume.affine[:3, 3].copy()
    missing = volume.missing if order[0] == 0 else ()
    for axis in range(3):
        if directions[axis] @ wanted[axis] < 0:
            origin += directions[axis] * (pixels.shape[axis] - 1)
            directions[axis] *= -1
            pixels = np.flip(pixels, axis)
            if axis == 0:
                missing = tuple(len(pixels) - 1 - place for place in reversed(missing))
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = directions[::-1].T, origin
    return replace(
        volume,
        pixels=pixels,
        spacing_mm=(volume.spacing_mm[order[0]], volume.spacing_mm[order[1]], volume.spacing_mm[order[2]]),
        affine=affine,
        thickness_mm=volume.thickness_mm if order[0] == 0 else None,
        missing=missing,
    )


def orientation(volume: Volume) -> tuple[Plane, float]:
    """The plane of the body nearest to the volume's slices, and the angle between the two planes in degrees."""
    # At right angles to rows and columns, whatever the direction in which slices are stacked.
    normal = np.cross(volume.axes[1], volume.axes[2])
    normal /= np.linalg.norm(normal)
    cosines: dict[Plane, float] = {plane: abs(float(normal @ view[0])) for plane, view in _VIEWS.items()}
    plane = max(cosines, key=lambda name: cosines[name])
    return plane, float(np.degrees(np.arccos(min(1.0, cosines[plane]))))


def _nearest(axes: np.ndarray, wanted: np.ndarray) -> tuple[int, int, int]:
    """Which axis becomes slices, rows, columns: the assignment with the largest sum of |cosines|."""
    cosines = np.abs(wanted @ axes.T)
    first, second, third = max(permutations(range(3)), key=lambda order: sum(cosines[i, order[i]] for i in range(3)))
    return first, second, third
