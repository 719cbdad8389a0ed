"""An upload to the one sagittal volume in it, within limits that hold while it is unpacked and decoded.

As with views, content says what a file is, and neither names nor headers are told or logged. Nothing touches a disk but
the voxels of a MetaImage, which are written without its header, read back and deleted: its reader knows only files.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from mskray.imaging.decode import DecodeLimits
from mskray.imaging.dicom import may_be_deflated
from mskray.imaging.spine_cell import unfit_for_spines
from mskray.imaging.volumes import Volume, read_volumes, to_sagittal
from mskray.serving.archives import ArchiveError, is_archive, unpack
from mskray.serving.problems import Problem
from mskray.serving.settings import Limits
from mskray.serving.uploads import Upload

MAX_FILES = 2_000
"""A study of several series has some hundreds of slices."""
_TOLD = 3


def decode_volume(files: Sequence[Upload], limits: Limits) -> Volume:
    """Read the files of an upload, those of a zip too: one DICOM series, a NIfTI or a MetaImage file.

    Of several volumes, such as the series of a whole study, the one that is sagittal is taken.

    Returns:
        The volume in the order of `to_sagittal`.
    Raises:
        Problem: beyond the limits, nothing that can be read, no sagittal volume or several.
    """
    held = [(str(number), data) for number, data in enumerate(_unpacked(files, limits))]
    # All DICOM files are held at once, because only headers tell which belong together: inflated ones share the room.
    deflated = sum(may_be_deflated(data) for _, data in held)
    together = min(limits.max_pixels, DecodeLimits.max_pixels)
    found = read_volumes(held, DecodeLimits(limits.max_unpacked // max(1, deflated)), together)
    if not found.volumes:
        why = _commonest([reason for _, reason in found.rejected]) or "no files"
        raise _unreadable(f"{why}: send the files of a DICOM series, or one NIfTI or MetaImage (.mha) file")
    doubts = [unfit_for_spines(volume) for volume in found.volumes]
    fit = [volume for volume, doubt in zip(found.volumes, doubts, strict=True) if doubt is None]
    if not fit:
        raise _unreadable(f"{_commonest([doubt for doubt in doubts if doubt])}: send a sagittal series")
    if len(fit) > 1:
        raise _unreadable(f"{len(fit)} volumes that may show a spine in one upload: send the files of one series")
    volume = to_sagittal(fit[0])
    # As views of the same memory are, it could not be handed to another process without a copy each time.
    return replace(volume, pixels=np.ascontiguousarray(volume.pixels))


def _unpacked(files: Sequence[Upload], limits: Limits) -> Iterator[bytes]:
    """Yield what files hold, those of a zip in its place."""
    count, left = 0, limits.max_unpacked
    for file in files:
        if not is_archive(file.data):
            count += 1
            yield file.data
        else:
            try:
                for member in unpack(file.data, MAX_FILES - count, left):
                    count += 1
                    left -= len(member.data)
                    yield member.data
            except ArchiveError as error:
                if error.too_many or error.too_large:
                    raise Problem("too-large", f"{error.reason}: send the files of one series") from None
                raise _unreadable(f"{error.reason}: pack it again, or send the files as they are") from None
        if count > MAX_FILES:
            raise Problem("too-large", f"more than {MAX_FILES:,} files: send those of one series")


def _commonest(reasons: Sequence[str]) -> str:
    """The commonest reasons, each once."""
    return "; ".join(reason for reason, _ in Counter(reasons).most_common(_TOLD))


def _unreadable(detail: str) -> Problem:
    return Problem("unreadable-volume", detail)
