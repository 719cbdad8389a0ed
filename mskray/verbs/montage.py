"""`mskray montage IN --out PNG`: the volumes among files, their geometry in words, and their slices as a picture."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mskray.imaging.overlay import png
from mskray.imaging.volumes.montage import montage as draw
from mskray.imaging.volumes.montage import shown_plane
from mskray.imaging.volumes.volume import Volume, orientation
from mskray.storage import check_access, locate
from mskray.verbs.volume_files import no_volume, reasons, volumes_below

_MOST_DRAWN = 24
_CAPTION = 22


def montage(source: str, out: str) -> str:
    """Read volumes, write one PNG with a montage of each, and return their geometry in words.

    Args:
        source: a NIfTI or MetaImage file, a DICOM file, or a folder or prefix with files of any of these.
        out: where the PNG goes.
    Raises:
        UserError: no file, no volume in any of them, or no place to write to.
    """
    place, target = locate(source), locate(out)
    check_access(place)
    check_access(target, write=True)
    rejected: list[tuple[str, str]] = []
    drawn: list[np.ndarray] = []
    lines: list[str] = []
    count = 0
    for name, volume in volumes_below(place, rejected):
        count += 1
        lines += _lines(name, volume)
        if count <= _MOST_DRAWN:
            drawn.append(_titled(name, volume))
    if not count:
        raise no_volume(place, rejected)
    target.write_bytes(png(_stacked(drawn)))
    if rejected:
        lines += [f"{len(rejected):,} not in a volume", *(f"  {reason}" for reason in reasons(rejected))]
    if count > len(drawn):
        lines.append(f"the first {len(drawn)} of {count:,} volumes are drawn")
    return "\n".join([*lines, f"montage: {target}"])


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
