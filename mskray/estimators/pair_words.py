"""Descriptors of a pair cohort's images, found once and kept by content; vocabularies and histograms made of them.

    words = PairWords.open(cohort, "train", task, section, augment, cache)
    extract(words, report)                                                 # Ray Data; only what is not there yet
    found = fit_kmeans(words.pieces(rows), 500, kmeans, Spread)            # from the originals of some pairs alone
    counts = words.count(found.centres)                                    # (pairs, 1 + copies, 2, 500)

One extraction serves every size of vocabulary, every fold, every classifier and both tasks; `extract_once` also all
trials of a search. A pair with an image in
which no key point is found is not learned from: `usable` says which those are, and `refusals` why.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayError

from mskray.cohorts import Cohort, Task
from mskray.config import Section, setting
from mskray.errors import user_error_in
from mskray.estimators.cache import Cache, Parts
from mskray.estimators.histograms import count_words
from mskray.estimators.kmeans import KMeansResult
from mskray.estimators.pair_samples import MEMBERS, PairImages, labelled_digest
from mskray.estimators.pairs import AugmentSection, Copies
from mskray.estimators.pieces import Chained
from mskray.imaging.inputs import InputFormat, Intensity
from mskray.imaging.intensity import to_uint8
from mskray.imaging.keypoints import Kind, describe, unpack
from mskray.progress import Progress, Report, silent
from mskray.training.feed import Split, describe_split
from mskray.training.once import Shared, once

VERSION = 1
"""Raised when the same facts give other descriptors."""


class ImageSection(Section):
    """How many key points are taken of an image, and what it looks like to the detector."""

    most: int = setting(200, "key points of an image, the strongest", unit="key points", ge=8, le=100_000)
    intensity: Intensity = setting(
        "stored", "grey levels as stored, or stretched between their 1st and 99th percentile"
    )


class KeyPointSection(ImageSection):
    """What is found in an image."""

    descriptor: Kind = setting("sift", "which key points, and what describes them", source="CRMO")


@dataclass(frozen=True)
class PairWords:
    """The descriptors of a split's labelled pairs and of their noisy copies; small, so that it travels to every task.

    Args:
        split: which images, in which order.
        counts: pairs of each shard.
        parts: where the descriptors are: `descriptors` (total, width), and `lengths` (pairs, 1 + copies, 2) of them.
    """

    split: Split
    section: KeyPointSection
    counts: tuple[int, ...]
    parts: Parts

    @classmethod
    def open(
        cls, cohort: Cohort, split: str, task: Task, section: KeyPointSection, augment: AugmentSection, cache: Cache
    ) -> "PairWords":
        """Describe a split; nothing is extracted. Both tasks of a cohort share what is extracted."""
        samples = PairImages(task.column, augment)
        form = InputFormat(cohort.image.size, section.intensity)
        found, _ = describe_split(cohort, split, samples, form)
        facts = {
            "what": "key points",
            "version": VERSION,
            "cohort": cohort.content_hash,
            "split": split,
            "labelled": labelled_digest(cohort.columns(split, [task.column])[task.column]),
            "noise": [augment.noise_copies, augment.noise, augment.seed] if augment.noise_copies else [],
            **section.model_dump(mode="json"),
        }
        parts = Parts(cache.entry(facts), len(found.counts))
        return cls(found, section, tuple(count // samples.each for count in found.counts), parts)

    @property
    def pairs(self) -> int:
        return sum(self.counts)

    @property
    def what(self) -> str:
        """For progress."""
        return f"{self.section.descriptor.upper()} key points of {self.split.name}"

    def part(self, number: int) -> dict[str, np.ndarray]:
        """Find and describe the key points of one shard's images; what `parts` keeps of it."""
        images = self.split.load(number)["image"]
        found = [describe(to_uint8(image), self.section.descriptor, self.section.most) for image in images]
        samples = self.split.samples
        assert isinstance(samples, PairImages)
        lengths = samples.by_pair(np.array([len(each.descriptors) for each in found], np.int32))
        empty = describe(np.zeros((0, 0), np.uint8), self.section.descriptor, 1).descriptors
        return {"descriptors": np.concatenate([empty, *(each.descriptors for each in found)]), "lengths": lengths}

    def lengths(self) -> np.ndarray:
        """Return how many key points there are: (pairs, 1 + copies, 2) int32."""
        return np.concatenate([self.parts.read(number)["lengths"] for number in range(self.parts.count)])

    def pieces(self, rows: np.ndarray) -> "TrainingDescriptors":
        """The descriptors of some pairs, without copies: what a vocabulary is learned from."""
        chosen = np.zeros(self.pairs, bool)
        chosen[rows] = True
        return TrainingDescriptors(
            self.parts, self.section.descriptor, tuple(np.split(chosen, np.cumsum(self.counts)[:-1]))
        )

    def count(self, centres: np.ndarray) -> np.ndarray:
        """Count words in every image: (pairs, 1 + copies, 2, k) float32. In this process."""
        return np.concatenate([self.count_part(number, centres) for number in range(self.parts.count)])

    def count_part(self, number: int, centres: np.ndarray) -> np.ndarray:
        """Count words in the images of one shard."""
        part = self.parts.read(number)
        return count_words(part["descriptors"], self.section.descriptor, part["lengths"], centres)


