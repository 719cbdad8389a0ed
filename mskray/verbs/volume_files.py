"""Volumes below a place, a few at a time: a folder of hundreds is read with the memory of one study."""

from collections.abc import Iterator
from itertools import groupby

from mskray.cohorts.unreadable import unreadable
from mskray.errors import UserError
from mskray.imaging.decode import DecodeLimits
from mskray.imaging.dicom import is_dicom
from mskray.imaging.volumes.found import Found, read_volumes
from mskray.storage import FileEntry, Location

_MOST_BYTES = 4 * 2**30
"""Of a folder's DICOM files together: they are held at once, because only headers tell which belong together."""


def volumes_below(place: Location) -> Iterator[Found]:
    """Read a file, or all below a folder or prefix: NIfTI and MetaImage one by one, DICOM a folder at a time.

    Raises:
        UserError: a folder with more DICOM than can be held, or a store that cannot be listed.
    """
    if place.is_file():
        yield read_volumes([(place.name, place.read_bytes(DecodeLimits().max_bytes))])
        return
    entries = sorted(place.walk(), key=lambda entry: (entry.path.rpartition("/")[0], entry.path))
    for _, files in groupby(entries, key=lambda entry: entry.path.rpartition("/")[0]):
        yield from _folder(place, files)


def _folder(place: Location, files: Iterator[FileEntry]) -> Iterator[Found]:
    dicom: list[tuple[str, bytes]] = []
    held = 0
    for entry in files:
        file = place.join(entry.path)
        try:
            data = file.read_bytes(DecodeLimits().max_bytes)
        except UserError as error:
            yield Found((), (), ((entry.path, f"cannot be read: {unreadable(error, file, place).reason}"),))
            continue
        if not is_dicom(data):
            yield read_volumes([(entry.path, data)])
            continue
        held += len(data)
        if held > _MOST_BYTES:
            raise UserError(f"a folder of {place} holds more than {_MOST_BYTES:,} bytes of DICOM: give one study")
        dicom.append((entry.path, data))
    if dicom:
        yield read_volumes(dicom)
