"""One DICOM file → the slices in it: where each lies in the patient, what it belongs to, and its pixels when asked for.

A plain file holds one slice; an enhanced multi-frame file holds many, each described by its functional groups (PS3.3
C.7.6.16). What has no place in the patient, or shows many slices in one picture, is refused with its reason.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from pydicom import Dataset
from pydicom.uid import UID

from mskray.imaging import dicom, dicom_pixels
from mskray.imaging.decoded import DecodeError, DecodeLimits, only_decode_errors
from mskray.imaging.dicom_pixels import functional_group
from mskray.imaging.quiet import quiet

_ORTHONORMAL = 0.01


class Contrast(NamedTuple):
    """What tells the volumes of one series apart; slices of one volume agree in all of it.

    echo: number and echo time (ms, to a tenth). time: temporal position. kind: what ImageType says beyond its first two
    values, such as magnitude or phase, water or fat. stack: of an enhanced object.
    """

    echo: tuple[int, float]
    time: int
    kind: tuple[str, ...]
    stack: str


@dataclass(frozen=True, eq=False)
class Picture:
    """A parsed DICOM file; `values` decodes all its frames anew."""

    header: Dataset
    syntax: UID
    shape: dicom_pixels.Shape

    def values(self) -> np.ndarray:
        """(frames, rows, columns) float32, as `dicom_pixels.read_values`; any failure is a `DecodeError`."""
        with quiet("pydicom", "openjpeg"), only_decode_errors("DICOM"):
            return dicom_pixels.read_values(self.header, self.syntax, self.shape)


@dataclass(frozen=True, eq=False)
class Slice:
    """One slice's header.

    Args:
        name: of its file, with the frame where there are several.
        number: InstanceNumber, or the frame's index.
        position: (3,) LPS mm, of the first pixel's centre.
        axes: (2, 3) unit vectors in which the column index and the row index grow.
        spacing_mm: between rows, between columns.
        distance_mm: SpacingBetweenSlices, where given: for a volume of one slice, which shows none.
        burned_in: whether BurnedInAnnotation is YES.
    """

    name: str
    picture: Picture = field(repr=False)
    frame: int
    series: str
    contrast: Contrast
    number: int
    position: np.ndarray
    axes: np.ndarray
    spacing_mm: tuple[float, float]
    thickness_mm: float | None
    distance_mm: float | None
    modality: str
    burned_in: bool

    @property
    def normal(self) -> np.ndarray:
        return np.cross(self.axes[0], self.axes[1])


def read_slices(name: str, data: bytes, limits: DecodeLimits) -> list[Slice]:
    """Read the headers of a file's slices.

    Raises:
        DecodeError: not a whole DICOM picture, a localiser, a mosaic, no place in the patient.
    """
    if len(data) > limits.max_bytes:
        raise DecodeError(f"{len(data)} bytes are more than the limit of {limits.max_bytes}")
    if not dicom.is_dicom(data):
        raise DecodeError("not DICOM")
    with quiet("pydicom"), only_decode_errors("DICOM"):
        picture = Picture(*dicom.open_picture(data, limits))
        frames = picture.shape.frames
        if frames > 1 and not picture.header.get("PerFrameFunctionalGroupsSequence"):
            raise DecodeError(f"{frames} frames without a place for each: only enhanced multi-frame DICOM is a volume")
        return [_slice(name if frames == 1 else f"{name} frame {frame}", picture, frame) for frame in range(frames)]


def _slice(name: str, picture: Picture, frame: int) -> Slice:
    header = picture.header

    def group(sequence: str) -> Dataset:
        return functional_group(header, frame, sequence)

    kind = tuple(
        str(word).upper() for word in group("MRImageFrameTypeSequence").get("FrameType") or _image_type(header)
    )
    if "LOCALIZER" in kind:
        raise DecodeError("a localiser")
    if "MOSAIC" in kind:
        raise DecodeError("a mosaic: many slices in one picture")
    measures = group("PixelMeasuresSequence")
    spacing = _vector(measures, "PixelSpacing", 2)
    if (spacing <= 0).any():
        raise DecodeError("DICOM whose PixelSpacing is not positive")
    content, echo = group("FrameContentSequence"), group("MREchoSequence")
    echo_time = dicom.decimal(echo, "EffectiveEchoTime") or dicom.decimal(header, "EchoTime") or 0.0
    time = dicom.decimal(content, "TemporalPositionIndex") or dicom.decimal(header, "TemporalPositionIdentifier") or 0
    number = dicom.decimal(header, "InstanceNumber") or 0
    return Slice(
        name=name,
        picture=picture,
        frame=frame,
        series=str(header.get("SeriesInstanceUID") or ""),
        contrast=Contrast(
            (_first_whole(header.get("EchoNumbers")), round(echo_time, 1)),
            int(time),
            kind[2:],
            str(content.get("StackID") or ""),
        ),
        number=int(number) if picture.shape.frames == 1 else frame,
        position=_vector(group("PlanePositionSequence"), "ImagePositionPatient", 3),
        axes=_axes(_vector(group("PlaneOrientationSequence"), "ImageOrientationPatient", 6)),
        spacing_mm=(float(spacing[0]), float(spacing[1])),
        thickness_mm=_positive(dicom.decimal(measures, "SliceThickness")),
        distance_mm=_positive(dicom.decimal(measures, "SpacingBetweenSlices")),
        modality=dicom.term(header, "Modality") or "",
        burned_in=dicom.burned_in(header),
    )


def _image_type(header: Dataset) -> Sequence[str]:
    words = header.get("ImageType") or ()
    return (words,) if isinstance(words, str) else words


def _first_whole(value: Any) -> int:
    """The first of a header's whole numbers; 0 where there is none."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        value = value[0] if value else 0
    return int(value or 0)


def _positive(value: float | None) -> float | None:
    return value if value is not None and value > 0 else None


def _vector(source: Dataset, keyword: str, length: int) -> np.ndarray:
    values = source.get(keyword)
    if values is None or len(values) != length:
        raise DecodeError(f"DICOM without {keyword}: not a slice with a place in the patient")
    vector = np.array([float(value) for value in values])
    if not np.isfinite(vector).all():
        raise DecodeError(f"DICOM whose {keyword} is not finite")
    return vector


def _axes(cosines: np.ndarray) -> np.ndarray:
    axes = cosines.reshape(2, 3)
    if np.abs(axes @ axes.T - np.eye(2)).max() > _ORTHONORMAL:
        raise DecodeError("DICOM whose ImageOrientationPatient is no pair of unit vectors at right angles")
    return axes / np.linalg.norm(axes, axis=1, keepdims=True)
