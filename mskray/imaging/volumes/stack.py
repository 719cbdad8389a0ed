"""Slices of one geometry → one volume: sorted by position, duplicates out, gaps told and left black."""

from collections.abc import Sequence

import numpy as np

from mskray.imaging.decoded import DecodeError, DecodeLimits
from mskray.imaging.volumes.slices import Slice
from mskray.imaging.volumes.volume import Volume, spacing_of

_SAME_PLACE_MM = 0.02
#: Shares of the spacing by which a step may miss a whole number of spacings: silently, and at all.
_EVEN, _UNEVEN = 0.05, 0.2
_LEANS_DEGREES = 1.0


def stack(
    slices: Sequence[Slice], notes: Sequence[str], limits: DecodeLimits, rejected: list[tuple[str, str]]
) -> tuple[Volume, tuple[str | None, ...]]:
    """Stack slices that agree in rows, columns, spacing and orientation.

    Args:
        notes: to begin the volume's own with.
        rejected: duplicates and slices whose pixels cannot be decoded are added, (name, reason).
    Returns:
        The volume, and the name each slice came from (None: missing, black).
    Raises:
        DecodeError: no slice can be decoded; uneven positions; more slices missing than there; beyond `limits`.
    """
    shape = slices[0].picture.shape
    limits.check(shape.rows, shape.columns, len(slices))
    ordered = _without_duplicates(slices, rejected)
    pixels = _pixels(ordered, rejected)
    ordered = [each for each in ordered if each in pixels]
    if not ordered:
        raise DecodeError("no slice of the series can be decoded")
    steps = _steps(ordered)
    places = np.concatenate([[0], np.cumsum(steps.counts)])
    count = int(places[-1]) + 1
    if count - len(ordered) > len(ordered):
        raise DecodeError(f"{count - len(ordered)} of {count} slices are missing")
    limits.check(shape.rows, shape.columns, count)
    affine, lean = _affine(ordered, places)
    filled = np.full((count, shape.rows, shape.columns), min(float(pixels[each].min()) for each in ordered), np.float32)
    names: list[str | None] = [None] * count
    for place, each in zip(places, ordered, strict=True):
        filled[place] = pixels[each]
        names[place] = each.name
    thicknesses = [each.thickness_mm for each in ordered if each.thickness_mm is not None]
    volume = Volume(
        pixels=filled,
        spacing_mm=spacing_of(affine),
        affine=affine,
        thickness_mm=float(np.median(thicknesses)) if thicknesses else None,
        modality=ordered[0].modality,
        notes=(*notes, *steps.notes(places), *_lean_note(lean), *_thickness_note(thicknesses)),
        burned_in=any(each.burned_in for each in ordered),
        missing=tuple(place for place, name in enumerate(names) if name is None),
    )
    return volume, tuple(names)


def _without_duplicates(slices: Sequence[Slice], rejected: list[tuple[str, str]]) -> list[Slice]:
    """Slices along their normal, one a position: that of the lowest instance number, then name."""
    normal = slices[0].normal
    kept: list[Slice] = []
    for each in sorted(slices, key=lambda one: (float(one.position @ normal), one.number, one.name)):
        if not kept or float((each.position - kept[-1].position) @ normal) > _SAME_PLACE_MM:
            kept.append(each)
            continue
        first, second = sorted((kept[-1], each), key=lambda one: (one.number, one.name))
        kept[-1] = first
        rejected.append((second.name, f"a duplicate: the same position as {first.name}"))
    return kept


def _pixels(slices: Sequence[Slice], rejected: list[tuple[str, str]]) -> dict[Slice, np.ndarray]:
    """Each slice's (rows, columns) float32, a file decoded once; those that fail are rejected."""
    files: dict[int, list[Slice]] = {}
    for each in slices:
        files.setdefault(id(each.picture), []).append(each)
    pixels = {}
    for members in files.values():
        try:
            values = members[0].picture.values()
        except DecodeError as error:
            rejected += [(each.name, error.reason) for each in members]
        else:
            pixels.update({each: values[each.frame] for each in members})
    return pixels


class _Steps:
    """Distances between neighbouring slices in whole spacings: 1, or more where slices are missing."""

    def __init__(self, lengths: np.ndarray) -> None:
        self.lengths = lengths
        self.spacing = 0.0
        self.counts = np.zeros(0, int)
        self.off = 0.0
        if not lengths.size:
            return
        self.spacing = float(np.median(lengths[lengths <= 1.5 * lengths.min()]))
        self.counts = np.maximum(np.rint(lengths / self.spacing), 1).astype(int)
        self.off = float(np.abs(lengths - self.counts * self.spacing).max())
        if self.off > _UNEVEN * self.spacing:
            raise DecodeError(f"uneven slice positions: steps of {lengths.min():.2f} to {lengths.max():.2f} mm")

    def notes(self, places: np.ndarray) -> list[str]:
        notes = ["one slice: its spacing is not measured"] if not self.lengths.size else []
        for place, count, length in zip(places, self.counts, self.lengths, strict=False):
            if count > 1:
                missing = "1 slice" if count == 2 else f"{count - 1} slices"
                gap = f"a gap of {length:.2f} mm = {count} × {self.spacing:.2f} mm"
                notes.append(f"{missing} missing after slice {place} ({gap}): left black")
        if self.off > _EVEN * self.spacing:
            notes.append(f"uneven: up to {self.off:.2f} mm off a spacing of {self.spacing:.2f} mm")
        return notes


def _steps(ordered: Sequence[Slice]) -> _Steps:
    normal = ordered[0].normal
    return _Steps(np.diff([float(each.position @ normal) for each in ordered]))


def _affine(ordered: Sequence[Slice], places: np.ndarray) -> tuple[np.ndarray, float]:
    """The volume's affine, its slices' step fitted to all positions, and by how many degrees that leans off the normal.

    PS3.3 C.7.6.2.1.1: the first column of orientation is the direction in which the column index grows.
    """
    first = ordered[0]
    between_rows, between_columns = first.spacing_mm
    if len(ordered) == 1:
        origin, step = first.position, first.normal * (first.distance_mm or first.thickness_mm or 1.0)
    else:
        positions = np.stack([each.position for each in ordered])
        design = np.column_stack([np.ones(len(places)), places])
        origin, step = np.linalg.lstsq(design, positions, rcond=None)[0]
        off = float(np.linalg.norm(positions - design @ np.stack([origin, step]), axis=1).max())
        if off > max(_UNEVEN * float(np.linalg.norm(step)), between_rows, between_columns):
            raise DecodeError(f"slices do not lie behind each other: up to {off:.2f} mm off a straight line")
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = first.axes[0] * between_columns, first.axes[1] * between_rows
    affine[:3, 2], affine[:3, 3] = step, origin
    cosine = float(step @ first.normal / np.linalg.norm(step))
    return affine, float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


def _lean_note(lean: float) -> list[str]:
    return [f"a stack that leans by {lean:.0f}° off its slices' normal"] if lean > _LEANS_DEGREES else []


def _thickness_note(thicknesses: Sequence[float]) -> list[str]:
    if not thicknesses or max(thicknesses) - min(thicknesses) < 0.01:
        return []
    return [f"slices of {min(thicknesses):g} to {max(thicknesses):g} mm thickness"]
