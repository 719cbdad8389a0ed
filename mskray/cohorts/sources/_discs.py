"""What sources of discs share: a row is one disc, its address says in which files it lies and between which bodies.

Six rows read the same volume. Their files are fetched once (`_shared`), and the volume that was decoded last is kept in
its process, by the bytes it was decoded from: one volume, whatever the number of sources. It is never written to.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar, Literal, TypeVar

import numpy as np

from mskray.cohorts.corners import VolumeCorners
from mskray.cohorts.schema import ImageFormat
from mskray.cohorts.sources import Loaded, Source
from mskray.cohorts.sources._shared import SharedFiles, named_files, read_files
from mskray.config import Section
from mskray.errors import UserError
from mskray.imaging.body_corners import Bodies, mask_bodies
from mskray.imaging.decode import DecodedImage, DecodeError
from mskray.imaging.discs import DiscVolume, disc_shape, disc_volume
from mskray.imaging.intensity import full_range
from mskray.imaging.regions import FitMode
from mskray.imaging.spine import DISCS, Vertebra
from mskray.imaging.volumes import Volume, to_sagittal
from mskray.imaging.volumes.found import read_volumes
from mskray.imaging.volumes.metaimage import read_metaimage
from mskray.imaging.volumes.series import Rejected
from mskray.imaging.volumes.volume import check_same_place
from mskray.storage import Location

BODY_PART = "LSPINE"

_SIZE = 320
_KEPT_BYTES = 128 * 2**20
_FILES = SharedFiles(_KEPT_BYTES)

OptionsT = TypeVar("OptionsT", bound=Section)


@dataclass(frozen=True)
class Address:
    """Where a disc lies.

    Args:
        files: path below the root → fingerprint; several of a DICOM series, image and mask of SPIDER.
        level: such as "L4/L5".
        bodies: the body above and the one below as (slice, x0, y0, … x3, y3), () where a mask shows them.
        notes: what is worth knowing of the disc, as in `Loaded`.
        volume: which of several in the files, from 1; None for the only one.
    """

    files: Mapping[str, str]
    level: str
    bodies: tuple[tuple[float, ...], ...] = ()
    notes: tuple[str, ...] = ()
    volume: int | None = None

    @classmethod
    def between(
        cls, files: Mapping[str, str], level: str, corners: VolumeCorners, volume: int | None = None
    ) -> "Address":
        """Of the disc between two of a volume's bodies. Raises ValueError with the one that is missing."""
        bodies, pair = corners.bodies, level.split("/")
        missing = [name for name in pair if name not in bodies]
        if missing:
            raise ValueError(f"no corners of {' and '.join(missing)}")
        chosen = [(float(bodies[name].slice), *bodies[name].corners.ravel().tolist()) for name in pair]
        return cls(files, level, tuple(chosen), corners.assumed, volume)

    @classmethod
    def read(cls, text: str) -> "Address":
        content = json.loads(text)
        bodies, notes = tuple(map(tuple, content["bodies"])), tuple(content.get("notes", ()))
        return cls(content["files"], content["level"], bodies, notes, content.get("volume"))

    def __str__(self) -> str:
        content = {"files": dict(self.files), "level": self.level, "bodies": self.bodies}
        # What is not there changes no fingerprint.
        more = {"notes": self.notes, "volume": self.volume}
        return json.dumps(content | {name: value for name, value in more.items() if value})

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(str(self).encode()).hexdigest()[:16]

    @property
    def vertebrae(self) -> tuple[Vertebra, Vertebra]:
        upper, lower = (
            Vertebra(level, slice_, np.array(corners).reshape(4, 2))
            for level, (slice_, *corners) in zip(self.level.split("/"), self.bodies, strict=True)
        )
        return upper, lower


