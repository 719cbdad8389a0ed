"""Where k-means starts: a survey of all rows, and k-means++ among a sample of them.

What is chosen for k words are the first k of what is chosen for more (within the same sample, `sample_words`), so that
vocabularies of several sizes share one start, and a longer one goes on from a shorter one.

Sources: Arthur & Vassilvitskii 2007 (k-means++).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from mskray.config import Section, setting
from mskray.errors import UserError
from mskray.estimators.nearest import Chosen, plus_plus
from mskray.estimators.pieces import Each, Pieces, row_hashes

_LEAST_WORDS = 1000


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
        20,
        "descriptors for each word, drawn evenly, among which k-means++ chooses the start; for 1,000 words, 2,000, "
        "4,000 and so on, so that all smaller vocabularies begin with the same",
        ge=2,
        le=1000,
    )
    batch: int = setting(0, "descriptors of a mini-batch; 0 for Lloyd's updates over all", ge=0, le=10**7)
    epochs: int = setting(10, "passes over all descriptors with mini-batches, at most", unit="epochs", ge=1, le=1000)


@dataclass(frozen=True)
class Start:
    """Where k-means starts, and what it has to know of all rows.

    Args:
        rows: rows that there are; drawn: rows to learn from.
        variance: mean over the columns of their variance.
        limit: largest hash of the rows to learn from; sampled: of those that the start is chosen among.
        centres: (m, width) float32, rows in the order of choice; the first k are the start of k words.
        chosen: of the sample, to go on from.
    """

    rows: int
    drawn: int
    variance: float
    limit: int
    sampled: int
    centres: np.ndarray
    chosen: Chosen

    def arrays(self) -> dict[str, np.ndarray]:
        """As named arrays, from which `of` makes it again."""
        plain = {name: np.array(getattr(self, name)) for name in ("rows", "drawn", "variance", "centres")}
        limits = {name: np.array(getattr(self, name), np.uint64) for name in ("limit", "sampled")}
        return {**plain, **limits, "chosen": self.chosen.rows, "closest": self.chosen.closest}

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> "Start":
        given: dict[str, Any] = {name: arrays[name].item() for name in _NUMBERS}
        return cls(**given, centres=arrays["centres"], chosen=Chosen(arrays["chosen"], arrays["closest"]))


_NUMBERS = ("rows", "drawn", "variance", "limit", "sampled")


def sample_words(words: int) -> int:
    """Return for how many words the sample is drawn: 1,000, 2,000, 4,000, …"""
    result = _LEAST_WORDS
    while result < words:
        result *= 2
    return result


def choose_start(
    pieces: Pieces,
    words: int,
    section: KMeansSection,
    runner: Callable[[Pieces], Each],
    before: Start | None = None,
) -> Start:
    """Choose the start of `words` words.

    Args:
        before: a start of fewer words of the same sample, with the same section.
    Raises:
        UserError: fewer rows than words, or more words than rows are drawn.
    """
    size, each = sample_words(words), runner(pieces)
    if before is None:
        keep = max(section.most, size * section.start_per_word)
        survey = _merge(each(partial(_survey, seed=section.seed, keep=keep)), keep)
        drawn = min(section.most or survey.rows, survey.rows)
        sampled = int(survey.hashes[min(size * section.start_per_word, drawn) - 1])
        limit = int(survey.hashes[drawn - 1]) if drawn < survey.rows else 2**64 - 1
        rows, variance = survey.rows, survey.variance
    else:
        rows, drawn, variance, limit, sampled = (getattr(before, name) for name in _NUMBERS)
    if words > drawn:
        of = "" if drawn == rows else f" that kmeans.most draws from {rows:,}"
        raise UserError(
            f"a vocabulary of {words:,} words needs as many descriptors, there are {drawn:,}{of}: ask for fewer words"
        )
    choose = partial(
        _choose,
        words=words,
        seed=section.seed,
        limit=np.uint64(sampled),
        tries=2 + int(np.log(size)),
        before=before.chosen if before else None,
    )
    ((centres, chosen),) = each(choose, whole=True)  # in one process: each choice follows from those before
    return Start(rows, drawn, variance, limit, sampled, centres, chosen)


def _choose(
    pieces: Iterator[np.ndarray], words: int, seed: int, limit: np.uint64, tries: int, before: Chosen | None
) -> tuple[np.ndarray, Chosen]:
    sample = np.concatenate([rows[row_hashes(rows, seed) <= limit] for rows in pieces])
    sample = sample[np.argsort(row_hashes(sample, seed), kind="stable")]
    chosen = plus_plus(sample, words, seed, tries, before)
    return sample[chosen.rows], chosen


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
        found = _merge([found, _Survey(len(rows), sums, squares, own)], keep)
    return found


def _merge(parts: list[_Survey], keep: int) -> _Survey:
    return _Survey(
        sum(part.rows for part in parts),
        sum((part.sums for part in parts), np.zeros(1)),
        sum((part.squares for part in parts), np.zeros(1)),
        np.sort(np.concatenate([part.hashes for part in parts]))[:keep],
    )
