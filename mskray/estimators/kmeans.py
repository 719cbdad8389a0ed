"""k-means over any number of rows: Lloyd's updates to convergence, or mini-batches.

    words = fit_kmeans(pieces, 500, KMeansSection(), Spread)     # on Ray tasks
    words = fit_kmeans(Arrays((rows,)), 50, KMeansSection(), Here)

Each pass gives the sums, counts and inertia of the rows nearest to each centre; they are added up in float64, so that
tasks and the cut into pieces change the result by rounding alone. Rows are drawn by a hash of their values: neither
the sample nor the start depends on their order.

Sources: Lloyd 1982; Arthur & Vassilvitskii 2007 (k-means++); Sculley 2010 (mini-batches).
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from mskray.config import Section, setting
from mskray.errors import UserError
from mskray.estimators.nearest import nearest, plus_plus, sums_of
from mskray.estimators.pieces import Each, Pieces, Sampled, row_hashes
from mskray.progress import Progress, Report, silent


class KMeansSection(Section):
    """How the vocabulary is learned."""

    seed: int = setting(0, "seed of the sample, the start and the order of mini-batches", ge=0, le=2**31 - 1)
    most: int = setting(
        0, "descriptors that it learns from, drawn evenly from all; 0 for all", unit="descriptors", ge=0, le=10**10
    )
    iterations: int = setting(300, "Lloyd updates at most", unit="passes", ge=1, le=10_000)
    tolerance: float = setting(
        1e-4,
        "converged when the centres' squared shifts sum to no more than this share of the descriptors' mean variance "
        "(as scikit-learn's tol); 0 for when none moves",
        ge=0,
        le=1,
    )
    start_per_word: int = setting(
        20, "descriptors for each word, drawn evenly, among which k-means++ chooses the start", ge=2, le=1000
    )
    batch: int = setting(0, "descriptors of a mini-batch; 0 for Lloyd's updates over all", ge=0, le=10**7)
    epochs: int = setting(10, "passes over all descriptors with mini-batches, at most", unit="epochs", ge=1, le=1000)


@dataclass(frozen=True)
class KMeansResult:
    """What was found.

    Args:
        centres: (k, width) float32.
        counts: (k,) int64, rows nearest to each in the last pass.
        rows: rows that it learned from; of: rows that there were.
        passes: Lloyd updates or epochs.
        converged: whether the tolerance was met; shift: the last sum of squared shifts.
        inertia: sum of squared distances in the last pass.
    """

    centres: np.ndarray
    counts: np.ndarray
    rows: int
    of: int
    passes: int
    converged: bool
    shift: float
    inertia: float
    seed: int

    def facts(self) -> dict[str, Any]:
        """Everything but the arrays, and how many centres no row is nearest to."""
        plain = {key: value for key, value in asdict(self).items() if key not in ("centres", "counts")}
        return {**plain, "words": len(self.centres), "empty": int((self.counts == 0).sum())}


def fit_kmeans(
    pieces: Pieces, words: int, section: KMeansSection, runner: Callable[[Pieces], Each], report: Report = silent
) -> KMeansResult:
    """Learn `words` centres from the rows of all pieces.

    Args:
        runner: `Here` or `Spread`.
    Raises:
        UserError: fewer rows than centres, or more centres asked for than rows are drawn.
    """
    start = words * section.start_per_word
    keep = max(section.most, start)
    survey = _merge_surveys(runner(pieces)(partial(_survey, seed=section.seed, keep=keep)), keep)
    drawn = min(section.most or survey.rows, survey.rows)
    if words > drawn:
        of = "" if drawn == survey.rows else f" that kmeans.most draws from {survey.rows:,}"
        raise UserError(
            f"a vocabulary of {words:,} words needs as many descriptors, there are {drawn:,}{of}: ask for fewer words"
        )
    if drawn < survey.rows:
        pieces = Sampled(pieces, section.seed, int(survey.hashes[drawn - 1]))
    each = runner(pieces)
    limit = np.uint64(survey.hashes[min(start, drawn) - 1])
    sample = np.concatenate(each(partial(_below, seed=section.seed, limit=limit)))
    sample = sample[np.argsort(row_hashes(sample, section.seed), kind="stable")]
    centres = plus_plus(sample, words, section.seed)
    return refine(each, centres, section, section.tolerance * survey.variance, survey.rows, report)


def refine(
    each: Each, centres: np.ndarray, section: KMeansSection, tolerance: float, of: int = 0, report: Report = silent
) -> KMeansResult:
    """Update centres (k, width) until they stay: Lloyd's updates, or mini-batches where `section.batch` says so.

    Args:
        tolerance: largest sum of squared shifts of converged centres.
        of: rows that there were before a sample was drawn; 0 for as many as are seen.
    """
    history = np.zeros(len(centres))
    most, unit = (section.epochs, "epochs") if section.batch else (section.iterations, "passes")
    for number in range(1, most + 1):
        if section.batch:
            step = partial(_mini_batches, centres=centres, history=history, batch=section.batch)
            moved, history, found = each(partial(step, seed=(section.seed, number)), whole=True)[0]
            moved = _fill(moved, found.counts, each)
        else:
            found = _merge(each(partial(assign, centres=centres)))
            moved = _fill(_means(found, centres), found.counts, each, centres)
        shift = float(np.square(moved.astype(np.float64) - centres).sum())
        centres = moved
        report(Progress("learning words", number, 0, unit, note=f"shift {shift:.3g}, to be {tolerance:.3g}"))
        if shift <= tolerance:
            break
    rows = int(found.counts.sum())
    done = shift <= tolerance
    return KMeansResult(
        centres, found.counts, rows, of or rows, number, done, shift, float(found.inertia), section.seed
    )


@dataclass(frozen=True)
class Partial:
    """Of some rows: sums (k, width) float64 and counts (k,) int64 of those nearest to each centre, and inertia."""

    sums: np.ndarray
    counts: np.ndarray
    inertia: float


def assign(pieces: Iterator[np.ndarray], centres: np.ndarray) -> Partial:
    """Sum up the rows nearest to each centre."""
    sums, counts, inertia = np.zeros(centres.shape), np.zeros(len(centres), np.int64), 0.0
    for rows in pieces:
        labels, distances = nearest(rows, centres)
        sums += sums_of(rows, labels, len(centres))
        counts += np.bincount(labels, minlength=len(centres))
        inertia += float(distances.sum(dtype=np.float64))
    return Partial(sums, counts, inertia)


def _merge(parts: list[Partial]) -> Partial:
    return Partial(
        np.sum([part.sums for part in parts], axis=0),
        np.sum([part.counts for part in parts], axis=0),
        float(np.sum([part.inertia for part in parts])),
    )


def _means(found: Partial, centres: np.ndarray) -> np.ndarray:
    """Return the rows' means, and where there is no row the centre as it was."""
    some = found.counts[:, None] > 0
    return np.where(some, found.sums / np.maximum(found.counts, 1)[:, None], centres).astype(np.float32)


