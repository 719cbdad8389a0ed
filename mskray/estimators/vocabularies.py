"""Vocabularies and the words of every image, kept by content: trials that differ in the classifier share both.

    vocabulary = Vocabulary.open(words, rows, 500, section, cache)
    vocabulary.learn(shared, report)                         # k-means; nothing where it is there already
    counts = vocabulary.count(words, shared, report)         # (pairs, 1 + copies, 2, 500)

Where k-means starts is kept as well, for all sizes of a sample together (`mskray.estimators.starts`). Whether something
was there or was computed changes no result.

    <cache>/<start>/part-00500.npz          the start of up to 500 words
    <cache>/<vocabulary>/part-00000.npz     the centres and how k-means ended
    <cache>/<vocabulary>/<descriptors>/     the counts of the images whose descriptors are in that entry
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import ray

from mskray.estimators.cache import Cache, Parts, kept_in_use
from mskray.estimators.kmeans import KMeansResult, fit_kmeans
from mskray.estimators.pair_words import PairWords
from mskray.estimators.pieces import HELD_HERE, Each, Here, Pieces, Spread
from mskray.estimators.starts import KMeansSection, Start, choose_start, sample_words
from mskray.imaging.keypoints import WIDTHS
from mskray.progress import Report
from mskray.storage import Location
from mskray.training.digests import digest
from mskray.training.once import Shared, once
from mskray.training.waiting import gather

VERSION = 1
"""Raised when the same facts give another vocabulary."""


@dataclass(frozen=True)
class Vocabulary:
    """A vocabulary of some pairs' descriptors, or where it will be; small, so that it travels to every task.

    Args:
        rows: (n,) pairs of `words` that it is learned from, without their copies.
        starts: entry of the starts; folder: of the vocabulary.
    """

    words: PairWords
    rows: np.ndarray
    size: int
    section: KMeansSection
    starts: Location
    folder: Location

    @classmethod
    def open(cls, words: PairWords, rows: np.ndarray, size: int, section: KMeansSection, cache: Cache) -> "Vocabulary":
        """Describe a vocabulary; nothing is learned."""
        learned = {"version": VERSION, "descriptors": words.parts.folder.name, "rows": digest(rows)[:16]}
        of_start = section.model_dump(mode="json", include={"seed", "most", "start_per_word"})
        starts = cache.entry({"what": "k-means start", **learned, **of_start, "words": sample_words(size)})
        facts = {"what": "vocabulary", **learned, **section.model_dump(mode="json"), "words": size}
        return cls(words, rows, size, section, starts, cache.entry(facts))

    def learn(self, shared: Shared | None, report: Report) -> KMeansResult:
        """Return what k-means found; it is run where that is not there. Raises UserError as `fit_kmeans`."""
        if self._parts.missing():
            what = f"a vocabulary of {self.size:,} words"
            if self._start() is None:
                address = f"{self.starts}/{self.size}"
                once(shared, address, f"the start of {what}", partial(_choose, self), report, 1)
            once(shared, str(self.folder), what, partial(_learn, self), report, 1)
        arrays = self._parts.read(0)
        plain = {name: values.item() for name, values in arrays.items() if not values.ndim}
        return KMeansResult(centres=arrays["centres"], counts=arrays["counts"], **plain)

    def count(self, words: PairWords, shared: Shared | None, report: Report) -> np.ndarray:
        """Return how often each word is in every image: (pairs, 1 + copies, 2, size) float32. `learn` comes first."""
        parts = Parts(self.folder.join(words.parts.folder.name), words.parts.count)
        if parts.missing():
            once(shared, str(parts.folder), f"words of {words.split.name}", partial(_count, self, words, parts), report)
        return np.concatenate([parts.read(number)["counts"] for number in range(parts.count)])

    @property
    def _parts(self) -> Parts:
        return Parts(self.folder, 1)

    def _start(self) -> Start | None:
        """The shortest start that is long enough."""
        sizes = [size for size in self._sizes() if size >= self.size]
        return self._read_start(min(sizes)) if sizes else None

    def _shorter(self) -> Start | None:
        """The longest start that is there."""
        return self._read_start(max(self._sizes())) if self._sizes() else None

    def _sizes(self) -> list[int]:
        return Parts(self.starts, 0).written()

    def _read_start(self, size: int) -> Start:
        return Start.of(Parts(self.starts, 0).read(size))

    def _runner(self, report: Report) -> Callable[[Pieces], Each]:
        """Where k-means runs: in one process if that holds all, however many CPUs there are; otherwise on Ray tasks."""
        rows = int(self.words.lengths()[self.rows, 0].sum())
        size = min(self.section.most or rows, rows) * WIDTHS[self.words.section.descriptor] * 4
        return Here if size <= HELD_HERE else partial(Spread, report=report)


def _choose(vocabulary: Vocabulary, report: Report) -> None:
    if vocabulary._start() is not None:
        return
    pieces, before = vocabulary.words.pieces(vocabulary.rows), vocabulary._shorter()
    start = choose_start(pieces, vocabulary.size, vocabulary.section, vocabulary._runner(report), before)
    Parts(vocabulary.starts, 0).write(vocabulary.size, start.arrays())


def _learn(vocabulary: Vocabulary, report: Report) -> None:
    if not vocabulary._parts.missing():
        return
    told = kept_in_use(report, [vocabulary.words.parts.folder, vocabulary.starts, vocabulary.folder])
    pieces, runner = vocabulary.words.pieces(vocabulary.rows), vocabulary._runner(told)
    found = fit_kmeans(pieces, vocabulary.size, vocabulary.section, runner, told, vocabulary._start())
    vocabulary._parts.write(0, {name: np.array(value) for name, value in asdict(found).items()})


def _count(vocabulary: Vocabulary, words: PairWords, parts: Parts, report: Report) -> None:
    tasks = [_count_part.remote(vocabulary, words, parts, number) for number in parts.missing()]
    gather(tasks, f"words of {words.split.name}", report)


@ray.remote(num_cpus=1, max_retries=3, scheduling_strategy="SPREAD")
def _count_part(vocabulary: Any, words: PairWords, parts: Parts, number: int) -> None:
    parts.write(number, {"counts": words.count_part(number, vocabulary._parts.read(0)["centres"])})