class DiscSource(Source[OptionsT]):
    """A source whose rows are discs; `path` is "volume#L4-L5", `address` an `Address`."""

    kind: ClassVar[str] = "disc"
    size: ClassVar[int] = _SIZE

    def format(self, size: int, dtype: Literal["uint8", "uint16"], fit: FitMode, options: OptionsT) -> ImageFormat:
        if size % 20 or size > _SIZE:
            # The network's input is 0.35 and 0.7 of it, the rows 0.6.
            raise UserError(f"--size {size}: discs are stored in multiples of 20 columns, at most {_SIZE}")
        slices, rows, columns = disc_shape(size)
        return ImageFormat(size=columns, dtype=dtype, fit=fit, slices=slices, rows=rows)

    def fractions(self, options: OptionsT) -> tuple[float, float, float]:
        return (0.8, 0.1, 0.1)  # SpineNet section 5

    def fetch(self, root: Location | None, path: str) -> bytes:
        assert root is not None
        files = Address.read(path).files
        return _FILES.get((root.uri, *files.items()), lambda: read_files(root, files))

    def file(self, root: Location, path: str) -> Location:
        files = [root.join(each) for each in Address.read(path).files]
        return next((each for each in files if not each.is_file()), files[0])

    def load(self, path: str, data: bytes, options: OptionsT) -> Loaded:
        address = Address.read(path)
        volume, bodies, notes = _opened(data, not address.bodies, address.volume)
        upper, lower = (
            address.vertebrae if address.bodies else (_body(bodies, each) for each in address.level.split("/"))
        )
        disc = loaded(disc_volume(volume, upper, lower, size=_SIZE), burned_in=volume.burned_in)
        return replace(disc, notes=(*address.notes, *notes))


def volume_name(path: str, number: int | None) -> str:
    """What a volume is called: its file or folder, and the number where there are several."""
    return path if number is None else f"{path}#{number}"


def disc_path(volume: str, level: str) -> str:
    """What quarantine shows of a disc."""
    return f"{volume}#{level.replace('/', '-')}"


def read_level(text: str) -> str:
    """A disc's name in any of the usual spellings, such as "L4/L5", "l4-l5", "L4_L5". Raises ValueError."""
    level = text.upper().replace("-", "/").replace("_", "/").replace(" ", "")
    if level not in DISCS:
        raise ValueError(f"level {text!r} is none of {', '.join(DISCS)}" if text else "no level")
    return level


def loaded(disc: DiscVolume, mask: np.ndarray | None = None, burned_in: bool = False) -> Loaded:
    """A disc volume as it is stored, what is changed in it as a mask of its size, whether text is drawn into it."""
    pixels = full_range(disc.pixels, np.uint16)
    spacing = (disc.spacing_mm, disc.spacing_mm)
    facts: dict[str, str | float | int | None] = {"burned_in_annotation": "YES" if burned_in else None}
    image = DecodedImage(pixels=pixels, format="disc", bits=16, pixel_spacing_mm=spacing, metadata=facts)
    return Loaded(image, mask=mask)


def _body(bodies: Bodies, level: str) -> Vertebra:
    if level not in bodies.found:
        raise DecodeError(bodies.missing[level])
    return bodies.found[level]


@lru_cache(maxsize=1)
def _opened(data: bytes, masked: bool, number: int | None) -> tuple[Volume, Bodies, tuple[str, ...]]:
    """The volume in these files, or that of this number, sagittal; bodies, where the second file is a mask; and notes.

    Notes say what is not as in any other volume: slices that are missing, files that are none of its slices.
    """
    files = named_files(data)
    if masked:
        image, mask = (to_sagittal(read_metaimage(content)) for _, content in files)
        check_same_place(image, mask)
        return image, mask_bodies(mask), image.notes
    found = read_volumes(files)
    if not found.volumes:
        reasons = [reason for _, reason in found.rejected]
        raise DecodeError(max(reasons, key=reasons.count))
    if len(found.volumes) > 1 and number is None:
        raise DecodeError(f"{len(found.volumes)} volumes where one is expected: name one of them, as folder#1")
    volume = found.volumes[0] if number is None else found.numbered(number)
    return to_sagittal(volume), Bodies({}, {}), (*volume.notes, *_left_out(found.rejected))


def _left_out(rejected: Rejected) -> list[str]:
    """A note for each kind of reason, without what it says of one file alone."""
    kinds = Counter(reason.partition(":")[0] for _, reason in rejected)
    return [f"{count} file{'s' * (count > 1)} beside the volume ({kind})" for kind, count in sorted(kinds.items())]
