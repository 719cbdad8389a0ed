"""Whether bagged SVMs stay within their memory: 36,808 images of 2,048 features, and a quarter of that.

    python tests/benchmarks/svm_memory.py                 # two sizes; minutes on two cores

The features are synthetic: seven body parts, each class of each part a few clusters in a space of 24 dimensions, laid
into 2,048 with noise. Each size runs in a process of its own with a Ray session of its own; the whole process tree is
sampled ten times a second (proportional set size, which counts shared pages once). Linux only.

The bound of a worker is `bag_bytes`: the same for every size once a bag has `--most-rows`. That of the tree is what
driver and Ray take before the first bag, a worker's for each core, and three times the support vectors (the driver's,
the copy in shared memory while they are calibrated, and one in passing). Exit status 1 where a peak is above its bound.
The held-out accuracy stands beside that of one linear classifier.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import ray
from sklearn.linear_model import SGDClassifier

from mskray.estimators.bagging import Bagging, Labelled
from mskray.estimators.bags import BagSection, SvmSection, bag_bytes, bag_size
from mskray.estimators.features import FeatureFiles
from mskray.progress import silent
from mskray.storage import locate

FEATURES, LATENT, PARTS, CLUSTERS, FILE_ROWS = 2048, 24, 7, 3, 1024
CORES = 2


def children(parent: int) -> list[int]:
    """All processes below one."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            continue
    found, new = [], [parent]
    while new:
        new = [pid for pid, above in parents.items() if above in new]
        found += new
    return found


def memory_mb(pid: int) -> float:
    """Proportional set size of a process; 0 where it has ended."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return 0.0


def is_worker(pid: int) -> bool:
    """Ray names a worker after its task, and "ray::IDLE" between tasks."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::")
    except OSError:
        return False


class Sampler(threading.Thread):
    """Peaks in MB: of the driver, of the largest worker, and of the whole tree; `before` is the tree at the start."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peaks = dict.fromkeys(("driver", "largest worker", "tree"), 0.0)
        self.before = sum(map(memory_mb, [os.getpid(), *children(os.getpid())]))
        self.done = threading.Event()

    def run(self) -> None:
        while not self.done.wait(0.1):
            below = children(os.getpid())
            sizes = {pid: memory_mb(pid) for pid in [os.getpid(), *below]}
            workers = [sizes[pid] for pid in below if is_worker(pid)]
            now = (sizes[os.getpid()], max(workers, default=0.0), sum(sizes.values()))
            self.peaks = {name: max(old, new) for (name, old), new in zip(self.peaks.items(), now, strict=True)}


def write(folder: str, name: str, images: int, seed: int) -> Labelled:
    """Write a split's features, one file in memory at a time."""
    shape = np.random.default_rng(0)
    centres = shape.normal(0, 0.5, (PARTS, 2, CLUSTERS, LATENT))
    basis = shape.normal(0, 1, (LATENT, FEATURES)).astype(np.float32)
    counts = [min(FILE_ROWS, images - start) for start in range(0, images, FILE_ROWS)]
    files, random = FeatureFiles(locate(folder).join(name), tuple(counts)), np.random.default_rng(seed)
    labels, parts = random.integers(0, 2, images), random.integers(0, PARTS, images)
    for number, count in enumerate(counts):
        rows = slice(number * FILE_ROWS, number * FILE_ROWS + count)
        centre = centres[parts[rows], labels[rows], random.integers(0, CLUSTERS, count)]
        latent = (centre + random.normal(0, 1, centre.shape)).astype(np.float32)
        noise = random.normal(0, 4, (count, FEATURES)).astype(np.float32)
        files.write(number, np.maximum(latent @ basis + noise, 0))  # averaged maps are not negative either
    names = np.array([f"PART{part}" for part in parts], dtype=object)
    return Labelled(files, labels, names, np.arange(len(labels)))


