"""Images a second of batch prediction, from PNG files and from a cohort, beside a plain DataLoader and model loop.

    python tests/benchmarks/bench_predict.py

The network is a resnet18 at 224 px with random weights. Ours reads, decodes, predicts and writes a table with one
model worker: in its process, as the command does where no cluster is named, and on a Ray session that is already
started, told beside. The loop is a process of its own with a loader worker and as many threads for the network, which
is torchvision's, where mskray's has BatchNorm folded; of the cohort it has the stored pixels as memory-mapped tensors.
All start counting when their packages are imported; what their workers take to start counts.
"""

import argparse
import os
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from bench_feeding import Files
from measure import Case, Found, Reach, alternate, apart, main, rate

OURS, ON_RAY, LOOP = "mskray predict", "mskray predict on Ray", "DataLoader and model loop"
BATCH, SIZE = 32, 224


def cases(options: argparse.Namespace) -> Iterator[Found]:
    images = 300 if options.small else 10_000
    with tempfile.TemporaryDirectory() as folder:
        apart(__file__, "prepare", folder=folder, images=images)
        for source, kind in (("in", "PNG files of 512 px"), ("cohort", "a cohort")):
            what = f"resnet18 at {SIZE} px on {images:,} images, {kind}"
            if options.only not in what:
                continue
            work = {"folder": folder, "source": source, "images": images}
            subjects = {
                OURS: partial(apart, __file__, "ours", **work),
                ON_RAY: partial(apart, __file__, "on_ray", **work),
                LOOP: partial(apart, __file__, "loop", **work),
            }
            yield Case(what, "images/s", OURS, alternate(subjects, options.rounds), [Reach(LOOP, 0.95)])


def prepare(folder: str, images: int) -> None:
    import ray
    from bench_ingest import png_files
    from serving_samples import fitted

    from mskray.bundles import save_bundle
    from mskray.cohorts import open_cohort
    from mskray.cohorts.ingest import ingest
    from mskray.storage import locate

    place = Path(folder)
    png_files(place / "in", images)
    save_bundle(fitted(0, ("KNEE",), "resnet18", SIZE, images=16), locate(place / "bundle"), fingerprint="benchmark")
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    ingest("knee-oa", place / "in", place / "cohort", settings={"size": SIZE}, key=b"a key for the benchmark")
    cohort = open_cohort(place / "cohort")
    parts = [cohort.read_shard(shard, ["image"])["image"] for split in cohort.splits for shard in cohort.shards(split)]
    np.save(place / "pixels.npy", np.concatenate(parts))
    ray.shutdown()


def ours(folder: str, source: str, images: int) -> float:
    from mskray.training.memory import keep_memory
    from mskray.verbs.predict import predict

    keep_memory()
    return rate(images, partial(predict, f"{folder}/bundle", f"{folder}/{source}", f"{folder}/predictions.parquet"))


def on_ray(folder: str, source: str, images: int) -> float:
    import ray

    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    found = ours(folder, source, images)
    ray.shutdown()
    return found


def loop(folder: str, source: str, images: int) -> float:
    import torch

    from mskray.bundles import load_bundle
    from mskray.families.loading import load_predictor

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    predictor: Any = load_predictor(f"{folder}/bundle")[1]
    network = predictor.recipe.build()
    network.load_state_dict(load_bundle(f"{folder}/bundle")[1].state)
    network.to(memory_format=torch.channels_last).eval()

    @torch.inference_mode()
    def run() -> None:
        answers = [network(batch).softmax(dim=1).numpy() for batch in _batches(folder, source)]
        np.save(f"{folder}/answers.npy", np.concatenate(answers))

    return rate(images, run)


def _batches(folder: str, source: str) -> Iterator[Any]:
    import torch
    from torch.utils.data import DataLoader

    if source == "cohort":
        pixels = np.load(f"{folder}/pixels.npy", mmap_mode="r")
        for start in range(0, len(pixels), BATCH):
            yield torch.from_numpy(pixels[start : start + BATCH].copy()).unsqueeze(1).float().div_(255)
    else:
        data = Files([str(path) for path in sorted(Path(folder, source).rglob("*.png"))])
        yield from (images for images, _ in DataLoader(data, BATCH, num_workers=1))


if __name__ == "__main__":
    main(cases, prepare, ours, on_ray, loop)
