"""Hotspots as a Parametric Map: floats with a meaning, each frame at its place in the patient.

    affine = disc_affine(volume, disc)                    # disc = disc_volume(volume, upper, lower)
    made = parametric_map(slices, hotspots, algorithm, "L4/L5 pfirrmann", affine=affine)

A disc volume is oblique to the slices that it was cut from, so its frames carry an orientation and positions of their
own, in the slices' frame of reference. A radiograph has none, and a parametric map must have one: its map gets a frame
of reference for itself, with the origin in the first pixel, and refers to the radiograph whose pixels it lies on.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from highdicom import PixelMeasuresSequence, PlaneOrientationSequence, PlanePositionSequence, VOILUTTransformation
from highdicom.pm import DerivedPixelContrastValues, ImageFlavorValues, ParametricMap, RealWorldValueMapping
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.sr.coding import Code

from mskray.dicom import concepts
from mskray.dicom.regions import one_series
from mskray.dicom.results import NOT_A_DEVICE, Algorithm
from mskray.dicom.sources import finish_frames, headers, new_uids, placed, uid
from mskray.errors import UserError
from mskray.imaging.discs import DiscVolume
from mskray.imaging.quiet import quiet
from mskray.imaging.volumes import Volume

SERIES_NUMBER = 9704
_SKEW = 1e-4
"""Cosine between rows and columns: DICOM's planes have them at right angles."""


def disc_affine(volume: Volume, disc: DiscVolume) -> NDArray[np.float64]:
    """4 × 4: voxel (column, row, slice, 1) of a disc volume → the patient's coordinates (LPS, mm) of its centre.

    Args:
        volume: that the disc was cut from, with its affine.
        disc: the result of `disc_volume`.
    """
    # `matrix` counts (slice, row, column); an affine (column, row, slice).
    between = np.eye(4)
    between[:3] = disc.matrix[::-1][:, [2, 1, 0, 3]]
    return volume.affine @ between


def parametric_map(
    sources: Sequence[Dataset],
    values: NDArray[np.floating],
    algorithm: Algorithm,
    label: str,
    *,
    affine: NDArray[np.float64] | None = None,
    quantity: Code = concepts.SALIENCY,
    instance_number: int = 1,
    series_number: int = SERIES_NUMBER,
) -> Dataset:
    """A map of values in [0, 1], stored as float32 without loss.

    Args:
        sources: the slices, or the radiograph, that it was computed from; of one series, as pydicom read them.
        values: (slices, rows, columns) with `affine`; without, (rows, columns) as large as the one source, or
            (slices, rows, columns) in the order of the sources.
        algorithm: the model.
        label: what it shows, distinct among the model's maps of these sources ("L4/L5 pfirrmann"). The map's UID
            depends on it and on the affine, not on the values: batches of another size change their last bits.
        affine: 4 × 4, voxel (column, row, slice, 1) → the patient's coordinates (LPS, mm), as `Volume.affine`.
        quantity: what the values are.
        instance_number, series_number: its place within its series, and the series' within the study.
    Raises:
        UserError: sources do not do (`headers`), are of several series or sizes; values lie outside [0, 1] or are of
            another shape; the affine is no plane's, or the sources have no place in the patient.
    """
    images = one_series(headers(sources), "a map")
    pixels = _checked(values, label)
    placing: dict[str, Any] = {}
    if affine is not None:
        if not placed(images[0]):
            raise UserError(f"{label}: its source has no place in the patient: give the map without an affine")
        pixels = pixels[None] if pixels.ndim == 2 else pixels
        placing = _planes(np.asarray(affine, np.float64), len(pixels), label)
    else:
        frames = len(images) if len(images) > 1 else int(images[0].get("NumberOfFrames", 1))
        wanted = (frames, images[0].Rows, images[0].Columns)
        pixels = pixels[None] if pixels.ndim == 2 else pixels
        if pixels.shape != wanted:
            sizes = [" × ".join(map(str, shape)) for shape in (np.shape(values), wanted)]
            raise UserError(f"{label}: a map of {sizes[0]} for images of {sizes[1]}: resample it, or give its affine")
    place = [] if affine is None else np.round(np.asarray(affine, np.float64), 6).tolist()
    series, instance = new_uids("map", images, algorithm, label, pixels.shape, place, quantity.value)
    mapping = RealWorldValueMapping(
        lut_label=quantity.meaning[:16].upper(),
        lut_explanation=quantity.meaning[:64],
        unit=concepts.coded(concepts.NO_UNITS),
        value_range=(0.0, 1.0),
        slope=1.0,
        intercept=0.0,
        quantity_definition=concepts.coded(quantity),
    )
    with quiet("highdicom", "pydicom"):
        made = ParametricMap(
            source_images=images if placed(images[0]) else [_with_plane(images[0])],
            pixel_array=pixels,
            series_instance_uid=series,
            series_number=series_number,
            sop_instance_uid=instance,
            instance_number=instance_number,
            **algorithm.equipment(instance[-16:]),
            contains_recognizable_visual_features=False,
            real_world_value_mappings=[mapping],
            voi_lut_transformations=[VOILUTTransformation(window_center=0.5, window_width=1.0)],
            content_label="HOTSPOTS",
            content_description=f"{label}. {NOT_A_DEVICE}"[:64],
            content_creator_name="mskray^",
            image_flavor=ImageFlavorValues.VOLUME,
            derived_pixel_contrast=DerivedPixelContrastValues.QUANTITY,
            series_description="mskray hotspots",
            coding_schemes=[concepts.scheme()],
            **placing,
        )
    made.DerivationDescription = f"{label}. {NOT_A_DEVICE}"
    return finish_frames(made, images[0])


