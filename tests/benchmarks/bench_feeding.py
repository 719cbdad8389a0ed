"""Images a second from a cohort to training batches, without a model.

    python tests/benchmarks/bench_feeding.py

Every subject gives shuffled batches of 32 as float tensors in [0, 1] with their labels, each in a process of its own:

- ours: shards to batches as `mskray train` does it, held in memory in its own process, held or streamed by
  a worker on Ray, with the environment of training's;
- memory-mapped tensors of the stored pixels, the limit: rows copied from the page cache;
- torch DataLoader over the PNG files that the cohort was made of, with 0 to 4 workers, decoding in each epoch;
- MONAI CacheDataset over the same files, which decodes in its first epoch.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import APART_SECONDS, Case, Found, Reach, alternate, apart, main

from mskray.cohorts import open_cohort
from mskray.imaging.inputs import InputFormat
from mskray.training.feed import Shards, Split, describe_split, feed, hold
from mskray.training.memory import keep_memory
from mskray.training.plan import Plan
from mskray.training.readers import Readers, Threads
from mskray.training.recipe import to_batch
from mskray.training.samples import EachImage

BATCH = 32
CORES = len(os.sched_getaffinity(0))
SIZE, SIDE = 224, 512
WORKERS = (0, 1, 2, 4)
HERE, HELD, STREAMED = "mskray, one process", "mskray on Ray, held in memory", "mskray on Ray, streamed"
OURS = HERE, HELD, STREAMED
LATER = 10
"""More epochs of those that decode no file in them: one takes a tenth of a second."""
LIMIT, CACHE = "memory-mapped tensors", "MONAI CacheDataset"


def cases(options: argparse.Namespace) -> Iterator[Found]:
    images, epochs = (600, 2) if options.small else (6000, 3)
    with tempfile.TemporaryDirectory() as folder:
        made = apart(__file__, "prepare", folder=folder, images=images)
        later: dict[str, list[float]] = {}

        def run(subject: str, function: str, more: int = LATER, **given: Any) -> float:
            """Return the rate of `epochs`; keep aside that of all after the first, of which there are `more`."""
            rates = apart(__file__, function, folder=folder, epochs=epochs + more, **given)
            later.setdefault(subject, []).append(statistics.harmonic_mean(rates[1:]))
            return statistics.harmonic_mean(rates[:epochs])

        subjects = {
            HERE: partial(run, HERE, "here"),
            HELD: partial(run, HELD, "on_ray", cache="memory"),
            STREAMED: partial(run, STREAMED, "on_ray", cache="stream"),
            LIMIT: partial(run, LIMIT, "mapped"),
            CACHE: partial(run, CACHE, "cached"),
        }
        loaders = [f"torch DataLoader, {workers} worker{'s' * (workers != 1)}" for workers in WORKERS]
        for loader, workers in zip(loaders, WORKERS, strict=True):
            subjects[loader] = partial(run, loader, "files", more=0, workers=workers)
        whole = alternate(subjects, options.rounds)
        what = f"{made:,} images of {SIDE} px at {SIZE} px, batches of {BATCH}"
        for ours in OURS:
            peers = {name: runs for name, runs in whole.items() if name not in {*OURS, LIMIT} - {ours}}
            reach = [Reach(loader, 1.0) for loader in loaders]
            yield Case(f"{what}: {epochs} epochs, from the first request", "images/s", ours, peers, reach)
            rest = {name: later[name] for name in (ours, LIMIT, CACHE)}
            yield Case(f"{what}: epochs after the first", "images/s", ours, rest, [Reach(LIMIT, 0.7)])


def prepare(folder: str, images: int) -> int:
    """PNG files, the cohort made of them, and its training split as arrays on disk; returns its rows."""
    import ray
    from bench_ingest import png_files

    from mskray.cohorts.ingest import ingest

    place = Path(folder)
    png_files(place / "in", images)
    ray.init("local", num_cpus=CORES, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    settings = {"size": SIZE, "split_fractions": [0.98, 0.01, 0.01]}
    ingest("knee-oa", place / "in", place / "cohort", settings=settings, key=b"a key for the benchmark")
    cohort = open_cohort(place / "cohort")
    task = cohort.tasks[0]
    parts = [cohort.read_shard(shard, ["image", task.column]) for shard in cohort.shards("train")]
    pixels, labels = (np.concatenate([part[name] for part in parts]) for name in ("image", task.column))
    np.save(place / "pixels.npy", pixels)
    np.save(place / "labels.npy", labels.astype(np.int64))
    ray.shutdown()
    return len(labels)


def here(folder: str, epochs: int) -> list[float]:

    keep_memory()  # as the command does
    split, content_hash = _split(folder)
    readers, started = Threads(), time.perf_counter()
    return _ours(readers, split, hold(readers, split, content_hash, 1), epochs, started)


def on_ray(folder: str, epochs: int, cache: str) -> list[float]:
    """As `mskray train` does it: the driver holds, and a worker that runs already trains, with all cores."""
    import ray

    from mskray.training.on_ray.driver import WORKER_ENVIRONMENT
    from mskray.training.on_ray.readers import RayReaders

    @ray.remote(num_cpus=1, runtime_env={"env_vars": WORKER_ENVIRONMENT})
    class Worker:
        def __init__(self) -> None:
            torch.set_num_threads(CORES)

        def run(self, *given: Any) -> list[float]:
            return _ours(RayReaders(), *given)

        def ready(self) -> None: ...

    ray.init("local", num_cpus=CORES, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    worker = Worker.remote()
    ray.get(worker.ready.remote(), timeout=APART_SECONDS)
    split, content_hash = _split(folder)
    started = time.perf_counter()
    held = hold(RayReaders(), split, content_hash, 1) if cache == "memory" else ()
    found: list[float] = ray.get(worker.run.remote(split, held, epochs, started), timeout=APART_SECONDS)
    ray.shutdown()
    return found


def _split(folder: str) -> tuple[Split, str]:
    cohort = open_cohort(f"{folder}/cohort")
    split, _ = describe_split(cohort, "train", EachImage(cohort.tasks[0].column), InputFormat(SIZE))
    return split, cohort.content_hash


def _ours(readers: Readers, split: Split, held: Sequence[Any], epochs: int, started: float) -> list[float]:
    plan, device = Plan(split.counts, BATCH, 4096, 0), torch.device("cpu")
    order = ((epoch, rows) for epoch in range(epochs) for rows in plan.batches(epoch))
    batches = feed(Shards(readers, split, held), order, ahead=max(2, plan.window // BATCH))
    found = []
    for _ in range(epochs):
        found.append(_epoch((to_batch(next(batches)[1], device) for _ in range(plan.steps)), plan.steps, started))
        started = time.perf_counter()
    return found


def mapped(folder: str, epochs: int) -> list[float]:
    pixels = np.load(f"{folder}/pixels.npy", mmap_mode="r")
    labels = np.load(f"{folder}/labels.npy")
    steps = len(labels) // BATCH
    found = []
    for epoch in range(epochs):
        started = time.perf_counter()
        order = np.random.default_rng(epoch).permutation(len(labels))
        rows = (order[step * BATCH : (step + 1) * BATCH] for step in range(steps))
        batches = (
            (torch.from_numpy(pixels[each]).unsqueeze(1).float().div_(255), torch.from_numpy(labels[each]))
            for each in rows
        )
        found.append(_epoch(batches, steps, started))
    return found


class Files:
    """A map-style dataset as one would write it: decode, resize, to a tensor."""

    def __init__(self, paths: list[str]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> Any:
        import cv2

        image = cv2.imread(self.paths[number], cv2.IMREAD_GRAYSCALE)
        image = cv2.resize(image, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
        return torch.from_numpy(image).unsqueeze(0).float().div_(255), int(Path(self.paths[number]).parent.name)


def files(folder: str, epochs: int, workers: int) -> list[float]:
    from torch.utils.data import DataLoader

    data = Files(_paths(folder))
    loader = DataLoader(data, BATCH, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=workers > 0)
    return _epochs(loader, len(loader), epochs)


def cached(folder: str, epochs: int) -> list[float]:
    from monai.data import CacheDataset, DataLoader
    from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, Resized, ScaleIntensityRanged

    keys = ["image"]
    load = Compose(
        [
            LoadImaged(keys),
            EnsureChannelFirstd(keys),
            Resized(keys, (SIZE, SIZE), mode="area"),
            ScaleIntensityRanged(keys, 0, 255, 0, 1),
        ]
    )
    rows = [{"image": path, "label": int(Path(path).parent.name)} for path in _paths(folder)]
    started = time.perf_counter()
    data = CacheDataset(rows, load, num_workers=2, progress=False)
    loader = DataLoader(data, batch_size=BATCH, shuffle=True, drop_last=True, num_workers=0)
    return _epochs(loader, len(loader), epochs, started)


def _paths(folder: str) -> list[str]:
    """As many files as the training split has rows."""
    rows = len(np.load(f"{folder}/labels.npy", mmap_mode="r"))
    return [str(path) for path in sorted(Path(folder, "in").rglob("*.png"))][:rows]


def _epochs(loader: Iterable[Any], steps: int, epochs: int, started: float | None = None) -> list[float]:
    found = []
    for _ in range(epochs):
        found.append(_epoch(loader, steps, time.perf_counter() if started is None else started))
        started = None
    return found


def _epoch(batches: Iterable[Any], steps: int, started: float) -> float:
    """Images a second of an epoch that began at `started`."""
    for _ in batches:
        pass
    return steps * BATCH / (time.perf_counter() - started)


if __name__ == "__main__":
    main(cases, prepare, here, on_ray, mapped, files, cached)
