"""A radiograph with what a model saw in it: a map of shares laid over the grey levels, boxes, and a line that says so.

picture = draw(pixels, heat, [Mark("grad_cam", (40, 60, 90, 80))], "grad_cam for abnormal, probability 0.93")
"""

import io
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mskray.imaging.intensity import to_uint8
from mskray.imaging.regions import has_area

LEAST, MOST = 512, 1024
"""Smallest and largest longest side of a drawing in pixels: thumbnails grow so that writing fits, films shrink."""
COLOURS = ((255, 255, 255), (64, 224, 255), (150, 255, 120), (255, 160, 220))
"""Of boxes, in order: none of them occurs in the colour scale."""
_OPACITY = 0.58
_FAINT = 0.15
"""Shares below this stay invisible; from there opacity rises."""


class Mark(NamedTuple):
    """A box to draw: what it is, and x, y, w, h in pixels of the picture."""

    name: str
    box: tuple[float, float, float, float]


def colours(shares: np.ndarray) -> np.ndarray:
    """Colour shares in [0, 1] and say how opaque they are: (rows, columns, 4) uint8 red, green, blue, opacity.

    The scale is plasma's, perceptually uniform from violet over orange to yellow; nothing is transparent.
    """
    shares = np.clip(shares, 0, 1)
    # Without its darkest and palest ends: on black air and on white bone they could not be told from the film.
    levels = np.rint(255 * (0.12 + 0.80 * shares)).astype(np.uint8)
    rgb = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_PLASMA), cv2.COLOR_BGR2RGB)
    rise = np.clip((shares - _FAINT) / (1 - _FAINT), 0, 1)
    opacity = np.rint(255 * _OPACITY * rise**0.75).astype(np.uint8)
    return np.dstack([rgb, opacity])


def draw(pixels: np.ndarray, shares: np.ndarray | None, marks: Sequence[Mark] = (), title: str = "") -> np.ndarray:
    """Draw a radiograph, a map over it, boxes, and below it a line with the title, the scale and the boxes' names.

    Args:
        pixels: (rows, columns), uint8 or uint16.
        shares: (rows, columns) of any resolution, covering the same picture, in [0, 1]; None draws boxes alone.
        marks: those without area are left out, of the legend too: such a box means that none was found.
    Returns:
        (rows, columns, 3) uint8; the picture keeps its aspect ratio, its longest side is LEAST to MOST pixels.
    """
    marks = [mark for mark in marks if has_area(mark.box)]
    longest = max(pixels.shape)
    scale = np.clip(longest, LEAST, MOST) / longest
    rows, columns = (max(1, round(side * scale)) for side in pixels.shape)
    canvas = laid_over(pixels, shares, rows, columns)
    pen = ImageDraw.Draw(canvas)
    for mark, colour in zip(marks, _cycle(len(marks)), strict=True):
        _outline(pen, [side * scale for side in mark.box], colour)
    return np.vstack([np.asarray(canvas), legend(columns, title, shares is not None, marks)])


def laid_over(pixels: np.ndarray, shares: np.ndarray | None, rows: int, columns: int) -> Image.Image:
    """A picture of `rows` by `columns` px with a map over it; pixels and shares as `draw` takes them."""
    canvas = Image.fromarray(_resized(to_uint8(pixels), rows, columns)).convert("RGB")
    if shares is not None:
        layer = Image.fromarray(colours(_resized(shares.astype(np.float32), rows, columns)))
        canvas.paste(layer, mask=layer.getchannel("A"))
    return canvas


def png(picture: np.ndarray) -> bytes:
    """Return an array (rows, columns[, 3 or 4]) uint8, red first, or (rows, columns) uint16, as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def _resized(values: np.ndarray, rows: int, columns: int) -> np.ndarray:
    if values.shape == (rows, columns):
        return values
    shrinks = rows < values.shape[0] or columns < values.shape[1]
    return cv2.resize(values, (columns, rows), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def _cycle(count: int) -> list[tuple[int, int, int]]:
    return [COLOURS[index % len(COLOURS)] for index in range(count)]


def _outline(pen: ImageDraw.ImageDraw, box: Sequence[float], colour: tuple[int, int, int]) -> None:
    """A thin line between two dark ones: seen on bone and on air alike."""
    x, y, w, h = box
    corners = [x, y, max(x, x + w - 1), max(y, y + h - 1)]
    for grow, width, shade in ((1, 4, (0, 0, 0)), (0, 2, colour)):
        pen.rectangle(
            [corners[0] - grow, corners[1] - grow, corners[2] + grow, corners[3] + grow], outline=shade, width=width
        )


def legend(columns: int, title: str, scaled: bool, marks: Sequence[Mark] = ()) -> np.ndarray:
    """The strip below the picture, (rows, columns, 3): items flow into as many lines as they need."""
    font = ImageFont.load_default(14)
    height, gap = 22, 14
    strip = Image.new("RGB", (columns, height * (2 + len(marks))), (18, 20, 24))
    pen = ImageDraw.Draw(strip)
    x, y = 8, 3

    def item(text: str, swatch: int = 0) -> tuple[int, int]:
        """Find room for a swatch and a text, write the text, and return where the swatch goes."""
        nonlocal x, y
        needs = swatch + int(pen.textlength(text, font)) + gap
        if x > 8 and x + needs > columns:
            x, y = 8, y + height
        place = x, y
        pen.text((x + swatch, y), text, fill=(228, 231, 235), font=font)
        x += needs
        return place

    item(title)
    if scaled:
        left, top = item("share of the peak, 0 to 1", swatch=88)
        ramp = colours(np.tile(np.linspace(0, 1, 80, dtype=np.float32), (8, 1)))[..., :3]
        strip.paste(Image.fromarray(ramp), (left, top + 6))
    for mark, colour in zip(marks, _cycle(len(marks)), strict=True):
        left, top = item(mark.name, swatch=18)
        pen.rectangle([left, top + 4, left + 11, top + 14], outline=colour, width=2)
    return np.asarray(strip)[: y + height]
