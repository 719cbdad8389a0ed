"""A volume's slices side by side, each with its index: to see at a glance whether it is what its header says."""

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mskray.imaging.intensity import full_range
from mskray.imaging.overlay import laid_over, legend
from mskray.imaging.volumes.volume import Plane, Volume, orientation, to_plane

_TILE = 192
_MOST = 48
"""Tiles: of more slices, so many are drawn at even distances."""
_ACROSS = 8
_HEAT_TILE, _HEAT_ACROSS = 336, 3
"""A map needs larger tiles than a look at a volume does; three of a disc's nine slices fill a screen's width."""
_GAP = 3
_TEXT, _GROUND = (255, 225, 130), (24, 26, 30)
_ANISOTROPIC = 1.5


def shown_plane(volume: Volume) -> Plane:
    """The plane in which a volume is best looked at.

    Of its slices, where these lie further apart than the pixels in them; else of the axis with the fewest voxels, for
    NIfTI and MetaImage order their axes as they like and a stack of sagittal slices may be stored crosswise.
    """
    return stack_plane(volume) or _plane_across(volume, int(np.argmin(volume.pixels.shape)))


def stack_plane(volume: Volume) -> Plane | None:
    """The plane of slices that lie further apart than the pixels in them; None where voxels are about cubes."""
    spacing = np.array(volume.spacing_mm)
    return _plane_across(volume, int(spacing.argmax())) if spacing.max() > _ANISOTROPIC * spacing.min() else None


def _plane_across(volume: Volume, axis: int) -> Plane:
    """The plane of the body nearest to the slices across an axis of the array."""
    order = [(axis + shift) % 3 for shift in range(3)]
    directions = volume.affine[:3, :3].T[::-1][order]
    affine = np.eye(4)
    affine[:3, :3] = directions[::-1].T
    return orientation(Volume(volume.pixels.transpose(order), volume.spacing_mm, affine))[0]


def montage(volume: Volume) -> np.ndarray:
    """Draw the slices of `shown_plane` as a radiologist hangs them, in true proportions, one window for all.

    Black and white are the volume's percentiles 0.5 and 99.5. Each tile has its slice's index, from 0, in that view.

    Returns:
        (height, width, 3) uint8 RGB.
    """
    view = to_plane(volume, shown_plane(volume))
    low, high = np.percentile(view.pixels, (0.5, 99.5))
    count = len(view.pixels)
    chosen = np.unique(np.linspace(0, count - 1, min(count, _MOST)).round().astype(int))
    _, between_rows, between_columns = view.spacing_mm
    height, width = view.pixels.shape[1] * between_rows, view.pixels.shape[2] * between_columns
    scale = _TILE / max(height, width)
    rows, columns = max(1, round(height * scale)), max(1, round(width * scale))
    tiles = []
    for index in chosen:
        levels = (view.pixels[index] - low) / max(float(high - low), 1e-9)
        tile = cv2.resize(full_range(levels, np.uint8), (columns, rows), interpolation=cv2.INTER_AREA)
        tiles.append(Image.fromarray(tile))
    return _side_by_side(tiles, chosen.tolist(), _ACROSS)


def heat_montage(stack: np.ndarray, shares: np.ndarray, title: str) -> np.ndarray:
    """Draw every slice of a stack with a map over it, and below them a line with the title and the map's scale.

    Args:
        stack: (slices, rows, columns), uint8 or uint16.
        shares: (slices, rows, columns) in [0, 1], one scale for all slices.
    Returns:
        (height, width, 3) uint8 RGB.
    """
    rows, columns = stack.shape[1:]
    scale = _HEAT_TILE / max(rows, columns)
    rows, columns = max(1, round(rows * scale)), max(1, round(columns * scale))
    tiles = [laid_over(pixels, heat, rows, columns) for pixels, heat in zip(stack, shares, strict=True)]
    sheet = _side_by_side(tiles, range(len(tiles)), _HEAT_ACROSS)
    return np.vstack([sheet, legend(sheet.shape[1], title, scaled=True)])


def _side_by_side(tiles: Sequence[Image.Image], numbers: Sequence[int], most: int) -> np.ndarray:
    """Tiles of one size in lines of at most `most`, each with its number."""
    columns, rows = tiles[0].size
    across = min(most, len(tiles))
    down = -(-len(tiles) // across)
    sheet = Image.new("RGB", (across * (columns + _GAP) + _GAP, down * (rows + _GAP) + _GAP), _GROUND)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for place, (tile, number) in enumerate(zip(tiles, numbers, strict=True)):
        corner = _GAP + place % across * (columns + _GAP), _GAP + place // across * (rows + _GAP)
        sheet.paste(tile, corner)
        pen.text((corner[0] + 3, corner[1] + 1), str(number), fill=_TEXT, font=font, stroke_width=1, stroke_fill=0)
    return np.asarray(sheet)
