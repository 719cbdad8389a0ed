"""Images a second into shards: PNG, DICOM with JPEG 2000 and with lossless JPEG.

    python tests/benchmarks/bench_ingest.py

Ours lists, keys, splits, decodes, checks, resizes, compresses, writes and counts, on a Ray session that is already
started. Beside it, on the same files:

- the bare decoder on all cores, the limit: processes that are already started read, decode, resize, and keep nothing;
- `ray.data.read_images` with `size`, written as Parquet, in the same session (PNG: it reads no DICOM);
- MONAI's LoadImage and Resize in a torch DataLoader with a worker a core, which keeps nothing either.

Files are copied until there are enough of them, so that starting workers does not rule; they are in the page cache.
"""

import argparse
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import count
from pathlib import Path

import cv2
import numpy as np
import ray
from measure import Case, Found, Reach, alternate, main, rate

from mskray.cohorts.ingest import ingest
from mskray.imaging.phantoms import PhantomSpec, render, studies

CORES = len(os.sched_getaffinity(0))
SIZE = 224
"""Side of the stored image."""
SIDE = 512
"""Long side of the phantoms."""
DIFFERENT = 100
"""Phantoms that differ; the rest are copies."""
OURS, LIMIT, READ_IMAGES, MONAI = "mskray ingest", "bare decoder", "ray.data.read_images", "MONAI LoadImage"
JPEG_2000, JPEG_LOSSLESS = "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.70"


def cases(options: argparse.Namespace) -> Iterator[Found]:
    images = 400 if options.small else 12_000
    kinds: dict[str, tuple[str, Callable[[Path, int], list[str]]]] = {
        "PNG": ("knee-oa", png_files),
        "DICOM, JPEG 2000 lossless": ("dicom", partial(dicom_files, syntax=JPEG_2000)),
        "DICOM, JPEG lossless": ("dicom", partial(dicom_files, syntax=JPEG_LOSSLESS)),
    }
    # Spawned, and before Ray: a fork of a process with threads may wait for ever.
    with ProcessPoolExecutor(CORES, multiprocessing.get_context("spawn")) as pool:
        list(pool.map(bare, [[]] * CORES))
        ray.init("local", num_cpus=CORES, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        for kind, (source, make) in kinds.items():
            if options.only in kind:
                yield case(kind, source, make, images if kind == "PNG" else images // 4, pool, options.rounds)
        ray.shutdown()


def case(
    kind: str, source: str, make: Callable[[Path, int], list[str]], images: int, pool: ProcessPoolExecutor, rounds: int
) -> Case:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = make(folder / "in", images)
        shares = [paths[start : start + 50] for start in range(0, images, 50)]
        turn = count()
        subjects = {
            OURS: lambda: rate(images, partial(ours, source, folder / "in", folder / f"out{next(turn)}", images)),
            LIMIT: lambda: rate(images, lambda: list(pool.map(bare, shares))),
            MONAI: lambda: rate(images, partial(monai, paths)),
        }
        if kind == "PNG":
            subjects[READ_IMAGES] = lambda: rate(images, partial(read_images, folder / "in", folder / "read"))
        ours(source, folder / "in", folder / "first", images)  # starts the workers
        runs = alternate(subjects, rounds)
    reach = [Reach(LIMIT, 0.9), *([Reach(READ_IMAGES, 2.0)] if kind == "PNG" else [])]
    return Case(f"{images:,} phantoms of {SIDE} px, {kind}, to {SIZE} px", "images/s", OURS, runs, reach)


def ours(source: str, place: Path, out: Path, images: int) -> None:
    done = ingest(source, place, out, settings={"size": SIZE}, key=b"a key for the benchmark")
    if done.counts.images != images:
        raise SystemExit(f"{images - done.counts.images} files were quarantined: {done.reasons}")
    shutil.rmtree(out)


def bare(paths: list[str]) -> int:
    """Decode and resize some files; returns how many bytes came out."""
    cv2.setNumThreads(1)
    total = 0
    for path in paths:
        data = Path(path).read_bytes()
        image = (
            cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if path.endswith("png") else dicom(data)
        )
        total += cv2.resize(image, (SIZE, SIZE), interpolation=cv2.INTER_AREA).nbytes
    return total


def dicom(data: bytes) -> np.ndarray:
    """The stored values, by pydicom and the decoder that ours uses too."""
    from io import BytesIO

    import pydicom
    from pydicom.pixels import pixel_array

    from mskray.imaging.codecs import register_decoders

    register_decoders()
    return pixel_array(pydicom.dcmread(BytesIO(data)))


def read_images(place: Path, out: Path) -> None:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    ray.data.read_images(str(place), size=(SIZE, SIZE), mode="L").write_parquet(str(out))
    shutil.rmtree(out)


def monai(paths: list[str]) -> None:
    from monai.data import DataLoader, Dataset
    from monai.transforms import Compose, EnsureChannelFirst, LoadImage, Resize

    load = Compose([LoadImage(image_only=True), EnsureChannelFirst(), Resize((SIZE, SIZE), mode="area")])
    for _ in DataLoader(Dataset(paths, load), batch_size=32, num_workers=CORES):
        pass


def png_files(folder: Path, images: int) -> list[str]:
    """Phantoms as a knee-oa source of many subjects."""
    phantoms = [cv2.imencode(".png", pixels)[1].tobytes() for pixels in pictures()]
    paths = []
    for number in range(images):
        path = folder / "train" / str(number % 5) / f"{number // 2:07d}{'LR'[number % 2]}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(phantoms[number % DIFFERENT])
        paths.append(str(path))
    return paths


def dicom_files(folder: Path, images: int, syntax: str) -> list[str]:
    """Phantoms as DICOM files of 12 bits, each an instance, study and patient of its own."""
    from io import BytesIO

    import pydicom
    from dicom_making import make_dicom, to_bytes, transcode
    from pydicom.uid import UID, generate_uid

    folder.mkdir()
    with tempfile.TemporaryDirectory() as name:
        plain = (make_dicom(pixels.astype(np.uint16) << 4, 12) for pixels in pictures())
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


def pictures() -> list[np.ndarray]:
    spec = PhantomSpec(patients=DIFFERENT, image_size=SIDE)
    found = ((study.index, view) for study in studies(spec) for view in range(len(study.views)))
    return [render(spec, *next(found)).pixels for _ in range(DIFFERENT)]


if __name__ == "__main__":
    main(cases)
