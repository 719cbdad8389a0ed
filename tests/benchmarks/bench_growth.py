"""How seconds grow with the number of images: ingest, feeding without a model, prediction by a small network.

    python tests/benchmarks/bench_growth.py

1,000, 10,000 and 100,000 PNG files of 64 px, small so that what each image costs beside its pixels tells. Each kind of
work is a process of its own, most on a Ray session, and has done the same work on the smallest set before the clock
starts; then it does all sizes, one after the other. What every run costs whatever its size (predict starts model
workers) makes an exponent smaller, so the seconds of each further image, from one size to the next, are told beside it.
Prediction is by a mobilenet_v3_small, from the files. Two rounds at most; the least time of each size is fitted, since
what else a machine does only adds to it.
"""

import argparse
import tempfile
from collections.abc import Iterator
from itertools import pairwise

import many_images
from many_images import SIZES, SMALL_SIZES, WHAT
from measure import Found, Growth, apart, main, seconds, tell

_MOST_ROUNDS = 2


def cases(options: argparse.Namespace) -> Iterator[Found]:
    sizes = SMALL_SIZES if options.small else SIZES
    with tempfile.TemporaryDirectory() as folder:
        apart(__file__, "prepare", folder=folder, sizes=sizes)
        for kind in many_images.kinds(options.only):
            rounds = []
            for number in range(min(options.rounds, _MOST_ROUNDS)):
                rounds.append(apart(__file__, "run", kind=kind, folder=folder, sizes=sizes))
                tell(f"round {number + 1}  {kind}  {rounds[-1]}")
            points = [(float(size), min(took)) for size, *took in zip(sizes, *rounds, strict=True)]
            yield Growth(f"{kind} of {WHAT}", "images", "s", {"mskray": points}, notes=[_each_further(points)])


def _each_further(points: list[tuple[float, float]]) -> str:
    parts = (
        f"{1e6 * (after[1] - before[1]) / (after[0] - before[0]):,.0f} µs from {before[0]:,.0f} to {after[0]:,.0f}"
        for before, after in pairwise(points)
    )
    return f"Each further image took {', '.join(parts)} images."


def prepare(folder: str, sizes: list[int]) -> None:
    many_images.prepare(folder, sizes)


def run(kind: str, folder: str, sizes: list[int]) -> list[float]:
    """Seconds for each size, once the workers have done the same work on the first."""
    with many_images.session(kind):
        many_images.work(kind, folder, sizes[0])()
        return [seconds(many_images.work(kind, folder, size)) for size in sizes]


if __name__ == "__main__":
    main(cases, prepare, run)
