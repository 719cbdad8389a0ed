"""`mskray montage IN --out PNG`: the volumes among files, their geometry in words, and their slices as a picture."""

from collections import Counter
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mskray.cohorts.unreadable import unreadable
from mskray.errors import UserError
from mskray.imaging.decode import DecodeLimits
from mskray.imaging.overlay import png
from mskray.imaging.volumes.found import Found, read_volumes
from mskray.imaging.volumes.montage import montage as draw
from mskray.imaging.volumes.montage import shown_plane
from mskray.imaging.volumes.volume import Volume, orientation
from mskray.storage import Location, check_access, locate

_MOST_BYTES = 4 * 2**30
"""Of all files together: they are held in memory at once, because only headers tell which belong together."""
_MOST_DRAWN = 24
_CAPTION = 22


def montage(source: str, out: str) -> str:
    """Read volumes, write one PNG with a montage of each, and return their geometry in words.

    Args:
        source: a NIfTI or MetaImage file, a DICOM file, or a folder or prefix with files of any of these.
        out: where the PNG goes.
    Raises:
        UserError: no file, no volume in any of them, too much to hold, or no place to write to.
    """
    place, target = locate(source), locate(out)
    check_access(place)
    check_access(target, write=True)
    unread: list[tuple[str, str]] = []
    found = read_volumes(_files(place, unread))
    # A series in the folder itself goes by the folder's name.
    names = tuple(place.name + name[1:] if name[:2] in (".", ".#") else name for name in found.names)
    found = Found(names, found.volumes, (*found.rejected, *unread))
    if not found.volumes:
        reasons = "; ".join(_reasons(found)) or "no files"
        raise UserError(f"{place} holds no volume ({reasons}): give DICOM series, NIfTI or MetaImage (.mha)")
    drawn = [_titled(name, volume) for name, volume in list(zip(found.names, found.volumes, strict=True))[:_MOST_DRAWN]]
    target.write_bytes(png(_stacked(drawn)))
    lines = [line for name, volume in zip(found.names, found.volumes, strict=True) for line in _lines(name, volume)]
    if found.rejected:
        lines += [f"{len(found.rejected):,} not in a volume", *(f"  {reason}" for reason in _reasons(found))]
    if len(found.volumes) > len(drawn):
        lines.append(f"the first {len(drawn)} of {len(found.volumes):,} volumes are drawn")
    return "\n".join([*lines, f"montage: {target}"])


def _files(place: Location, unread: list[tuple[str, str]]) -> Iterator[tuple[str, bytes]]:
    """(path, bytes) of one file, or of all below a folder; those that cannot be read go to `unread` with a reason."""
    limits = DecodeLimits()
    if place.is_file():
        yield place.name, place.read_bytes(limits.max_bytes)
        return
    entries = sorted(place.walk(), key=lambda entry: entry.path)
    total = sum(entry.size for entry in entries)
    if total > _MOST_BYTES:
        raise UserError(f"{place} holds {total:,} bytes, more than the {_MOST_BYTES:,} read at once: give one study")
    for entry in entries:
        file = place.join(entry.path)
        try:
            data = file.read_bytes(limits.max_bytes)
        except UserError as error:
            unread.append((entry.path, f"cannot be read: {unreadable(error, file, place).reason}"))
        else:
            yield entry.path, data


def _lines(name: str, volume: Volume) -> list[str]:
    slices, rows, columns = volume.pixels.shape
    plane, angle = orientation(volume)
    facts = [
        f"{slices} slices × {rows} rows × {columns} columns",
        f"spacing {' × '.join(f'{step:.3g}' for step in volume.spacing_mm)} mm",
        "thickness not stated" if volume.thickness_mm is None else f"thickness {volume.thickness_mm:.3g} mm",
        plane if angle < 1 else f"{plane}, {angle:.0f}° oblique",
    ]
    shown = shown_plane(volume)
    notes = [*volume.notes, *([f"drawn as {shown} slices"] if shown != plane else [])]
    return [f"{name}  {volume.modality or 'modality not stated'}  {', '.join(facts)}", *(f"  {note}" for note in notes)]


def _reasons(found: Found) -> list[str]:
    """The commonest reasons for which files were rejected, each with its count and an example."""
    counts = Counter(reason for _, reason in found.rejected)
    example = {reason: path for path, reason in reversed(found.rejected)}
    return [f"{count:,} × {reason}, such as {example[reason]}" for reason, count in counts.most_common(10)]


def _titled(name: str, volume: Volume) -> np.ndarray:
    """A volume's montage below a line with its name and first note."""
    sheet = draw(volume)
    title = Image.new("RGB", (max(sheet.shape[1], 480), _CAPTION), (0, 0, 0))
    words = "   ".join([name, *volume.notes[:1]])
    ImageDraw.Draw(title).text((4, 3), words, fill=(235, 235, 235), font=ImageFont.load_default(13))
    return _stacked([np.asarray(title), sheet])


def _stacked(pictures: list[np.ndarray]) -> np.ndarray:
    """Pictures (rows, columns, 3) below each other, black at their right."""
    width = max(picture.shape[1] for picture in pictures)
    return np.vstack([np.pad(each, ((0, 0), (0, width - each.shape[1]), (0, 0))) for each in pictures])
