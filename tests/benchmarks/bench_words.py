"""A bag of visual words over 2,000 images: descriptors, k-means, SVM; and how k-means grows with its descriptors.

    python tests/benchmarks/bench_words.py

Some 1,000 phantom pairs of 224 px: up to 200 SIFT descriptors an image, 500 words of the training pairs' descriptors,
an SVM with a radial basis function on their histograms, its probabilities fitted on the held-out decisions of three
folds; then the validation pairs are judged. Ours is the `pair_bovw` family, from shards, on a Ray session that is
already started, with an empty cache; every file of descriptors, words and counts that it keeps is written. The peer is
OpenCV's SIFT, scikit-learn's KMeans, SVC and CalibratedClassifierCV in one process, on the pixels in memory: on one
core, which is what one process without threads gets and what is to be beaten on two, and with its own threads on all
cores.

The same arithmetic: the same detector, number of words, tolerance, sample of 20,000 descriptors for k-means++ with as
many tries (the peer's own choice is made and counted, then it goes on from ours; on all descriptors, scikit-learn's
default, its choice would take many times as long), C, gamma and folds. With the words of ours the peer must predict the
same labels, every one, started from them its k-means must stop within two passes, and their inertia must be that of
its own words to a thousandth. k-means that starts alike and rounds a distance otherwise ends in other words: how many
labels are then the same is told, and how many are where scikit-learn learns from the same rows in another order.
"""

import argparse
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from measure import Case, Found, Growth, Reach, alternate, apart, keep_to, main, seconds, tell
from words_peer import MOST, Described, clustered, described, judge

OURS, ONE_CORE, ALL_CORES = (
    "mskray pair_bovw",
    "scikit-learn and OpenCV, one core",
    "scikit-learn and OpenCV, all cores",
)
SIZE, PAIRS_A_PATIENT = 224, 2
START_ROWS, START_TRIES = 20_000, 8
"""What ours draws for k-means++ and its candidates for each word: 20 for each of 1,000 words, 2 + ln 1,000."""
SPLITS = ("train", "validation")
WIDTH, PASSES, PIECE_ROWS = 128, 10, 20_000
DESCRIPTORS = (20_000, 100_000, 500_000, 2_000_000)
CORES = min(2, len(os.sched_getaffinity(0)))
"""Of either side at most: the reach is that of two."""


def cases(options: argparse.Namespace) -> Iterator[Found]:
    pairs, words = (60, 20) if options.small else (1000, 500)
    with tempfile.TemporaryDirectory() as folder:
        work = {"folder": folder, "words": words}
        threads = {"OMP_NUM_THREADS": str(CORES)}
        made = apart(__file__, "prepare", env=threads, pairs=pairs, **work)
        parts: dict[str, dict[str, float]] = {}

        def run(name: str, function: str, env: dict[str, str], **given: Any) -> float:
            parts[name] = apart(__file__, function, env=env, **work, **given)
            return sum(parts[name].values())

        subjects = {
            OURS: partial(run, OURS, "ours", threads),
            ONE_CORE: partial(run, ONE_CORE, "peer", {"OMP_NUM_THREADS": "1"}, cores=1),
            ALL_CORES: partial(run, ALL_CORES, "peer", threads, cores=CORES),
        }
        runs = alternate(subjects, options.rounds)
        checked = apart(__file__, "again", env=threads, **work)
        said = {name: np.load(f"{folder}/said-{name}.npy") for name in ("ours", "peer", "our-words", "again")}
    same = {name: float((said["peer"] == said[name]).mean()) for name in ("ours", "again")}
    passes, inertia = checked["passes"], checked["inertia"]
    differ = int((said["ours"] != said["our-words"]).sum())
    if differ or passes > 2 or abs(inertia - 1) > 0.001:
        raise RuntimeError(
            f"with the words of ours the peer says another label for {differ} of {len(said['ours'])} validation pairs, "
            f"its k-means goes on from them for {passes} passes, and their inertia is {inertia:.4f} of its own"
        )
    notes = [
        f"With the words of ours the peer says the same label for all {len(said['ours'])} validation pairs, from them "
        f"its k-means stops in pass {passes}, and their inertia is {inertia:.5f} of its own. With words that it "
        f"learned itself: {same['ours']:.1%}; scikit-learn and itself, the rows in another order: {same['again']:.1%}."
    ]
    tell(notes[0])
    notes += [
        f"{name}: {', '.join(f'{part} {value:,.1f} s' for part, value in parts[name].items())}." for name in parts
    ]
    yield Case(f"{2 * made:,} images, {words} words", "s", OURS, runs, [Reach(ONE_CORE, 1.8)], notes)
    rows = [1000, 4000] if options.small else DESCRIPTORS
    with tempfile.TemporaryDirectory() as folder:
        points = {}
        for runner, name in (("Here", "in one process"), ("Spread", "on Ray tasks")):
            took = apart(__file__, "grown", env=threads, folder=folder, rows=rows, words=words, runner=runner)
            points[name] = list(zip(map(float, rows), took, strict=True))
    yield Growth(f"k-means, {words} words, {PASSES} passes", "descriptors", "s", points)


