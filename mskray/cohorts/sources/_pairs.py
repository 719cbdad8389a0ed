"""What sources of pairs share: a row is two images, before and after; its address says in which files they lie.

A cell is (2, size, size). Members of one size, plane, pixel spacing and modality alone make a pair: a difference
between scanners' protocols is no change of the patient, and a difference in size would be scaled away unseen. Where one
member says nothing of its plane, spacing or modality there is nothing to compare. Nothing is resampled to match: CRMO
compares slices as they were taken, and one of the two, made smooth by resampling, would differ from the other by that
alone. A slice that a series lacks is no image: a pair with it is refused.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import ClassVar, Literal, TypeVar

import numpy as np

from mskray.cohorts.change import PAIR
from mskray.cohorts.schema import Fractions, ImageFormat
from mskray.cohorts.sources import Loaded, Source
from mskray.cohorts.sources._shared import SharedFiles, as_one, named_files, read_files
from mskray.config import Section
from mskray.imaging.decode import DecodedImage, DecodeError, decode
from mskray.imaging.intensity import full_range, to_dtype
from mskray.imaging.regions import FitMode
from mskray.imaging.volumes import Found, Plane, Volume, read_volumes, to_plane
from mskray.imaging.volumes.montage import shown_plane
from mskray.storage import Location

NAMES = ("before", "after")
_SPACING_TOLERANCE = 0.05
"""Share by which pixel spacings may differ: headers round them, and protocols differ by more."""
_KEPT_BYTES = 128 * 2**20
_FILES = SharedFiles(_KEPT_BYTES)
_WINDOW = (0.5, 99.5)
"""Percentiles of a volume that become black and white, as `mskray montage` shows it."""

OptionsT = TypeVar("OptionsT", bound=Section)


@dataclass(frozen=True)
class Member:
    """One image of a pair.

    Args:
        files: path below the root → fingerprint; one file, or those of a DICOM series.
        slice: of the volume in them, from 0 as `mskray montage` numbers them; None for a file that is one image.
        volume: which of several, from 1 as `mskray montage` numbers them; None for the only one.
        mirrored: whether it is flipped left to right.
    """

    files: Mapping[str, str]
    slice: int | None = None
    mirrored: bool = False
    volume: int | None = None


@dataclass(frozen=True)
class Seen:
    """What a member looks like.

    Args:
        plane: of the body, in which a slice of a volume is looked at; None for a file that is one image.
        notes: what a reader found worth saying of its volume.
    """

    image: DecodedImage
    plane: Plane | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Address:
    """Where both members lie, before and after."""

    members: tuple[Member, Member]

    @classmethod
    def read(cls, text: str) -> "Address":
        before, after = (Member(**content) for content in json.loads(text))
        return cls((before, after))

    def __str__(self) -> str:
        return json.dumps([{**vars(each), "files": dict(each.files)} for each in self.members])

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(str(self).encode()).hexdigest()[:16]

    @property
    def files(self) -> tuple[str, ...]:
        return tuple(path for member in self.members for path in member.files)


class PairSource(Source[OptionsT]):
    """A source whose rows are pairs; `path` is "before → after", `address` an `Address`."""

    kind: ClassVar[str] = PAIR

    def format(self, size: int, dtype: Literal["uint8", "uint16"], fit: FitMode, options: OptionsT) -> ImageFormat:
        return ImageFormat(size=size, dtype=dtype, fit=fit, slices=len(NAMES))

    def fractions(self, options: OptionsT) -> Fractions:
        return (0.64, 0.28, 0.08)  # CRMO's 57, 25 and 7 pairs

    def fetch(self, root: Location | None, path: str) -> bytes:
        """The files of each member, which other pairs may share: a volume has many slices."""
        assert root is not None
        found = []
        for name, member in zip(NAMES, Address.read(path).members, strict=True):
            read = partial(read_files, root, member.files)
            found.append((name, _FILES.get((root.uri, *member.files.items()), read)))
        return as_one(found)

    def file(self, root: Location, path: str) -> Location:
        files = [root.join(each) for each in Address.read(path).files]
        return next((each for each in files if not each.is_file()), files[0])

    def load(self, path: str, data: bytes, options: OptionsT) -> Loaded:
        loaded = []
        for (name, files), member in zip(named_files(data), Address.read(path).members, strict=True):
            try:
                loaded.append(_seen(files, member))
            except DecodeError as error:
                raise DecodeError(f"{name}: {error.reason}") from error
        before, after = loaded
        notes = tuple(dict.fromkeys((*before.notes, *after.notes)))
        return Loaded(joined(before, after), notes=notes)


def joined(first: Seen, second: Seen) -> DecodedImage:
    """Both members as one image with pixels (2, rows, columns). Raises DecodeError where they make no pair."""
    before, after = first.image, second.image
    sizes = [" × ".join(map(str, each.pixels.shape)) for each in (before, after)]
    if sizes[0] != sizes[1]:
        raise DecodeError(f"its members differ in size: before {sizes[0]} px, after {sizes[1]} px")
    if first.plane and second.plane and first.plane != second.plane:
        raise DecodeError(f"its members differ in plane: before {first.plane}, after {second.plane}")
    modalities = [each.metadata.get("modality") for each in (before, after)]
    if all(modalities) and modalities[0] != modalities[1]:
        raise DecodeError(f"its members differ in modality: before {modalities[0]}, after {modalities[1]}")
    one, other = before.pixel_spacing_mm, after.pixel_spacing_mm
    if one and other and not np.allclose(one, other, rtol=_SPACING_TOLERANCE, atol=0):
        said = [" × ".join(f"{length:.3g}" for length in each) for each in (one, other)]
        raise DecodeError(f"its members differ in pixel spacing: before {said[0]} mm, after {said[1]} mm")
    dtype = np.result_type(before.pixels, after.pixels)
    facts = dict(before.metadata)
    if "YES" in (each.metadata.get("burned_in_annotation") for each in (before, after)):
        facts["burned_in_annotation"] = "YES"
    return DecodedImage(
        pixels=np.stack([to_dtype(each.pixels, dtype) for each in (before, after)]),
        format=before.format,
        bits=max(before.bits, after.bits),
        pixel_spacing_mm=before.pixel_spacing_mm,
        metadata=facts,
    )


def pair_path(before: str, after: str) -> str:
    """What quarantine shows of a pair."""
    return f"{before} → {after}"


def _seen(files: bytes, member: Member) -> Seen:
    if member.slice is None:
        seen = Seen(_decoded(named_files(files)))
    else:
        seen = _slice(_volume(_volumes(files), member.volume), member.slice)
    if not member.mirrored:
        return seen
    return replace(seen, image=replace(seen.image, pixels=np.ascontiguousarray(seen.image.pixels[:, ::-1])))


def _decoded(files: Sequence[tuple[str, bytes]]) -> DecodedImage:
    if len(files) > 1:
        raise DecodeError(f"a folder of {len(files)} files: name one of them, or a slice of their volume as folder#12")
    image = decode(files[0][1])
    if image.pixels.ndim != 2:
        raise DecodeError(f"{len(image.pixels)} frames where one image is expected")
    return image


@lru_cache(maxsize=len(NAMES))
def _volumes(files: bytes) -> Found:
    """What the files of a member hold, kept for the next slice; never written to."""
    return read_volumes(named_files(files))


def _volume(found: Found, number: int | None) -> Volume:
    """The only volume, or the one that `mskray montage` calls folder#number."""
    if number is None and len(found.volumes) > 1:
        raise DecodeError(f"{len(found.volumes)} volumes in the folder: name one and its slice, as folder#1#12")
    if number is None or not found.volumes:
        return found.only()
    return found.numbered(number)


def _slice(volume: Volume, index: int) -> Seen:
    plane = shown_plane(volume)
    view = to_plane(volume, plane)
    if index >= len(view.pixels):
        raise DecodeError(f"slice {index} of a volume of {len(view.pixels)} slices (0 to {len(view.pixels) - 1})")
    if index in view.missing:
        raise DecodeError(f"slice {index} is missing from its series")
    if volume.missing and not view.missing:
        raise DecodeError("its series lacks slices, and every slice of its view cuts across them")
    low, high = np.percentile(view.pixels, _WINDOW)
    levels = (view.pixels[index] - low) / max(float(high - low), 1e-9)
    image = DecodedImage(
        pixels=full_range(levels, np.uint16),
        format="volume",
        bits=16,
        pixel_spacing_mm=view.spacing_mm[1:],
        metadata={"modality": view.modality or None, "burned_in_annotation": "YES" if view.burned_in else None},
    )
    return Seen(image, plane, view.notes)
