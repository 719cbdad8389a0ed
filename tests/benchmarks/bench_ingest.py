"""Images a second into shards: PNG, DICOM with JPEG 2000 and with lossless JPEG.

    python tests/benchmarks/bench_ingest.py

Ours lists, keys, splits, decodes, checks, resizes, compresses, writes and counts, on a Ray session that is already
started. Beside it, on the same files:

- the bare decoder on all cores, the limit: processes that are already started read, decode, resize, and keep nothing;
- `ray.data.read_images` with `size`, written as Parquet, in the same session (PNG: it reads no DICOM);
- MONAI's LoadImage and Resize in a torch DataLoader with a worker a core, which keeps nothing either.

Phantoms as large as digital radiographs are, and as small as teaching collections have them, where what ours does
beside decoding tells. Files are copied until there are enough of them, so that starting workers does not rule; they are
in the page cache.
"""

import argparse
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import count, repeat
from pathlib import Path

import cv2
import numpy as np
import ray
from measure import Case, Found, Reach, alternate, main, rate

from mskray.cohorts.ingest import ingest
from mskray.imaging.phantoms import PhantomSpec, render, studies

CORES = len(os.sched_getaffinity(0))
DIFFERENT = 40
"""Phantoms that differ; the rest are copies."""
OURS, LIMIT, READ_IMAGES, MONAI = "mskray ingest", "bare decoder", "ray.data.read_images", "MONAI LoadImage"
PNG = "PNG"
SYNTAXES = {"JPEG 2000 lossless": "1.2.840.10008.1.2.4.90", "JPEG lossless": "1.2.840.10008.1.2.4.70"}
SMALL_IMAGES = 120


@dataclass(frozen=True)
class Work:
    """So many files of a kind, and what they become.

    Args:
        side: long side of the phantoms. size: side of what is stored. shard_rows: so that shards are many.
    """

    kind: str
    images: int
    side: int
    size: int
    shard_rows: int = 1024

    @property
    def what(self) -> str:
        kind = self.kind if self.kind == PNG else f"DICOM with {self.kind}"
        return f"{kind}, {self.side:,} px to {self.size} px, {self.images:,} images"

    def make(self, folder: Path) -> list[str]:
        if self.kind == PNG:
            return png_files(folder, self.images, self.side)
        return dicom_files(folder, self.images, self.side, SYNTAXES[self.kind])


WORKS = (
    Work(PNG, 12_000, 512, 224),
    *(Work(kind, 4000, 512, 224) for kind in SYNTAXES),
    Work(PNG, 1600, 2000, 512, shard_rows=16),
    *(Work(kind, 240, 2000, 512, shard_rows=8) for kind in SYNTAXES),
)


