"""Discs of phantom spines as memory-mapped arrays, for the benchmarks that train a SpineNet in their own process.

    discs = rendered("/tmp/discs", SpineSpec(patients=500, seed=1), columns=224, workers=2)

What is in the folder already is not rendered again. At 224 columns a disc is 0.9 MB, its truth another 0.9 MB.
"""

import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from scipy import ndimage

from mskray.cohorts import Task
from mskray.imaging.decode import DecodeError
from mskray.imaging.discs import INPUT_COLUMNS, INPUT_ROWS, disc_shape, disc_volume
from mskray.imaging.phantoms.spine import Disc, SpinePhantom, SpineSpec, spine
from mskray.imaging.spine import SPINE_TASKS

TASKS = tuple(Task(name=name, classes=classes, ordinal=True) for name, classes in SPINE_TASKS.items())
CHANGES = tuple(name for name in SPINE_TASKS if name.endswith(("endplate", "marrow")))
"""The tasks that have a place: what hotspots are held against."""
SLICES = 9
_DISCS = 6


@dataclass(frozen=True)
class Discs:
    """n discs.

    images: (n, 15, rows, columns) uint8, the context. labels: (n, tasks) int64, -1 where missing. patients: (n,).
    truth: (n, changes, 9, rows, columns) bool over the network's input, where the grade is 1 and the change is seen.
    """

    images: np.ndarray
    labels: np.ndarray
    patients: np.ndarray
    truth: np.ndarray


def input_shape(columns: int) -> tuple[int, int, int]:
    """Slices, rows and columns of the network's input."""
    return SLICES, round(columns * INPUT_ROWS / INPUT_COLUMNS), columns


def rendered(folder: str | Path, spec: SpineSpec, columns: int, workers: int) -> Discs:
    """Render a spec's discs, or open those of an earlier run."""
    place = Path(folder) / f"{spec.patients}-{spec.seed}-{columns}"
    place.mkdir(parents=True, exist_ok=True)
    done = place / "done.json"
    facts = {**asdict(spec), "columns": columns}
    if not done.is_file() or json.loads(done.read_text())["spec"] != facts:
        count = _DISCS * spec.patients
        size = round(columns / INPUT_COLUMNS)
        images = _memory(place, "images", (count, *disc_shape(size)), np.uint8)
        truth = _memory(place, "truth", (count, len(CHANGES), *input_shape(columns)), np.bool_)
        labels, patients, used = np.empty((count, len(TASKS)), np.int64), np.empty(count, np.int64), 0
        with ProcessPoolExecutor(workers) as pool:
            for index, found in enumerate(pool.map(partial(_discs, spec, columns), range(spec.patients), chunksize=4)):
                for image, label, masks in found:
                    images[used], labels[used], truth[used], patients[used] = image, label, masks, index
                    used += 1
        np.savez(place / "labels.npz", labels=labels[:used], patients=patients[:used])
        done.write_text(json.dumps({"spec": facts, "discs": used}))
    used = json.loads(done.read_text())["discs"]
    plain = np.load(place / "labels.npz")
    images, truth = (np.load(place / f"{name}.npy", mmap_mode="r")[:used] for name in ("images", "truth"))
    return Discs(images, plain["labels"], plain["patients"], truth)


def _memory(place: Path, name: str, shape: tuple[int, ...], dtype: type) -> np.ndarray:
    return np.lib.format.open_memmap(place / f"{name}.npy", "w+", dtype, shape)


def _discs(spec: SpineSpec, columns: int, index: int) -> list[tuple[np.ndarray, list[int], np.ndarray]]:
    return list(_of(spine(spec, index), columns))


def _of(phantom: SpinePhantom, columns: int) -> Iterator[tuple[np.ndarray, list[int], np.ndarray]]:
    for disc in phantom.discs:
        try:
            found = disc_volume(phantom.volume, disc.upper, disc.lower, round(columns / INPUT_COLUMNS))
        except DecodeError:  # outside the field of view
            continue
        labels = [-1 if (label := disc.labels[task.name]) is None else label for task in TASKS]
        yield np.round(found.pixels * 255).astype(np.uint8), labels, _truth(disc, found.matrix, found.pixels, columns)


def _truth(disc: Disc, matrix: np.ndarray, pixels: np.ndarray, columns: int) -> np.ndarray:
    """The changes' masks on the network's input: each of its voxels takes the mask where it comes from."""
    shape = input_shape(columns)
    starts = [(whole - part) // 2 for whole, part in zip(pixels.shape, shape, strict=True)]
    result = np.zeros((len(CHANGES), *shape), bool)
    for place, name in enumerate(CHANGES):
        if name in disc.truth:
            ndimage.affine_transform(
                disc.truth[name].astype(np.uint8),
                matrix[:, :3],
                matrix[:, :3] @ starts + matrix[:, 3],
                shape,
                output=result[place],
                order=0,
            )
    return result