def _fill(moved: np.ndarray, counts: np.ndarray, each: Each, before: np.ndarray | None = None) -> np.ndarray:
    """Put each centre without rows on the row farthest from its own: distinct rows, in the order of distance.

    Args:
        before: the centres that the counts belong to; `moved` where None. Where no row lies off its centre, the
            centres without rows stay.
    """
    empty = np.flatnonzero(counts == 0)
    if not len(empty):
        return moved
    parts = each(partial(_farthest, centres=moved if before is None else before, most=len(empty)))
    rows, distances = (np.concatenate(values) for values in zip(*parts, strict=True))
    far, _ = _first_distinct(rows, distances, len(empty))
    result = moved.copy()
    result[empty[: len(far)]] = far
    return result


def _farthest(pieces: Iterator[np.ndarray], centres: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct rows (m, width) farthest from their centres, and their squared distances (m,)."""
    far, away = np.zeros((0, centres.shape[1]), np.float32), np.zeros(0, np.float32)
    for rows in pieces:
        _, distances = nearest(rows, centres)
        off = distances > 1e-6 * np.einsum("ij,ij->i", rows, rows)  # what rounding leaves of 0 is no distance
        far, away = _first_distinct(np.concatenate([far, rows[off]]), np.concatenate([away, distances[off]]), most)
    return far, away


def _first_distinct(rows: np.ndarray, distances: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    hashes = row_hashes(rows, 0)
    order = np.lexsort([hashes, -distances])
    _, first = np.unique(hashes[order], return_index=True)
    kept = order[np.sort(first)[:most]]
    return rows[kept], distances[kept]


def _mini_batches(
    pieces: Iterator[np.ndarray], centres: np.ndarray, history: np.ndarray, batch: int, seed: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, Partial]:
    """One epoch: each batch draws its centres towards its rows by 1 / (rows that a centre has had), Sculley 2010.

    Args:
        history: (k,) rows that each centre has had before.
    Returns:
        The centres, their history, and counts and inertia of the epoch.
    """
    random, moved, history = np.random.default_rng(seed), centres.astype(np.float64), history.copy()
    counts, inertia = np.zeros(len(centres), np.int64), 0.0
    for rows in pieces:
        for chosen in np.array_split(random.permutation(len(rows)), -(-len(rows) // batch)):
            found = assign(iter([rows[chosen]]), moved.astype(np.float32))
            history += found.counts
            counts += found.counts
            inertia += found.inertia
            moved += (found.sums - found.counts[:, None] * moved) / np.maximum(history, 1)[:, None]
    return moved.astype(np.float32), history, Partial(np.zeros(0), counts, inertia)


@dataclass(frozen=True)
class _Survey:
    """Rows, their sums and sums of squares (width,), and the smallest hashes, ascending."""

    rows: int
    sums: np.ndarray
    squares: np.ndarray
    hashes: np.ndarray

    @property
    def variance(self) -> float:
        """Mean over the columns of their variance."""
        return float((self.squares / self.rows - np.square(self.sums / self.rows)).mean())


def _survey(pieces: Iterator[np.ndarray], seed: int, keep: int) -> _Survey:
    found = _Survey(0, np.zeros(1), np.zeros(1), np.zeros(0, np.uint64))
    for rows in pieces:
        own = np.sort(row_hashes(rows, seed))[:keep]
        sums, squares = rows.sum(axis=0, dtype=np.float64), np.einsum("ij,ij->j", rows, rows, dtype=np.float64)
        found = _merge_surveys([found, _Survey(len(rows), sums, squares, own)], keep)
    return found


def _merge_surveys(parts: list[_Survey], keep: int) -> _Survey:
    return _Survey(
        sum(part.rows for part in parts),
        sum((part.sums for part in parts), np.zeros(1)),
        sum((part.squares for part in parts), np.zeros(1)),
        np.sort(np.concatenate([part.hashes for part in parts]))[:keep],
    )


def _below(pieces: Iterator[np.ndarray], seed: int, limit: np.uint64) -> np.ndarray:
    """Return the rows whose hashes are at most `limit`."""
    return np.concatenate([rows[row_hashes(rows, seed) <= limit] for rows in pieces])