def linear(train: Labelled, test: Labelled) -> float:
    """Held-out accuracy of one linear SVM over all parts, trained in five passes over the files."""
    rows, sums, squares = train.files.moments(np.zeros(train.files.rows, np.int64), 1)
    mean = (sums / rows).astype(np.float32)
    scale = np.sqrt(squares / rows - mean**2).astype(np.float32)
    model = SGDClassifier(alpha=1e-3, random_state=0)
    for _ in range(5):
        for number in train.files.numbers:
            start = train.files.starts[number]
            values = (train.files.read(number) - mean) / scale
            model.partial_fit(values, train.labels[start : start + len(values)], classes=[0, 1])
    return float(model.score((test.files.gather(np.arange(test.files.rows)) - mean) / scale, test.labels))


def measure(images: int, bag: BagSection) -> bool:
    """Fit bags, print peaks, bounds, time and accuracy, and return whether the peaks are within the bounds."""
    ray.init("local", num_cpus=CORES, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    with tempfile.TemporaryDirectory() as folder:
        train, validation, test = (
            write(folder, name, size, seed)
            for name, size, seed in (("train", images, 1), ("validation", 1500, 2), ("test", 2000, 3))
        )
        sampler = Sampler()
        sampler.start()
        began = time.perf_counter()
        bagging = Bagging(2, SvmSection(), bag, locate(folder).join("bags"), silent)
        bagging.check(images, FEATURES, FILE_ROWS)
        model, _ = bagging.fit(train, validation)
        seconds = time.perf_counter() - began
        sampler.done.set()
        sampler.join()
        vectors = sum(each.vectors.nbytes for each in model.models.values()) / 2**20
        found = model.probabilities(test.files.gather(np.arange(2000)), test.parts.tolist()).argmax(axis=1)
        rows = bag_size(images, bag)
        worker = bag_bytes(rows + 2, FEATURES, FILE_ROWS, SvmSection().cache_mb) / 2**20
        bounds = {"largest worker": worker, "tree": sampler.before + CORES * worker + 3 * vectors}
        print(
            f"{images:6,d} images in {seconds:4.0f} s, {len(model.models) * bag.number} SVMs, bags of up to {rows:,}: "
            + ", ".join(f"{name} {value:,.0f} MB" for name, value in sampler.peaks.items())
            + f" (before the first bag {sampler.before:,.0f} MB, support vectors {vectors:,.0f} MB); bounds: "
            + ", ".join(f"{name} {value:,.0f} MB" for name, value in bounds.items())
            + f"; held-out accuracy {(found == test.labels).mean():.3f}, one linear SVM {linear(train, test):.3f}",
            flush=True,
        )
    ray.shutdown()
    return all(sampler.peaks[name] <= bound for name, bound in bounds.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="*", default=[36_808 // 4, 36_808])
    parser.add_argument("--max-samples", type=float, default=0.1)
    parser.add_argument("--most-rows", type=int, default=900)
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        sys.exit(
            not measure(options.images[0], BagSection(max_samples=options.max_samples, most_rows=options.most_rows))
        )
    shared = ["--max-samples", str(options.max_samples), "--most-rows", str(options.most_rows)]
    command = [sys.executable, __file__, "--alone", *shared, "--images"]
    above = [images for images in options.images if subprocess.run([*command, str(images)], check=False).returncode]
    whole, tenth = (bag_bytes(rows, FEATURES, FILE_ROWS, SvmSection().cache_mb) / 2**20 for rows in (9077, 908))
    one = bag_bytes(36_808, FEATURES, FILE_ROWS, SvmSection().cache_mb) / 2**30
    print(
        f"By the same count ZHAW's largest part (wrist, 9,077 images) needs {tenth:,.0f} MB a bag of a tenth and "
        f"{whole:,.0f} MB a whole one; one SVM over all images {one:,.1f} GB."
    )
    if above:
        sys.exit(f"failed, or above its bound, with {', '.join(map(str, above))} images")


if __name__ == "__main__":
    main()
