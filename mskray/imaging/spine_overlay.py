"""A sagittal slice with the outlines and names of the vertebral bodies that were found on it."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from mskray.imaging.overlay import COLOURS, LEAST, MOST
from mskray.imaging.spine import FoundVertebra

_GAP = 6  # px between a body and its name


def draw_spine(
    pixels: NDArray[np.uint8],
    spacing_mm: tuple[float, float],
    bodies: Sequence[FoundVertebra],
    notes: Sequence[str] = (),
) -> NDArray[np.uint8]:
    """Draw bodies with their names and, where they have one, their scores, and below the slice a line for each note.

    Args:
        pixels: (rows, columns) grey levels.
        spacing_mm: of rows and columns; the drawing has square pixels.
    Returns:
        (rows, columns, 3) uint8, its picture's longest side LEAST to MOST px.
    """
    rows, columns = pixels.shape
    down, across = spacing_mm
    unit = min(spacing_mm)
    tall, wide = rows * down / unit, columns * across / unit
    grow = np.clip(max(tall, wide), LEAST, MOST) / max(tall, wide)
    scale = np.array([wide * grow / columns, tall * grow / rows])
    size = max(1, round(wide * grow)), max(1, round(tall * grow))
    canvas = Image.fromarray(cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR)).convert("RGB")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(14)
    for number, body in enumerate(bodies):
        colour = COLOURS[number % len(COLOURS)]
        outline = [tuple(point) for point in (body.corners * scale).tolist()]
        pen.line([*outline, outline[0]], fill=(0, 0, 0), width=4)
        pen.line([*outline, outline[0]], fill=colour, width=2)
        right, middle = max(x for x, _ in outline) + _GAP, sum(y for _, y in outline) / 4
        pen.text(
            (right, middle),
            body.level if body.score is None else f"{body.level} {body.score:.2f}",
            fill=colour,
            font=font,
            anchor="lm",
            stroke_width=2,
            stroke_fill=(0, 0, 0),
        )
    if not notes:
        return np.asarray(canvas)
    strip = Image.new("RGB", (size[0], 22 * len(notes)), (18, 20, 24))
    for line, note in enumerate(notes):
        ImageDraw.Draw(strip).text((8, 22 * line + 3), note, fill=(228, 231, 235), font=font)
    return np.vstack([np.asarray(canvas), np.asarray(strip)])
