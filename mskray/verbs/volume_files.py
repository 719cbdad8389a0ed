"""Volumes below a place, a folder at a time: a tree of hundreds is read with the memory of one study."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np

from mskray.cohorts.unreadable import unreadable
from mskray.errors import UserError
from mskray.imaging.decode import DecodeLimits
from mskray.imaging.dicom import is_dicom
from mskray.imaging.spine_cell import unfit_for_spines
from mskray.imaging.volumes.found import read_volumes
from mskray.imaging.volumes.volume import Volume
from mskray.storage import FileEntry, Location

_MOST_BYTES = 4 * 2**30
"""Of a folder's DICOM files together: they are held at once, because only headers tell which belong together."""

Rejected = list[tuple[str, str]]
Files = list[tuple[str, bytes]]


def volumes_below(place: Location, rejected: Rejected) -> Iterator[tuple[str, Volume]]:
    """Read a file, or all below a folder or prefix: NIfTI and MetaImage one by one, DICOM a folder at a time.

    Args:
        rejected: takes (path, reason) of what is in no volume.
    Returns:
        Names and volumes. A name is the path of a file or a series' folder below `place`, with "#2" and so on where a
        folder holds several; a series in `place` itself goes by its name.
    Raises:
        UserError: a store that cannot be listed or read.
    """
    for files in _readable(place, rejected):
        found = read_volumes(files)
        rejected += found.rejected
        for name, volume in zip(found.names, found.volumes, strict=True):
            yield (place.name + name[1:] if name[:2] in (".", ".#") else name), volume


def spines_below(place: Location, rejected: Rejected) -> Iterator[tuple[str, Volume]]:
    """Read as `volumes_below` what may show a spine, each name once; `rejected` takes the other volumes too."""
    seen: set[str] = set()
    for name, volume in volumes_below(place, rejected):
        again = "another volume has this name: search its folder alone" if name in seen else None
        reason = again or unfit_for_spines(volume)
        if reason is None:
            seen.add(name)
            yield name, volume
        else:
            rejected.append((name, reason))


def content_hash(volume: Volume) -> str:
    """A hash of what a volume shows, and where."""
    digest = hashlib.sha256(np.ascontiguousarray(volume.pixels).data)
    digest.update(np.ascontiguousarray(volume.affine, np.float64).data)
    return digest.hexdigest()[:32]


def reasons(rejected: Sequence[tuple[str, str]], most: int = 10) -> list[str]:
    """The commonest reasons for which files were rejected, each with its count and an example."""
    counts = Counter(reason for _, reason in rejected)
    example = {reason: path for path, reason in reversed(rejected)}
    return [f"{count:,} × {reason}, such as {example[reason]}" for reason, count in counts.most_common(most)]


def no_volume(place: Location, rejected: Sequence[tuple[str, str]]) -> UserError:
    """What to raise where nothing below a place can be used."""
    why = "; ".join(reasons(rejected, 3)) or "no files"
    return UserError(f"{place} holds no volume ({why}): give DICOM series, NIfTI or MetaImage (.mha)")


def _readable(place: Location, rejected: Rejected) -> Iterator[Files]:
    """What is read together, as (path, bytes)."""
    if place.is_file():
        yield [(place.name, place.read_bytes(DecodeLimits().max_bytes))]
        return
    entries = sorted(place.walk(), key=lambda entry: (_folder(entry), entry.path))
    for folder, files in groupby(entries, key=_folder):
        yield from _of_folder(place, folder, files, rejected)


def _folder(entry: FileEntry) -> str:
    return entry.path.rpartition("/")[0]


def _of_folder(place: Location, folder: str, files: Iterator[FileEntry], rejected: Rejected) -> Iterator[Files]:
    dicom: Files = []
    held = 0
    for entry in files:
        file = place.join(entry.path)
        try:
            data = file.read_bytes(DecodeLimits().max_bytes)
        except UserError as error:
            rejected.append((entry.path, f"cannot be read: {unreadable(error, file, place).reason}"))
            continue
        if not is_dicom(data):
            yield [(entry.path, data)]
            continue
        held += len(data)
        if held <= _MOST_BYTES:
            dicom.append((entry.path, data))
        else:
            dicom.clear()
    if held > _MOST_BYTES:
        rejected.append((folder or place.name, f"a folder of more than {_MOST_BYTES:,} bytes of DICOM: split it"))
    elif dicom:
        yield dicom
