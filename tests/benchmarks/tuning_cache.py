"""24 bag-of-words trials on real knee pairs: side by side with the shared cache, against one by one without it.

    .venv/bin/python tests/benchmarks/tuning_cache.py --data KNEE_OA --out FOLDER

KNEE_OA is a folder in the layout of the knee osteoarthritis data set (0 to 4 below train and val). Of its subjects with
both knees the first 600 are taken, three to train for each to validation. The trials are 3 descriptors × 4 sizes of
vocabulary × 2 classifiers, each with k-means on 50,000 descriptors as in jobs/configs/knee-pair-bovw.yaml.

One by one: each is fitted alone, in this process and on Ray's tasks, with an empty cache folder of its own. Side by
side: each in a process of Ray's, several at once, with one cache and one `Shared`. Both begin with Ray started and the
cohort written; what Ray's processes take to start and to import counts. The exit status is 1 where a trial's validation
probabilities or figures differ, or where it is less than 5 times faster.
"""

import argparse
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Each process of Ray's computes with one thread; so does this one, or rounding would differ.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import ray

from mskray import cluster
from mskray.cohorts import Cohort, ingest, open_cohort
from mskray.cohorts.change import CHANGE
from mskray.families import family
from mskray.families.pair_bovw import PairBovwConfig
from mskray.progress import Display, Report, silent
from mskray.storage import locate
from mskray.training.once import Shared
from mskray.training.run import Resources, Run
from mskray.verbs.tables import table

FASTER = 5.0
SIZES, DESCRIPTORS, CLASSIFIERS = (500, 200, 100, 50), ("orb", "sift", "surf"), ("svm", "gaussian_nb")
_CLOSE = 1e-6


@dataclass(frozen=True)
class Outcome:
    """Of one trial: figures of its best epoch, validation probabilities (n, classes), and how long it took."""

    figures: dict[str, Any]
    probabilities: np.ndarray
    seconds: float


def trials(sizes: Sequence[int] = SIZES) -> list[dict[str, Any]]:
    """The sections of each trial."""
    return [
        {
            "keypoints": {"descriptor": descriptor},
            "vocabulary": size,
            "classifier": {"name": classifier},
            "kmeans": {"most": 50_000},
        }
        for size, classifier, descriptor in itertools.product(sizes, CLASSIFIERS, DESCRIPTORS)
    ]


def fit(cohort: Cohort, sections: dict[str, Any], cache: str, shared: Shared | None, report: Report) -> Outcome:
    started = time.monotonic()
    config = PairBovwConfig.model_validate({**sections, "cache": {"uri": cache}})
    run = Run(locate(cache).join("runs"), "trial", CHANGE, Resources(), report, shared=shared)
    fitted = family("pair_bovw").fit(cohort, config, run)
    assert fitted.validated is not None
    return Outcome(fitted.best, fitted.validated, time.monotonic() - started)


def one_by_one(cohort: Cohort, given: Sequence[dict[str, Any]], folder: str, report: Report) -> list[Outcome]:
    """Fit each alone, with an empty cache folder of its own."""
    outcomes = []
    for sections in given:
        with tempfile.TemporaryDirectory(dir=folder) as cache:
            outcomes.append(fit(cohort, sections, cache, None, report))
    return outcomes


def side_by_side(cohort: Cohort, given: Sequence[dict[str, Any]], folder: str, at_once: int) -> list[Outcome]:
    """Fit all in Ray's processes, `at_once` at a time, with one empty cache folder and one `Shared`."""
    shared, outcomes = Shared.start(), {}
    with tempfile.TemporaryDirectory(dir=folder) as cache:
        waiting: dict[Any, int] = {}
        for number, sections in enumerate(given):
            if len(waiting) == at_once:
                _collect(waiting, outcomes)
            waiting[_trial.remote(str(cohort.location), sections, cache, shared)] = number
        while waiting:
            _collect(waiting, outcomes)
    return [outcomes[number] for number in range(len(given))]