def cases(options: argparse.Namespace) -> Iterator[Found]:
    # Spawned, and before Ray: a fork of a process with threads may wait for ever.
    with ProcessPoolExecutor(CORES, multiprocessing.get_context("spawn")) as pool:
        list(pool.map(bare, [[]] * CORES, [0] * CORES))
        ray.init("local", num_cpus=CORES, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        for work in WORKS:
            if options.only in work.what:
                yield case(replace(work, images=SMALL_IMAGES) if options.small else work, pool, options.rounds)
        ray.shutdown()


def case(work: Work, pool: ProcessPoolExecutor, rounds: int) -> Case:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = work.make(folder / "in")
        share = max(1, min(50, len(paths) // (40 * CORES)))  # small: none waits long for the last
        shares = [paths[start : start + share] for start in range(0, len(paths), share)]
        turn = count()

        def rated(subject: Callable[[], object]) -> Callable[[], float]:
            return partial(rate, work.images, subject)

        subjects = {
            OURS: rated(lambda: ours(work, folder / "in", folder / f"out{next(turn)}")),
            LIMIT: rated(lambda: list(pool.map(bare, shares, repeat(work.size)))),
            MONAI: rated(partial(monai, paths, work.size)),
        }
        if work.kind == PNG:
            subjects[READ_IMAGES] = rated(partial(read_images, folder / "in", folder / "read", work.size))
        ours(work, folder / "in", folder / "first")  # starts the workers
        runs = alternate(subjects, rounds)
    reach = [Reach(LIMIT, 0.9), *([Reach(READ_IMAGES, 2.0)] if work.kind == PNG else [])]
    return Case(work.what, "images/s", OURS, runs, reach)


def ours(work: Work, place: Path, out: Path) -> None:
    source, settings = "knee-oa" if work.kind == PNG else "dicom", {"size": work.size, "shard_rows": work.shard_rows}
    done = ingest(source, place, out, settings=settings, key=b"a key for the benchmark")
    if done.counts.images != work.images:
        raise SystemExit(f"{work.images - done.counts.images} files were quarantined: {done.reasons}")
    shutil.rmtree(out)


def bare(paths: list[str], size: int) -> int:
    """Decode and resize some files; returns how many bytes came out."""
    cv2.setNumThreads(1)
    total = 0
    for path in paths:
        data = Path(path).read_bytes()
        image = (
            cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if path.endswith("png") else dicom(data)
        )
        total += cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA).nbytes
    return total


def dicom(data: bytes) -> np.ndarray:
    """The stored values, by pydicom and the decoder that ours uses too."""
    from io import BytesIO

    import pydicom
    from pydicom.pixels import pixel_array

    from mskray.imaging.codecs import register_decoders

    register_decoders()
    return pixel_array(pydicom.dcmread(BytesIO(data)))


def read_images(place: Path, out: Path, size: int) -> None:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    ray.data.read_images(str(place), size=(size, size), mode="L").write_parquet(str(out))
    shutil.rmtree(out)


def monai(paths: list[str], size: int) -> None:
    from monai.data import DataLoader, Dataset
    from monai.transforms import Compose, EnsureChannelFirst, LoadImage, Resize

    load = Compose([LoadImage(image_only=True), EnsureChannelFirst(), Resize((size, size), mode="area")])
    for _ in DataLoader(Dataset(paths, load), batch_size=32, num_workers=CORES):
        pass


def png_files(folder: Path, images: int, side: int = 512) -> list[str]:
    """Phantoms as a knee-oa source of many subjects."""
    phantoms = [cv2.imencode(".png", pixels)[1].tobytes() for pixels in pictures(side)]
    paths = []
    for number in range(images):
        path = folder / "train" / str(number % 5) / f"{number // 2:07d}{'LR'[number % 2]}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(phantoms[number % DIFFERENT])
        paths.append(str(path))
    return paths


def dicom_files(folder: Path, images: int, side: int, syntax: str) -> list[str]:
    """Phantoms as DICOM files of 12 bits, each an instance, study and patient of its own."""
    from io import BytesIO

    import pydicom
    from dicom_making import make_dicom, to_bytes, transcode
    from pydicom.uid import UID, generate_uid

    folder.mkdir()
    with tempfile.TemporaryDirectory() as name:
        plain = (make_dicom(pixels.astype(np.uint16) << 4, 12) for pixels in pictures(side))
        headers = [pydicom.dcmread(BytesIO(transcode(data, UID(syntax), Path(name)))) for data in plain]
    paths = []
    for number in range(images):
        header = headers[number % DIFFERENT]
        header.PatientID = f"P{number}"
        header.StudyInstanceUID, header.SeriesInstanceUID, header.SOPInstanceUID = (generate_uid() for _ in range(3))
        header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID
        path = folder / f"{number:07d}.dcm"
        path.write_bytes(to_bytes(header))
        paths.append(str(path))
    return paths


def pictures(side: int) -> list[np.ndarray]:
    spec = PhantomSpec(patients=DIFFERENT, image_size=side)
    found = ((study.index, view) for study in studies(spec) for view in range(len(study.views)))
    return [render(spec, *next(found)).pixels for _ in range(DIFFERENT)]


if __name__ == "__main__":
    main(cases)
