"""Peak memory of ingest, of training's feed and of batch prediction over 1,000, 10,000 and 100,000 images.

    python tests/benchmarks/bench_memory.py

PNG files of 64 px; each size and each kind of work is a process of its own, most with a Ray session. The whole tree of
processes (driver, Ray's own, workers) is sampled ten times a second by proportional set size, which counts what several
share once, shared memory too. Feeding streams shards as a rank does that trains on more than fits.

Flat: the peak for 100,000 images is at most 1.1 times that for 1,000, plus an allowance for what must be known of every
image at once: the rows of the manifest or of the table of predictions, 400 bytes an image.
"""

import argparse
import tempfile
from collections.abc import Iterator
from statistics import median

import many_images
from many_images import SIZES, SMALL_SIZES, WHAT
from measure import Case, Found, Growth, Reach, alternate, apart, main
from peaks import Peak

_MOST_ROUNDS = 2
_FLAT = 1.1
_ALLOWED_BYTES = 400
"""Of an image: names, hashes and labels as Python strings."""


def cases(options: argparse.Namespace) -> Iterator[Found]:
    sizes = SMALL_SIZES if options.small else SIZES
    least, most = f"{sizes[0]:,} images", f"{sizes[-1]:,} images"
    with tempfile.TemporaryDirectory() as folder:
        apart(__file__, "prepare", folder=folder, sizes=sizes)
        for kind in many_images.kinds(options.only):
            peaks: dict[int, list[float]] = {size: [] for size in sizes}

            def run(kind: str = kind, size: int = 0, peaks: dict[int, list[float]] = peaks) -> float:
                return float(apart(__file__, "run", kind=kind, folder=folder, images=size))

            runs = alternate(
                {f"{size:,} images": (lambda size=size, run=run: run(size=size)) for size in sizes},
                min(options.rounds, _MOST_ROUNDS),
            )
            points = [(float(size), median(runs[f"{size:,} images"])) for size in sizes]
            yield Growth(f"{kind} of {WHAT}, peak memory", "images", "MB", {"mskray": points}, steady=True)
            allowed = (sizes[-1] - sizes[0]) * _ALLOWED_BYTES / 1e6
            spared = {**runs, most: [value - allowed for value in runs[most]]}
            yield Case(
                f"{kind} of {WHAT}, peak memory less {allowed:,.0f} MB for rows",
                "MB",
                most,
                spared,
                [Reach(least, 1 / _FLAT)],
                [f"{most} took {median(runs[most]):,.0f} MB, the allowance counted."],
            )


def prepare(folder: str, sizes: list[int]) -> None:
    many_images.prepare(folder, sizes)


def run(kind: str, folder: str, images: int) -> float:
    """Most megabytes that the whole tree held."""
    with many_images.session(kind):
        doing = many_images.work(kind, folder, images)
        with Peak() as peak:
            doing()
    return peak.mb


if __name__ == "__main__":
    main(cases, prepare, run)