def _collect(waiting: dict[Any, int], outcomes: dict[int, Outcome]) -> None:
    (done,), _ = ray.wait(list(waiting), num_returns=1)
    outcomes[waiting.pop(done)] = ray.get(done)


# It books no CPU: the tasks that it waits for book theirs.
@ray.remote(num_cpus=0, scheduling_strategy="SPREAD")
def _trial(cohort: str, sections: dict[str, Any], cache: str, shared: Shared) -> Outcome:
    return fit(open_cohort(cohort), sections, cache, shared, silent)


def differences(one: Outcome, other: Outcome) -> str:
    """Say how two outcomes of a trial differ; "" where they do not."""
    apart = float(np.nanmax(np.abs(one.probabilities - other.probabilities)))
    if apart > _CLOSE or not np.array_equal(np.isnan(one.probabilities), np.isnan(other.probabilities)):
        return f"probabilities by up to {apart:.1e}"
    names = [name for name, value in one.figures.items() if not np.isclose(value, other.figures[name], rtol=_CLOSE)]
    return f"figures: {', '.join(names)}" if names else ""


def some_pairs(data: Path, folder: Path, count: int) -> Path:
    """Link the knees of the first subjects with both, a quarter of them from val; return the folder."""
    for split, wanted in (("train", count - count // 4), ("val", count // 4)):
        knees: dict[str, list[Path]] = {}
        for file in sorted((data / split).glob("*/*.png")):
            knees.setdefault(file.name[:7], []).append(file)
        for file in itertools.chain(*[both for _, both in sorted(knees.items()) if len(both) == 2][:wanted]):
            link = folder / split / file.parent.name / file.name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file.resolve())
    return folder


def main() -> None:
    arguments = _arguments()
    out, display = Path(arguments.out).resolve(), Display()
    out.mkdir(parents=True, exist_ok=True)
    given = trials(arguments.sizes)
    with tempfile.TemporaryDirectory(dir=out) as folder:
        data = some_pairs(Path(arguments.data), Path(folder) / "knees", arguments.pairs)
        cohort = ingest("knee-pairs", str(data), f"{folder}/cohort", report=display).location
        together, shared_s = _timed(lambda: side_by_side(open_cohort(cohort), given, folder, arguments.at_once))
        alone, alone_s = _timed(lambda: one_by_one(open_cohort(cohort), given, folder, display))
    display.end()
    found = [differences(*pair) for pair in zip(alone, together, strict=True)]
    rows = [
        [*_named(sections), f"{one.figures['val_auroc']:.3f}", f"{one.seconds:.1f}", f"{other.seconds:.1f}", apart]
        for sections, one, other, apart in zip(given, alone, together, found, strict=True)
    ]
    print(table(["descriptor", "words", "classifier", "AUROC", "s alone", "s side by side", "differs in"], rows))
    ratio = alone_s / shared_s
    print(f"{len(given)} trials on {arguments.pairs} pairs, {os.cpu_count()} cores, {arguments.at_once} side by side")
    print(f"one by one {alone_s:.0f} s, side by side {shared_s:.0f} s: {ratio:.1f} times faster")
    if any(found):
        sys.exit("missed: results differ")
    if ratio < FASTER:
        sys.exit(f"missed: less than {FASTER:g} times faster")


def _timed(half: Callable[[], list[Outcome]]) -> tuple[list[Outcome], float]:
    """Run one half in a Ray session of its own, so that neither finds processes that the other has started."""
    with cluster.session():
        started = time.monotonic()
        return half(), time.monotonic() - started


def _named(sections: dict[str, Any]) -> list[str]:
    return [sections["keypoints"]["descriptor"], str(sections["vocabulary"]), sections["classifier"]["name"]]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of the knees")
    parser.add_argument("--out", required=True, help="folder for the cohort and the caches; all of it is deleted")
    parser.add_argument("--pairs", type=int, default=600)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="sizes of vocabulary")
    parser.add_argument("--at-once", type=int, default=3, help="trials side by side")
    return parser.parse_args()


if __name__ == "__main__":
    main()