@dataclass(frozen=True)
class SplitsWords:
    """The descriptors of several splits, pairs in the order of the splits."""

    splits: tuple[PairWords, ...]

    @property
    def sizes(self) -> list[int]:
        """Pairs of each split."""
        return [split.pairs for split in self.splits]

    def lengths(self) -> np.ndarray:
        """As `PairWords.lengths`."""
        return np.concatenate([split.lengths() for split in self.splits])

    def pieces(self, rows: np.ndarray) -> Chained:
        """As `PairWords.pieces`; `rows` count over all splits."""
        given, start = [], 0
        for split in self.splits:
            inside = rows[(rows >= start) & (rows < start + split.pairs)]
            given.append(split.pieces(inside - start))
            start += split.pairs
        return Chained(tuple(given))

    def count(self, centres: np.ndarray) -> np.ndarray:
        """As `PairWords.count`."""
        return np.concatenate([split.count(centres) for split in self.splits])


@dataclass(frozen=True)
class TrainingDescriptors:
    """The descriptors of chosen pairs (a mask for each shard) as pieces to cluster."""

    parts: Parts
    kind: Kind
    chosen: tuple[np.ndarray, ...]

    @property
    def numbers(self) -> Sequence[int]:
        return [number for number, inside in enumerate(self.chosen) if inside.any()]

    def read(self, number: int) -> np.ndarray:
        part = self.parts.read(number)
        lengths, mask = part["lengths"], np.zeros(part["lengths"].shape, bool)
        mask[self.chosen[number], 0] = True
        return unpack(part["descriptors"][np.repeat(mask.ravel(), lengths.ravel())], self.kind)


def extract(words: PairWords, report: Report = silent) -> None:
    """Find the key points of every shard that has none kept yet, with Ray Data. Raises UserError as the store does."""
    missing = [number for number in words.parts.missing() if number < words.parts.count]
    if not missing:
        return

    def write(rows: Any) -> Any:
        number = int(rows["shard"][0])
        words.parts.write(number, words.part(number))
        return {"pairs": np.array([words.counts[number]])}

    shards = ray.data.from_items([{"shard": number} for number in missing], override_num_blocks=len(missing))
    done = words.pairs - sum(words.counts[number] for number in missing)
    try:
        for part in shards.map_batches(write, batch_size=1, num_cpus=1).iter_batches(batch_size=None):
            done += int(np.sum(part["pairs"]))
            report(Progress(words.what, done, words.pairs, "pairs"))
    except RayError as error:
        raise user_error_in(error) or error from error


def extract_once(words: PairWords, shared: Shared | None, report: Report = silent) -> None:
    """As `extract`; what the trials of a search ask for at the same time is extracted once."""
    if words.parts.missing():
        once(shared, str(words.parts.folder), words.what, partial(extract, words), report)


def usable(lengths: np.ndarray) -> np.ndarray:
    """Return whether there are key points (n,) in both images of each pair, copies aside."""
    return np.asarray((lengths[:, 0] > 0).all(axis=1))


def refusals(cohort: Cohort, words: PairWords, lengths: np.ndarray) -> Iterator[str]:
    """Say of each pair that is left out which image has no key point."""
    samples = words.split.samples
    assert isinstance(samples, PairImages)
    rows = cohort.columns(words.split.name, [samples.column, "instance_id"])
    names = rows["instance_id"][rows[samples.column] >= 0]
    for place in np.flatnonzero(~usable(lengths)):
        which = " and ".join(("before", "after")[member] for member in range(MEMBERS) if not lengths[place, 0, member])
        yield f"pair {names[place]}: no {words.section.descriptor.upper()} key point {which}"


def of_copies(counts: np.ndarray, copies: Copies) -> tuple[np.ndarray, np.ndarray]:
    """Return the words (m, 2, k) of copies, halves swapped where reversed, and which copies (m,) have words.

    Args:
        counts: (pairs, 1 + copies, 2, k).
    """
    found = counts[copies.pair, copies.noise]
    found[copies.reversed] = found[copies.reversed, ::-1]
    return found, found.any(axis=2).all(axis=1)


def vocabulary_line(result: KMeansResult) -> str:
    """Say what a vocabulary rests on, for progress."""
    facts = result.facts()
    state = "converged" if facts["converged"] else "not converged"
    empty = f", {facts['empty']} words without a descriptor" if facts["empty"] else ""
    rows, words = f"{facts['rows']:,} of {facts['of']:,} descriptors", f"{facts['words']:,} words"
    return f"{words} of {rows}, {state} after {facts['passes']} passes, seed {facts['seed']}{empty}"
