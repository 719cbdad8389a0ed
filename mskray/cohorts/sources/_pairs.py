"""What sources of pairs share: a row is two images, before and after; its address says in which files they lie.

A cell is (2, size, size). Members of one size and one modality alone make a pair: a difference between scanners'
protocols is no change of the patient, and a difference in size would be scaled away unseen.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeVar

import numpy as np

from mskray.cohorts.change import PAIR
from mskray.cohorts.schema import Fractions, ImageFormat
from mskray.cohorts.sources import Loaded, Source
from mskray.config import Section
from mskray.imaging.decode import DecodedImage, DecodeError, DecodeLimits, decode
from mskray.imaging.intensity import full_range, to_dtype
from mskray.imaging.regions import FitMode
from mskray.imaging.volumes import read_volumes, to_plane
from mskray.imaging.volumes.montage import shown_plane
from mskray.storage import Location

NAMES = ("before", "after")
_WINDOW = (0.5, 99.5)
"""Percentiles of a volume that become black and white, as `mskray montage` shows it."""

OptionsT = TypeVar("OptionsT", bound=Section)


@dataclass(frozen=True)
class Member:
    """One image of a pair.

    Args:
        files: path below the root → fingerprint; one file, or those of a DICOM series.
        slice: of the volume in them, from 0 as `mskray montage` numbers them; None for a file that is one image.
        mirrored: whether it is flipped left to right.
    """

    files: Mapping[str, str]
    slice: int | None = None
    mirrored: bool = False


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
        """Both members' files one after the other, after a line of JSON with their lengths."""
        assert root is not None
        left = DecodeLimits().max_bytes
        parts = []
        for name in Address.read(path).files:
            parts.append(root.join(name).read_bytes(max_bytes=left))
            left -= len(parts[-1])
        return b"".join([json.dumps([len(part) for part in parts]).encode(), b"\n", *parts])

    def file(self, root: Location, path: str) -> Location:
        files = [root.join(each) for each in Address.read(path).files]
        return next((each for each in files if not each.is_file()), files[0])

    def load(self, path: str, data: bytes, options: OptionsT) -> Loaded:
        address = Address.read(path)
        place = data.index(b"\n") + 1
        contents = []
        for length in json.loads(data[: place - 1]):
            contents.append(data[place : place + length])
            place += length
        loaded = []
        for name, member in zip(NAMES, address.members, strict=True):
            files, contents = contents[: len(member.files)], contents[len(member.files) :]
            try:
                loaded.append(_image(list(zip(member.files, files, strict=True)), member))
            except DecodeError as error:
                raise DecodeError(f"{name}: {error.reason}") from error
        return Loaded(joined(*loaded))


def joined(before: DecodedImage, after: DecodedImage) -> DecodedImage:
    """Both members as one image with pixels (2, rows, columns). Raises DecodeError where they make no pair."""
    sizes = [" × ".join(map(str, each.pixels.shape)) for each in (before, after)]
    if sizes[0] != sizes[1]:
        raise DecodeError(f"its members differ in size: before {sizes[0]} px, after {sizes[1]} px")
    first, second = (each.metadata.get("modality") for each in (before, after))
    if first and second and first != second:
        raise DecodeError(f"its members differ in modality: before {first}, after {second}")
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


def _image(files: Sequence[tuple[str, bytes]], member: Member) -> DecodedImage:
    image = _decoded(files) if member.slice is None else _slice(files, member.slice)
    if not member.mirrored:
        return image
    return DecodedImage(**{**vars(image), "pixels": np.ascontiguousarray(image.pixels[:, ::-1])})


def _decoded(files: Sequence[tuple[str, bytes]]) -> DecodedImage:
    if len(files) > 1:
        raise DecodeError(f"a folder of {len(files)} files: name one of them, or a slice of their volume as folder#12")
    image = decode(files[0][1])
    if image.pixels.ndim != 2:
        raise DecodeError(f"{len(image.pixels)} frames where one image is expected")
    return image


def _slice(files: Sequence[tuple[str, bytes]], index: int) -> DecodedImage:
    volume = read_volumes(files).only()
    view = to_plane(volume, shown_plane(volume))
    if index >= len(view.pixels):
        raise DecodeError(f"slice {index} of a volume of {len(view.pixels)} slices (0 to {len(view.pixels) - 1})")
    low, high = np.percentile(view.pixels, _WINDOW)
    levels = (view.pixels[index] - low) / max(float(high - low), 1e-9)
    return DecodedImage(
        pixels=full_range(levels, np.uint16),
        format="volume",
        bits=16,
        pixel_spacing_mm=view.spacing_mm[1:],
        metadata={"modality": view.modality or None, "burned_in_annotation": "YES" if view.burned_in else None},
    )
