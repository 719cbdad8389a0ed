"""Taking L/R markers ("flags") out of a radiograph: their pixels alone, filled with what surrounds them.

A box blanked with a constant leaves edges that a network sees as well as the letter (ZHAW, section IV-B2): only the
marker's own pixels are replaced, by the mean of their surroundings, with the grain of the surroundings upon it. A
smooth patch of the letter's shape would tell as much as the letter. Implants are bright and sharp too: pixels in the
boxes of `protected` stay as they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

import cv2
import numpy as np

from mskray.imaging.regions import Box

# A box may cut a stroke's soft edge off, by a pixel or by a share of the box.
_SLACK = 0.08
# Width of the ring around the box that counts as surroundings, as a share of the box's longer side.
_RING = 0.35
# Half of a letter's contrast would cut its soft edge off: the mask starts at this share.
_LEVEL = 0.3
# What the surroundings vary by themselves is no marker: least contrast, in their standard deviations. Where they hold
# an edge of their own, such as skin, that would be more than any marker has; half of the contrast is then enough.
_NOISE = 3.0
_LEVEL_MOST = 0.5
_GROW = 0.06


@dataclass(frozen=True)
class Removal:
    """What became of one image.

    Args:
        pixels: (rows, columns), as the image.
        changed: (rows, columns) bool, the pixels that were filled.
    """

    pixels: np.ndarray
    changed: np.ndarray


def remove_flags(
    pixels: np.ndarray, flags: Sequence[Box], protected: Sequence[Box] = (), outlines: Sequence[np.ndarray] = ()
) -> Removal:
    """Fill the pixels of each flag with the mean of their surroundings.

    Args:
        pixels: (rows, columns) uint8 or uint16.
        flags: boxes (x, y, w, h) in pixels, each around one marker; they may leave the image.
        protected: boxes whose pixels are never changed, such as those of implants.
        outlines: where a detector knows more than boxes, for each flag the pixels (rows, columns) bool that it takes
            for the flag; nothing is filled but these and their neighbours.
    """
    kept = np.zeros(pixels.shape, bool)
    for box in protected:
        kept[_slices(box, pixels.shape)] = True
    result, changed = pixels.copy(), np.zeros(pixels.shape, bool)
    for box, outline in zip_longest(flags, outlines):
        _remove(result, changed, box, kept, outline)
    return Removal(result, changed)


def flag_mask(pixels: np.ndarray, box: Box) -> np.ndarray:
    """Return the pixels (rows, columns) bool that stand out from the surroundings inside one flag's box."""
    mask = np.zeros(pixels.shape, bool)
    patch = _Patch.of(pixels, box, np.zeros(pixels.shape, bool))
    if patch is not None:
        mask[patch.window] = patch.marker
    return mask


@dataclass(frozen=True)
class _Patch:
    """A flag's box with its surroundings; all arrays are of the window's shape.

    Args:
        marker: bool, the flag's pixels.
        around: float32, the local mean of what surrounds the flag.
        ring: bool, the pixels that it was taken from.
    """

    window: tuple[slice, slice]
    marker: np.ndarray
    around: np.ndarray
    ring: np.ndarray

    @classmethod
    def of(cls, pixels: np.ndarray, box: Box, kept: np.ndarray, outline: np.ndarray | None = None) -> "_Patch | None":
        """Tell the marker from its surroundings; None where the box is outside or nothing surrounds it."""
        slack = max(1.0, _SLACK * max(box[2:]))
        margin = slack + max(3.0, _RING * max(box[2:]))
        window = _slices(_grown(box, margin), pixels.shape)
        inner = _slices(_grown(box, slack), pixels.shape)
        if 0 in pixels[inner].shape:
            return None
        here = pixels[window].astype(np.float32)
        inside = np.zeros(here.shape, bool)
        top, left = window[0].start, window[1].start
        inside[inner[0].start - top : inner[0].stop - top, inner[1].start - left : inner[1].stop - left] = True
        ring = ~inside & ~kept[window]
        if not ring.any():
            return None
        reach = max(1, round(_GROW * max(box[2:])))
        if outline is not None:
            inside &= _grow(outline[window], reach)
            if not inside.any():
                return None
        around = _local_mean(here, ring, max(box[2:]) / 2)
        spread = float(np.std((here - around)[ring]))
        marker = _standing_out(here - around, inside, spread)
        marker = _grow(marker, reach) & inside & ~kept[window]
        # Second look: what is no marker inside the box surrounds it more closely than the ring does.
        return cls(window, marker, _local_mean(here, ~marker & ~kept[window], max(2.0, min(box[2:]) / 4)), ring)


def _remove(result: np.ndarray, changed: np.ndarray, box: Box, kept: np.ndarray, outline: np.ndarray | None) -> None:
    patch = _Patch.of(result, box, kept, outline)
    if patch is None or not patch.marker.any():
        return
    here = result[patch.window]
    grain = _grain(here, patch.ring, int(patch.marker.sum()))
    top = np.iinfo(result.dtype).max
    here[patch.marker] = np.clip(np.rint(patch.around[patch.marker] + grain), 0, top).astype(result.dtype)
    changed[patch.window] |= patch.marker


def _standing_out(above: np.ndarray, inside: np.ndarray, spread: float) -> np.ndarray:
    """Pixels inside that differ from their surroundings, all on one side: lead is brighter, a dark print is darker."""
    bright, dark = (float(np.percentile(sign * above[inside], 97)) for sign in (1, -1))
    sign, contrast = (1, bright) if bright >= dark else (-1, dark)
    level = max(_LEVEL * contrast, min(_NOISE * spread, _LEVEL_MOST * contrast), 1.0)
    return inside & (sign * above > level)


def _local_mean(values: np.ndarray, known: np.ndarray, sigma: float) -> np.ndarray:
    """Mean of the known pixels around each pixel, weighted by a Gaussian; the mean of all where none is near."""
    weight = cv2.GaussianBlur(known.astype(np.float32), (0, 0), sigma, borderType=cv2.BORDER_ISOLATED)
    total = cv2.GaussianBlur(np.where(known, values, np.float32(0)), (0, 0), sigma, borderType=cv2.BORDER_ISOLATED)
    everywhere = float(values[known].mean()) if known.any() else 0.0
    return np.where(weight > 1e-4, total / np.maximum(weight, 1e-4), everywhere)


def _grain(pixels: np.ndarray, ring: np.ndarray, count: int) -> np.ndarray:
    """Draw `count` deviations of the ring's pixels from their own neighbourhood; always the same for the same ring."""
    values = pixels.astype(np.float32)
    deviations = (values - _local_mean(values, ring, 1.0))[ring]
    # A pixel counts in its own neighbourhood, which takes this share of its deviation away (1 − 1/(4πσ²), σ = 1).
    middle = float(np.median(np.abs(deviations))) / 0.92
    return np.random.default_rng(len(deviations)).normal(0, 1.4826 * middle, count)


def _grow(mask: np.ndarray, radius: int) -> np.ndarray:
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    return cv2.dilate(mask.astype(np.uint8), disc) > 0


def _grown(box: Box, margin: float) -> Box:
    x, y, w, h = box
    return x - margin, y - margin, w + 2 * margin, h + 2 * margin


def _slices(box: Box, shape: tuple[int, ...]) -> tuple[slice, slice]:
    """Whole pixels that a box touches, inside the image."""
    x, y, w, h = box
    rows = slice(max(0, int(np.floor(y))), max(0, min(shape[0], int(np.ceil(y + h)))))
    columns = slice(max(0, int(np.floor(x))), max(0, min(shape[1], int(np.ceil(x + w)))))
    return rows, columns
