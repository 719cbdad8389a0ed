"""How fast `mskray ingest` is against the least that any ingest must do: decode and resize the same files.

    python tests/benchmarks/ingest_rate.py --data FOLDER      # knee-oa layout; without it, phantoms written as PNG

The bare loop reads, decodes (cv2.imdecode) and resizes (cv2.resize) in two processes that are already started, and
keeps nothing. The ingest lists, keys, splits, decodes, checks, resizes, compresses, writes and counts, on a Ray
session of two CPUs that is already started. Both see the same files, in turn, several times; the files are copied
until there are `--images`, so that starting workers does not rule. Figures are of each round; the ratio is of the
medians.
"""

import argparse
import multiprocessing
import shutil
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import ray

from mskray.cohorts.ingest import ingest
from mskray.imaging.phantoms import PhantomSpec, render, studies

WORKERS = 2


def bare(job: tuple[list[str], int]) -> int:
    """Decode and resize some files; returns how many bytes came out."""
    paths, size = job
    cv2.setNumThreads(1)
    total = 0
    for path in paths:
        data = np.fromfile(path, np.uint8)
        image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
        total += cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA).nbytes
    return total


def phantoms(folder: Path, count: int, image_size: int) -> list[Path]:
    """Write phantoms as PNG files of the given long side."""
    spec = PhantomSpec(patients=count, image_size=image_size)
    paths = []
    for study in studies(spec):
        for view in range(len(study.views)):
            path = folder / f"{study.index}-{view}.png"
            cv2.imwrite(str(path), render(spec, study.index, view).pixels)
            paths.append(path)
            if len(paths) == count:
                return paths
    return paths


def copies(files: list[Path], folder: Path, images: int) -> list[str]:
    """Lay out copies of the files as a knee-oa source of many subjects."""
    paths = []
    for number in range(images):
        grade = folder / "train" / str(number % 5)
        grade.mkdir(parents=True, exist_ok=True)
        path = grade / f"{number // 2:07d}{'LR'[number % 2]}.png"
        shutil.copyfile(files[number % len(files)], path)
        paths.append(str(path))
    return paths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of PNG files, at any depth")
    parser.add_argument("--images", type=int, default=30_000)
    parser.add_argument("--size", type=int, default=160, help="side of the stored image")
    parser.add_argument("--phantom-size", type=int, default=512, help="long side of phantoms, without --data")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "png").mkdir()
        if options.data:
            files = sorted(options.data.rglob("*.png"))
        else:
            files = phantoms(folder / "png", 200, options.phantom_size)
        paths = copies(files, folder / "in", options.images)
        half = (len(paths) + WORKERS - 1) // WORKERS
        jobs = [(paths[start : start + half], options.size) for start in range(0, len(paths), half)]
        # Spawned, and before Ray: a fork of a process with threads may wait for ever.
        pool = ProcessPoolExecutor(WORKERS, multiprocessing.get_context("spawn"))
        list(pool.map(bare, [(paths[:50], options.size)] * WORKERS))
        began = time.perf_counter()
        ray.init("local", num_cpus=WORKERS, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        print(f"Ray started in {time.perf_counter() - began:.1f} s; {len(paths)} files, stored at {options.size} px")
        rates: dict[str, list[float]] = {"bare": [], "ingest": []}
        with pool:
            for round_number in range(options.rounds):
                began = time.perf_counter()
                list(pool.map(bare, jobs))
                rates["bare"].append(len(paths) / (time.perf_counter() - began))
                began = time.perf_counter()
                done = ingest(
                    "knee-oa",
                    folder / "in",
                    folder / f"out{round_number}",
                    settings={"size": options.size},
                    key=b"a key for the benchmark",
                )
                rates["ingest"].append(len(paths) / (time.perf_counter() - began))
                if done.counts.images != len(paths):
                    raise SystemExit(f"{len(paths) - done.counts.images} files were quarantined: {done.reasons}")
                print(f"round {round_number + 1}: " + ", ".join(f"{k} {v[-1]:,.0f} images/s" for k, v in rates.items()))
        ray.shutdown()
    median = {name: statistics.median(values) for name, values in rates.items()}
    print(f"bare {median['bare']:,.0f} images/s, ingest {median['ingest']:,.0f} images/s", end=": ")
    print(f"ratio {median['ingest'] / median['bare']:.2f} (the first ingest, which starts the workers, ", end="")
    print(f"{rates['ingest'][0] / rates['bare'][0]:.2f})")


if __name__ == "__main__":
    main()