def prepare(folder: str, pairs: int, words: int) -> int:
    """A cohort of pairs, its pixels and labels as arrays, and where ours starts k-means; returns how many pairs."""
    import ray

    from mskray.cohorts import open_cohort
    from mskray.cohorts.change import IMPROVED
    from mskray.cohorts.ingest import ingest

    _start_ray()
    options = {"patients": max(4, pairs // PAIRS_A_PATIENT), "image_size": SIZE}
    settings = {"size": SIZE, "split_fractions": [0.8, 0.2, 0.0]}
    ingest("phantom-pairs", None, f"{folder}/cohort", options, settings, key=b"a key for the benchmark")
    cohort, made = open_cohort(f"{folder}/cohort"), 0
    for split in SPLITS:
        shards = [cohort.read_shard(shard, ["image", IMPROVED.column]) for shard in cohort.shards(split)]
        pixels, labels = (np.concatenate([shard[name] for shard in shards]) for name in ("image", IMPROVED.column))
        patients = cohort.columns(split, ["patient_id"])["patient_id"].astype(str)
        made += len(labels)
        np.savez(f"{folder}/{split}.npz", pixels=pixels, labels=labels.astype(np.int64), patients=patients)
    _fit(folder, words)
    ray.shutdown()
    return made


def ours(folder: str, words: int) -> dict[str, float]:
    import ray

    _start_ray()
    took = _fit(folder, words)
    ray.shutdown()
    return took


def _fit(folder: str, words: int) -> dict[str, float]:
    """Seconds; leaves the labels of the validation pairs, and the start of k-means."""
    import time

    from mskray.cohorts import open_cohort
    from mskray.cohorts.change import IMPROVED
    from mskray.estimators.cache import Cache
    from mskray.estimators.pair_words import PairWords, usable
    from mskray.estimators.vocabularies import Vocabulary
    from mskray.progress import Progress
    from mskray.storage import locate
    from mskray.training.run import Resources, Run
    from mskray.verbs.train import parse_job

    stages = {"descriptors": 0.0, "words": 0.0}
    with tempfile.TemporaryDirectory(dir=folder) as place:
        job = {
            "family": "pair_bovw",
            "cohort": f"{folder}/cohort",
            "out": f"{place}/bundle",
            "keypoints": {"descriptor": "sift", "most": MOST},
            "vocabulary": words,
            "classifier": {"name": "svm", "balance": False},
            "augment": {"reverse": False, "noise_copies": 0},
            "cache": {"uri": f"{place}/cache"},
        }
        _, family, config = parse_job(job, "benchmark")
        cohort = open_cohort(job["cohort"])
        started = time.perf_counter()

        def report(progress: Progress) -> None:
            """Descriptors end with their last report, words with the line that says what was learned."""
            stage = "descriptors" if "key points" in progress.stage else "words"
            if stage == "descriptors" or " words of " in progress.stage:
                stages[stage] = time.perf_counter() - started

        fitted = family.fit(cohort, config, Run(locate(place), "benchmark", IMPROVED, Resources(), report))
        whole = time.perf_counter() - started
        cache = Cache.of(config.cache, cohort)
        given = PairWords.open(cohort, "train", IMPROVED, config.keypoints, config.augment, cache)
        rows = np.flatnonzero(usable(given.lengths()))
        start = Vocabulary.open(given, rows, words, config.kmeans, cache)._start()
        assert start is not None
        np.save(f"{folder}/start.npy", start.centres)
    np.save(f"{folder}/words.npy", fitted.state["words"].numpy())
    np.save(f"{folder}/said-ours.npy", fitted.validated.argmax(axis=1))
    learned = stages["words"] - stages["descriptors"]
    return {"descriptors": stages["descriptors"], "k-means": learned, "the rest": whole - stages["words"]}


def peer(folder: str, words: int, cores: int) -> dict[str, float]:
    from sklearn.cluster import kmeans_plusplus

    keep_to(cores)
    pixels = {name: np.load(f"{folder}/{name}.npz")["pixels"] for name in SPLITS}
    start = np.load(f"{folder}/start.npy")[:words]
    found: dict[str, Described] = {}
    learned: list[Any] = []

    def describe() -> None:
        found.update({name: described(images, cores) for name, images in pixels.items()})

    def cluster() -> None:
        rows = found["train"][0]
        sample = rows[np.random.default_rng(0).permutation(len(rows))[:START_ROWS]]
        kmeans_plusplus(sample, words, n_local_trials=START_TRIES, random_state=0)
        learned.append(clustered(rows, start))

    def classify() -> None:
        judge(folder, found, learned[0], "peer")

    return {"descriptors": seconds(describe), "k-means": seconds(cluster), "the rest": seconds(classify)}


def again(folder: str, words: int) -> dict[str, float]:
    """The peer on the same rows in another order, and with the words of ours: passes from these, and both inertias."""
    keep_to(CORES)
    found = {name: described(np.load(f"{folder}/{name}.npz")["pixels"], CORES) for name in SPLITS}
    rows, given = found["train"][0], np.load(f"{folder}/words.npy")
    mixed = rows[np.random.default_rng(0).permutation(len(rows))]
    own, ours = clustered(mixed, np.load(f"{folder}/start.npy")[:words]), clustered(rows, given)
    judge(folder, found, own, "again")
    passes, inertia = int(ours.n_iter_), float(ours.inertia_)
    ours.cluster_centers_ = given
    judge(folder, found, ours, "our-words")
    return {"passes": passes, "inertia": inertia / float(own.inertia_)}


@dataclass(frozen=True)
class Files:
    """Descriptors in files of `PIECE_ROWS`."""

    folder: str
    rows: int

    @property
    def numbers(self) -> range:
        return range(-(-self.rows // PIECE_ROWS))

    def read(self, number: int) -> np.ndarray:
        path = Path(self.folder, f"{number}.npy")
        return np.load(path)[: self.rows - number * PIECE_ROWS].astype(np.float32)


def grown(folder: str, rows: list[int], words: int, runner: str) -> list[float]:
    """Seconds of k-means over so many descriptors like SIFT's: clusters of whole numbers, most of them small."""
    import ray

    from mskray.estimators import pieces
    from mskray.estimators.kmeans import fit_kmeans
    from mskray.estimators.starts import KMeansSection

    centres = np.random.default_rng(0).gamma(0.5, 40, (4 * words, WIDTH)).astype(np.float32)
    for number in Files(folder, max(rows)).numbers:
        random = np.random.default_rng([1, number])
        drawn = centres[random.integers(len(centres), size=PIECE_ROWS)]
        drawn += random.normal(0, 12, drawn.shape).astype(np.float32)
        np.save(Path(folder, f"{number}.npy"), drawn.clip(0, 255).astype(np.uint8))
    section, over = KMeansSection(iterations=PASSES, tolerance=0), getattr(pieces, runner)
    if runner == "Spread":
        _start_ray()
        fit_kmeans(Files(folder, rows[0]), words, section, over)  # starts the workers
    took = [seconds(partial(fit_kmeans, Files(folder, count), words, section, over)) for count in rows]
    if runner == "Spread":
        ray.shutdown()
    return took


def _start_ray() -> None:
    import ray

    keep_to(CORES)
    ray.init("local", num_cpus=CORES, include_dashboard=False, log_to_driver=False, logging_level="ERROR")


if __name__ == "__main__":
    main(cases, prepare, ours, peer, again, grown)
