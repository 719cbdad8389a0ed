"""Bodies that a detector found, in any order and with strays among them, become a spine: a chain named from below."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from mskray.imaging.spine import LEVELS

ASSUMED = f"no sacrum in view: the lowest body is taken for {LEVELS[-2]}"
NOTHING = "no vertebral body was found"
"""Notes of a spine whose names hang on nothing that was seen, and of none."""

A_SPINE = 3
"""Bodies above each other that make a spine: fewer may be anything."""
SACRAL = 0.5
"""Least share of sacral evidence of a body that is taken for S1."""
# Distances between the centres of neighbours, as shares of their mean height: with discs of any height, and with a
# body between them that was not found.
_NEXT, _SKIPPED = (0.85, 2.0), (2.0, 3.4)
_SIDEWAYS = 0.6  # a neighbour lies above, not beside: sideways at most this share of the way up
_ALIKE = 2.5  # neighbours differ in area at most by this factor
_GAP = 0.5  # what a missing body costs, in scores: a chain through a doubtful body is better than one around it


@dataclass(frozen=True)
class Chain:
    """A spine from below.

    Args:
        members: numbers of the bodies.
        levels: their names, of `LEVELS`.
        notes: what a reader must know to trust the names.
    """

    members: tuple[int, ...]
    levels: tuple[str, ...]
    notes: tuple[str, ...]


def body_heights(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the heights of bodies (…, 4, 2): the mean of their anterior and posterior edges."""
    return np.linalg.norm(corners[..., [3, 2], :] - corners[..., :2, :], axis=-1).mean(axis=-1)


def body_areas(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the areas of bodies (…, 4, 2), by the shoelace formula."""
    x, y = corners[..., 0], corners[..., 1]
    return np.abs((x * np.roll(y, -1, axis=-1) - y * np.roll(x, -1, axis=-1)).sum(axis=-1)) / 2


def name_levels(corners: NDArray[np.float64], scores: NDArray[np.float64], sacral: NDArray[np.float64]) -> Chain:
    """Find the chain of bodies with the highest sum of scores and name its members from S1 upwards.

    Args:
        corners: (k, 4, 2) px: upper anterior, upper posterior, lower posterior, lower anterior.
        scores: (k,) how sure each is in [0, 1].
        sacral: (k,) share of the evidence that says S1.
    Returns:
        Without a sacrum the lowest body is called L5 and a note says so. What lies below S1, above T12 or off the
        chain is left out, and noted.
    """
    if not len(scores):
        return Chain((), (), (NOTHING,))
    chain, missing = _best_chain(corners, scores)
    notes = []
    sure = [place for place, member in enumerate(chain) if sacral[member] >= SACRAL]
    if sure:
        start = max(sure, key=lambda place: scores[chain[place]] * sacral[chain[place]])
        lowest = len(LEVELS) - 1
    else:
        start, lowest = 0, len(LEVELS) - 2
        notes.append(ASSUMED)
    if len(chain) < A_SPINE:
        notes.append(f"{len(chain)} bod{'y' if len(chain) == 1 else 'ies'} alone: perhaps no lumbar spine")
    numbers = lowest - np.arange(len(chain) - start) - np.cumsum([0, *missing[start:]])
    named = [(member, int(number)) for member, number in zip(chain[start:], numbers, strict=True) if number >= 0]
    for (_, below), (_, above) in pairwise(named):
        if below - above > 1:
            notes.append(f"no body was found between {LEVELS[below]} and {LEVELS[above]}")
    for count, where in (
        (start, f"below {LEVELS[-1]}"),
        (len(chain) - start - len(named), f"above {LEVELS[0]}"),
        (len(scores) - len(chain), "off the spine"),
    ):
        if count:
            notes.append(f"{count} {where} left out")
    return Chain(tuple(member for member, _ in named), tuple(LEVELS[number] for _, number in named), tuple(notes))


def _best_chain(corners: NDArray[np.float64], scores: NDArray[np.float64]) -> tuple[list[int], list[int]]:
    """Return the members from below, and how many bodies are missing between each and the next."""
    gaps = _gaps(corners)
    order = np.argsort(-corners.mean(axis=1)[:, 1], kind="stable")
    best, before = scores.astype(float).copy(), np.full(len(scores), -1)
    for place, upper in enumerate(order):
        for lower in order[:place]:
            total = best[lower] + scores[upper] - _GAP * gaps[lower, upper]
            if gaps[lower, upper] >= 0 and total > best[upper]:
                best[upper], before[upper] = total, lower
    chain = [int(best.argmax())]
    while before[chain[-1]] >= 0:
        chain.append(int(before[chain[-1]]))
    chain.reverse()
    return chain, [int(gaps[lower, upper]) for lower, upper in pairwise(chain)]


def _gaps(corners: NDArray[np.float64]) -> NDArray[np.int64]:
    """(k, k) bodies missing between a lower and an upper one, -1 where the one does not follow on the other."""
    middle, height, area = corners.mean(axis=1), body_heights(corners), body_areas(corners)
    up = corners[:, :2].mean(axis=1) - corners[:, 2:].mean(axis=1)
    up /= np.maximum(np.linalg.norm(up, axis=1, keepdims=True), 1e-9)
    both = up[:, None] + up[None]
    both /= np.maximum(np.linalg.norm(both, axis=2, keepdims=True), 1e-9)
    way = middle[None] - middle[:, None]
    along = (way * both).sum(axis=2)
    across = np.abs(way[..., 0] * both[..., 1] - way[..., 1] * both[..., 0])
    share = along / np.maximum((height[:, None] + height[None]) / 2, 1e-9)
    alike = np.maximum(area[:, None], area[None]) <= _ALIKE * np.minimum(area[:, None], area[None])
    follows = alike & (across <= _SIDEWAYS * along)
    gaps = np.full(share.shape, -1)
    for missing, (least, most) in enumerate((_NEXT, _SKIPPED)):
        gaps[follows & (share >= least) & (share < most)] = missing
    return gaps
