"""1,000, 10,000 and 100,000 small PNG files, and what is measured over them: ingest, feeding, prediction.

Shared by `bench_growth.py` (seconds) and `bench_memory.py` (bytes). No two files are equal; a shard has 200 of them.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

INGEST, FEED, PREDICT, ALONE = "ingest", "feeding", "predict on Ray", "predict in one process"
KINDS = (INGEST, FEED, PREDICT, ALONE)
SIZES, SMALL_SIZES = (1000, 10_000, 100_000), (200, 600)
SIZE, BATCH, WINDOW = 64, 32, 4096
"""Side of the images; samples of a batch and of the window that is shuffled, which are training's own."""
SHARD_ROWS = 200
"""So that the fewest images, too, are enough for as many writers and readers as the most are given."""
WHAT = f"PNG files of {SIZE} px"
_DIFFERENT = 50
_KEY = b"a key for the benchmark"


def kinds(only: str) -> list[str]:
    """Kinds of work whose name holds this; feeding reads the cohorts that ingest makes."""
    found = [kind for kind in KINDS if only in kind]
    return [INGEST, *found] if FEED in found and INGEST not in found else found


def prepare(folder: str, sizes: Sequence[int]) -> None:
    """Files of each size, and a bundle of a small network for their side."""
    from serving_samples import fitted

    from mskray.bundles import save_bundle
    from mskray.storage import locate

    for images in sizes:
        png_files(Path(folder, f"in{images}"), images)
    save_bundle(
        fitted(0, ("KNEE",), "mobilenet_v3_small", SIZE), locate(folder).join("bundle"), fingerprint="benchmark"
    )


def png_files(folder: Path, images: int) -> None:
    """Phantoms as a knee-oa source of many subjects, each with its number in its first pixels."""
    from mskray.imaging.phantoms import PhantomSpec, render, studies

    spec = PhantomSpec(patients=_DIFFERENT, image_size=SIZE)
    found = ((study.index, view) for study in studies(spec) for view in range(len(study.views)))
    phantoms = [render(spec, *next(found)).pixels for _ in range(_DIFFERENT)]
    for label in range(5):
        (folder / "train" / str(label)).mkdir(parents=True)
    for number in range(images):
        pixels = phantoms[number % _DIFFERENT].copy()
        pixels[0, :4] = np.array([number], ">u4").view(np.uint8)
        name = f"{number // 2:07d}{'LR'[number % 2]}.png"
        (folder / "train" / str(number % 5) / name).write_bytes(cv2.imencode(".png", pixels)[1].tobytes())


def work(kind: str, folder: str, images: int) -> Callable[[], Any]:
    """What is measured, in a `session`. Feeding needs the cohort that ingest leaves."""
    place = Path(folder)
    if kind == INGEST:
        return partial(_ingest, place, images)
    if kind == FEED:
        return partial(_feed, place, images)
    from mskray.verbs.predict import predict

    return lambda: predict(str(place / "bundle"), str(place / f"in{images}"), str(place / f"said{images}.parquet"))


def _ingest(place: Path, images: int) -> None:
    import shutil

    from mskray.cohorts.ingest import ingest

    cohort = place / f"cohort{images}"
    shutil.rmtree(cohort, ignore_errors=True)
    settings = {"size": SIZE, "split_fractions": [0.98, 0.01, 0.01], "shard_rows": SHARD_ROWS}
    done = ingest("knee-oa", place / f"in{images}", cohort, settings=settings, key=_KEY)
    if done.counts.images != images:
        raise RuntimeError(f"{images - done.counts.images} of {images} files were quarantined: {done.reasons}")


def _feed(place: Path, images: int) -> None:
    """One epoch of training's batches as a rank streams them, without a model."""
    import torch

    from mskray.cohorts import open_cohort
    from mskray.imaging.inputs import InputFormat
    from mskray.training.feed import Shards, describe_split, feed
    from mskray.training.on_ray.readers import RayReaders
    from mskray.training.plan import Plan
    from mskray.training.recipe import to_batch
    from mskray.training.samples import EachImage

    cohort = open_cohort(place / f"cohort{images}")
    task = cohort.tasks[0]
    split, _ = describe_split(cohort, "train", EachImage(task.column), InputFormat(SIZE))
    plan = Plan(split.counts, BATCH, WINDOW, 0)
    device = torch.device("cpu")
    order = ((0, rows) for rows in plan.batches(0))
    for _, arrays in feed(Shards(RayReaders(), split), order, ahead=max(2, plan.window // BATCH)):
        to_batch(arrays, device)


@contextmanager
def session(kind: str) -> Iterator[None]:
    """What this kind of work runs on."""
    if kind == ALONE:
        from mskray.training.memory import keep_memory

        keep_memory()  # as the command does
        yield
        return
    import ray

    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()
