"""Corners of vertebral bodies from masks that label each vertebra and disc, as the SPIDER data set has them.

Labels count from below: 1 is the lowest vertebra (L5), 201 the disc under it, 100 the spinal canal. A vertebra's mask
holds its arch and spinous process too, and the sacrum has none. So the body is what lies before the canal in the
vertebra's mid-sagittal slice, and the upper endplate of S1 is the lower border of the lowest disc.

Used by the source `spider`; `mskray.imaging.discs` takes the corners.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from mskray.imaging.spine import LEVELS, Vertebra
from mskray.imaging.volumes import Volume

CANAL, DISCS = 100, 200

_LEAST_BODY_MM2 = 150.0  # a whole body has some 900 in its mid-sagittal slice
# Axes of the smallest rectangle are believed as long as they agree with the course of the spine.
_MOST_TURN = np.radians(25)
# Ends of a disc's lower border bend away from the endplate.
_MIDDLE_OF_DISC = 0.8

Points = NDArray[np.float64]


@dataclass(frozen=True)
class Bodies:
    """What a mask shows: `found` by level, and for the other levels why they are `missing`."""

    found: Mapping[str, Vertebra]
    missing: Mapping[str, str]


def mask_bodies(mask: Volume) -> Bodies:
    """Find the bodies T12 … S1 and their corners.

    Args:
        mask: labels as pixels, in the order of `mskray.imaging.volumes.to_sagittal`.
    Returns:
        Vertebrae with corners in pixels of the mask.
    """
    found: dict[str, Vertebra] = {}
    missing: dict[str, str] = {}
    views = {number: _MidSagittal.of(mask, number) for number in range(1, len(LEVELS) + 1)}
    for number, level in enumerate(reversed(LEVELS[:-1]), 1):
        view = views[number]
        if view is None:
            missing[level] = f"{level} is not in the mask"
            continue
        canal = _canal_beside(mask, view)
        if canal is None:
            missing[level] = (
                f"{level} has no spinal canal behind it in the mask, so its body cannot be told from its arch"
            )
            continue
        outline = _outline(_in_front(view.plane, canal), mask.spacing_mm)
        if outline is None:
            missing[level] = f"{level} has no body in its mid-sagittal slice of the mask"
        elif _touches_edge(outline, mask):
            missing[level] = f"{level} is cut off by the edge of the image"
        else:
            down = _down(views, number, mask.spacing_mm)
            found[level] = Vertebra(level, view.slice, _corners(outline, down) / _pixel(mask))
    _add_sacrum(mask, found, missing)
    return Bodies(found, missing)


@dataclass(frozen=True, eq=False)
class _MidSagittal:
    """One label: the slice through its middle, and what is labelled there."""

    slice: float
    index: int
    plane: NDArray[np.bool_]
    centre: Points

    @classmethod
    def of(cls, mask: Volume, number: int) -> "_MidSagittal | None":
        labelled = mask.pixels == number
        counts = labelled.sum((1, 2))
        if not counts.any():
            return None
        # The vertebra and the disc are as wide to the left as to the right.
        middle = float(np.average(np.arange(len(counts)), weights=counts))
        seen = np.flatnonzero(counts)
        index = int(seen[np.abs(seen - middle).argmin()])
        rows, columns = np.nonzero(labelled[index])
        centre = np.array([columns.mean() + 0.5, rows.mean() + 0.5]) * _pixel(mask)
        return cls(middle, index, labelled[index], centre)


def _pixel(mask: Volume) -> Points:
    """(column, row) spacing, mm."""
    return np.array([mask.spacing_mm[2], mask.spacing_mm[1]])


def _canal_beside(mask: Volume, view: _MidSagittal) -> NDArray[np.bool_] | None:
    """The canal in the slice nearest to a vertebra's middle that shows it behind the vertebra; None where none does."""
    seen = np.flatnonzero(view.plane.any(1))
    behind = mask.pixels[:, seen[0] : seen[-1] + 1] == CANAL
    slices = np.flatnonzero(behind.any((1, 2)))
    if not len(slices):
        return None
    return np.asarray(mask.pixels[slices[np.abs(slices - view.index).argmin()]] == CANAL)


