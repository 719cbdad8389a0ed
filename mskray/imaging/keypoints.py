"""Key points of an image and their descriptors: ORB and SIFT (OpenCV), SURF (mahotas).

    kept = describe(image, "sift", most=200)      # kept.descriptors: (n, 128) uint8, strongest first

Radiographs and MR slices are smooth. At OpenCV's own thresholds 42 % of knee radiographs of 224 px have no ORB point
and 19 % no SIFT point, so the thresholds here are low and the bound does the choosing: the strongest `most` are kept.
SURF is no longer part of OpenCV 5.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np

Kind = Literal["orb", "sift", "surf"]
KINDS: tuple[Kind, ...] = ("orb", "sift", "surf")
WIDTHS: dict[str, int] = {"orb": 256, "sift": 128, "surf": 64}
"""Length of a descriptor as `unpack` gives it."""

_FAST_THRESHOLD = 3
_CONTRAST_THRESHOLD = 0.005
_SURF_THRESHOLD = 0.1
_SURF_CANDIDATES = 100_000
_SURF_FACTS = 6
"""Columns of mahotas before the descriptor: y, x, scale, score, sign of the Laplacian, angle."""
_SMALLEST = 16
"""Sides below this leave no room for the patch around a key point."""


@dataclass(frozen=True)
class Described:
    """The key points of one image, strongest first; equal ones from top to bottom and left to right.

    Args:
        descriptors: ORB (n, 32) uint8, 256 bits of a point; SIFT (n, 128) uint8; SURF (n, 64) float32, of length 1.
        points: (n, 2) float32, row and column in pixels.
        reason: why there is none, or "".
    """

    descriptors: np.ndarray
    points: np.ndarray
    reason: str = ""


def describe(image: np.ndarray, kind: Kind, most: int) -> Described:
    """Find and describe the strongest key points of an image.

    Args:
        image: (rows, columns) uint8.
        most: key points that are kept; the same image always gives the same ones.
    Returns:
        Empty arrays and a reason where there is no key point.
    """
    if image.ndim != 2 or image.dtype != np.uint8:
        raise ValueError(f"key points are those of a (rows, columns) uint8 image, not {image.dtype} {image.shape}")
    if min(image.shape) < _SMALLEST:
        return _none(kind, f"{image.shape[0]} × {image.shape[1]} px is too small for {kind.upper()}")
    places, strengths, descriptors = _DETECTORS[kind](np.ascontiguousarray(image), most)
    if not len(descriptors):
        flat = int(image.min()) == int(image.max())
        return _none(kind, "the image is flat: no key point" if flat else f"no {kind.upper()} key point is found")
    # Key points of one place differ in scale or angle; with their descriptors the order is complete.
    last = np.ascontiguousarray(descriptors).view(np.dtype((np.void, descriptors[0].nbytes))).ravel().argsort()
    rank = np.empty(len(last), np.int64)
    rank[last] = np.arange(len(last))
    order = np.lexsort([rank, places[:, 1], places[:, 0], -strengths])[:most]
    return Described(descriptors[order], places[order])


def unpack(descriptors: np.ndarray, kind: Kind) -> np.ndarray:
    """Return stored descriptors as the vectors (n, WIDTHS[kind]) float32 that are clustered.

    ORB's 256 bits become as many zeros and ones: their squared Euclidean distance is the Hamming distance that ORB is
    made for (Rublee 2011, section 4), which that between its 32 bytes is not.
    """
    if kind == "orb":
        return np.unpackbits(descriptors, axis=1).astype(np.float32)
    return descriptors.astype(np.float32)


Found = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Places (n, 2) float32, strengths (n,) float64, descriptors."""


def _orb(image: np.ndarray, most: int) -> Found:
    return _opencv(cv2.ORB.create(nfeatures=most, fastThreshold=_FAST_THRESHOLD), image, 32)


def _sift(image: np.ndarray, most: int) -> Found:
    # OpenCV gives SIFT's whole numbers from 0 to 255 as float32.
    return _opencv(cv2.SIFT.create(nfeatures=most, contrastThreshold=_CONTRAST_THRESHOLD), image, 128)


def _opencv(detector: Any, image: np.ndarray, width: int) -> Found:
    points, descriptors = detector.detectAndCompute(image, None)
    if descriptors is None:
        return np.zeros((0, 2), np.float32), np.zeros(0), np.zeros((0, width), np.uint8)
    places = np.array([(point.pt[1], point.pt[0]) for point in points], np.float32)
    return places, np.array([point.response for point in points], np.float64), descriptors.astype(np.uint8)


def _surf(image: np.ndarray, most: int) -> Found:
    from mahotas.features import surf

    # mahotas bounds its candidates before it drops some: all are asked for, and the strongest of what is left kept.
    found = surf.surf(image, threshold=_SURF_THRESHOLD, max_points=_SURF_CANDIDATES)
    descriptors = found[:, _SURF_FACTS:].astype(np.float32)
    whole = np.isfinite(descriptors).all(axis=1)  # one around which the image is flat has no direction
    return found[whole, :2].astype(np.float32), found[whole, 3], descriptors[whole]


_DETECTORS: dict[str, Callable[[np.ndarray, int], Found]] = {"orb": _orb, "sift": _sift, "surf": _surf}


def _none(kind: Kind, reason: str) -> Described:
    empty = {"orb": (0, 32), "sift": (0, 128), "surf": (0, 64)}[kind]
    return Described(np.zeros(empty, np.float32 if kind == "surf" else np.uint8), np.zeros((0, 2), np.float32), reason)