def _with_plane(image: Dataset) -> Dataset:
    """A radiograph's header with a plane of its own; spacing is the detector's, 1 mm where even that is not known."""
    header = Dataset()
    header.update(image)
    spacing = image.get("PixelSpacing") or image.get("ImagerPixelSpacing") or [1.0, 1.0]
    header.PixelSpacing, header.SliceThickness = spacing, 1.0
    header.ImagePositionPatient, header.ImageOrientationPatient = [0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    header.FrameOfReferenceUID, header.PositionReferenceIndicator = uid("frame", image.SOPInstanceUID), None
    return header


def _checked(values: NDArray[np.floating], label: str) -> NDArray[np.float32]:
    pixels = np.ascontiguousarray(values, np.float32)
    if pixels.ndim not in (2, 3) or not pixels.size:
        raise UserError(f"{label}: a map is (rows, columns) or (slices, rows, columns), not {np.shape(values)}")
    if not (pixels >= 0).all() or not (pixels <= 1).all():  # NaN is neither
        raise UserError(f"{label}: a map's values must lie between 0 and 1")
    return pixels


def _planes(affine: NDArray[np.float64], frames: int, label: str) -> dict[str, Any]:
    """Orientation, spacing and the position of each frame, from a map's affine."""
    if affine.shape != (4, 4) or not np.isfinite(affine).all():
        raise UserError(f"{label}: an affine is 4 × 4 finite numbers")
    along, down, through = affine[:3, :3].T
    spacing = [float(np.linalg.norm(axis)) for axis in (along, down, through)]
    normal = np.cross(along, down)
    if min(spacing) <= 0 or abs(normal @ through) < 0.1 * spacing[0] * spacing[1] * spacing[2]:
        raise UserError(f"{label}: the axes of its affine have no length or lie in one plane")
    along, down = along / spacing[0], down / spacing[1]
    if abs(along @ down) > _SKEW:
        raise UserError(f"{label}: rows and columns of its affine are not at right angles")
    thickness = float(abs(normal @ through) / np.linalg.norm(normal))
    return {
        "pixel_measures": PixelMeasuresSequence(spacing[1::-1], thickness, thickness if frames > 1 else None),
        "plane_orientation": PlaneOrientationSequence("PATIENT", [*along, *down]),
        "plane_positions": [
            PlanePositionSequence("PATIENT", (affine[:3, 3] + index * affine[:3, 2]).tolist())
            for index in range(frames)
        ],
    }