def _in_front(plane: NDArray[np.bool_], canal: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """What lies before the canal; rows without a canal take the border of the nearest row that has one."""
    rows = np.flatnonzero(canal.any(1))
    border = np.interp(np.arange(len(plane)), rows, canal[rows].argmax(1))
    return plane & (np.arange(plane.shape[1])[None] < border[:, None])


def _outline(plane: NDArray[np.bool_], spacing_mm: tuple[float, float, float]) -> Points | None:
    """Outline (n, 2), mm, of the largest part; None where it is too small for a body or a disc."""
    _, down, across = spacing_mm
    # Bridges of a pixel or two join a body with what lies beside it.
    opened = cv2.morphologyEx(plane.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    contours, _ = cv2.findContours(opened, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    if not contours:
        return None
    largest = max(contours, key=cv2.contourArea).reshape(-1, 2).astype(float)
    # Contours run through centres of pixels: each stands for its four corners.
    corners = np.concatenate([largest + offset for offset in ((0, 0), (1, 0), (1, 1), (0, 1))])
    outline = corners * (across, down)
    area = cv2.contourArea(cv2.convexHull(outline.astype(np.float32)))
    return outline if area >= _LEAST_BODY_MM2 else None


def _touches_edge(outline: Points, mask: Volume) -> bool:
    _, rows, columns = mask.pixels.shape
    far = np.array([columns, rows]) * _pixel(mask)
    return bool((outline <= 1e-6).any() or (outline >= far - 1e-6).any())


def _down(views: Mapping[int, _MidSagittal | None], number: int, spacing_mm: tuple[float, float, float]) -> Points:
    """Unit vector down the spine at a vertebra, from the centres of those beside it."""
    centres = [view.centre for each in (number + 1, number, number - 1) if (view := views.get(each)) is not None]
    course = centres[-1] - centres[0]
    # Spinous processes shift all centres alike; one vertebra alone says nothing.
    length = float(np.hypot(*course))
    return course / length if length > 0 else np.array([0.0, 1.0])


def _corners(outline: Points, down: Points) -> Points:
    """Corners (4, 2), mm: the outermost points along the diagonals of the smallest rectangle around the outline.

    Rims of a body stand out, its endplates are hollow: lines fitted to its sides would lie inside it.
    """
    along = _axes(outline, down)
    axes = np.stack([along, [-along[1], along[0]]])
    places = outline @ axes.T
    low, high = places.min(0), places.max(0)
    places = (2 * places - low - high) / (high - low)  # both sides from -1 to 1
    diagonals = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
    return outline[(places @ diagonals.T).argmax(0)]


def _axes(outline: Points, down: Points) -> Points:
    """Unit vector from anterior to posterior: that side of the smallest rectangle which is most nearly level."""
    expected = np.array([down[1], -down[0]])
    angle = np.radians(cv2.minAreaRect(outline.astype(np.float32))[2])
    sides = [np.array([np.cos(each), np.sin(each)]) for each in angle + np.arange(4) * np.pi / 2]
    nearest = max(sides, key=lambda side: float(side @ expected))
    return nearest if float(nearest @ expected) >= np.cos(_MOST_TURN) else expected


def _add_sacrum(mask: Volume, found: dict[str, Vertebra], missing: dict[str, str]) -> None:
    """S1: its upper endplate is the lower border of the lowest disc, its height is taken to be that of L5."""
    view = _MidSagittal.of(mask, DISCS + 1)
    outline = None if view is None else _outline(view.plane, mask.spacing_mm)
    if view is None or outline is None:
        missing["S1"] = "the disc L5/S1, whose lower border is the endplate of S1, is not in the mask"
        return
    if "L5" not in found:
        missing["S1"] = f"S1 has no mask, and its height would be that of L5, but {missing['L5']}"
        return
    pixel = _pixel(mask)
    body = found["L5"].corners * pixel
    down = body[2:].mean(0) - body[:2].mean(0)
    start, end = _lower_border(outline, view.centre - body.mean(0))
    along = (end - start) / np.hypot(*(end - start))
    height = np.hypot(*down) * np.array([-along[1], along[0]])
    found["S1"] = Vertebra("S1", view.slice, np.stack([start, end, end + height, start + height]) / pixel)


def _lower_border(outline: Points, down: Points) -> tuple[Points, Points]:
    """Ends (mm) of the straight line through a disc's lower border, as long as the disc."""
    down = down / np.hypot(*down)
    rectangle = cv2.boxPoints(cv2.minAreaRect(outline.astype(np.float32))).astype(float)
    sides = np.diff(np.concatenate([rectangle, rectangle[:1]]), axis=0)
    along = sides[np.hypot(*sides.T).argmax()]
    along = along / np.hypot(*along) * (1 if along[0] > 0 else -1)
    across = np.array([-along[1], along[0]])
    across = across if across @ down > 0 else -across
    places, depths = outline @ along, outline @ across
    low, high = places.min(), places.max()
    edges = np.linspace(low, high, 25)
    bins = np.digitize(places, edges[1:-1])
    deepest = np.array([depths[bins == each].max(initial=-np.inf) for each in range(24)])
    centres = (edges[:-1] + edges[1:]) / 2
    used = np.isfinite(deepest) & (np.abs(centres - (low + high) / 2) <= _MIDDLE_OF_DISC * (high - low) / 2)
    slope, offset = np.polyfit(centres[used], deepest[used], 1)
    start, end = (place * along + (slope * place + offset) * across for place in (low, high))
    return start, end
