"""24 bag-of-words trials on real knee pairs: `mskray tune`, against one by one without what trials share.

    .venv/bin/python tests/benchmarks/tuning_cache.py --data KNEE_OA --out FOLDER

KNEE_OA is a folder in the layout of the knee osteoarthritis data set (0 to 4 below train and val). Of its subjects with
both knees the first 600 are taken, three to train for each to validation. The trials are 3 descriptors × 4 sizes of
vocabulary × 2 classifiers, each with k-means on 50,000 descriptors as in jobs/configs/knee-pair-bovw.yaml.

The search begins with an empty cache and ends with its page. One by one: the same trials by the same code, judged and
written to a ledger likewise, each alone on the whole machine with an empty cache of its own. Both begin with Ray
started and the cohort written; what Ray's processes take to start and to import counts. The exit status is 1 where
a trial's figures or validation probabilities differ, or where the search is less than 5 times faster.
"""

import argparse
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

# Each process of Ray's computes with one thread; so does this one, or rounding would differ.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from mskray import cluster
from mskray.cohorts.ingest import ingest
from mskray.progress import Display, silent
from mskray.storage import locate
from mskray.training.run import Resources
from mskray.tuning.figures import LATENCY
from mskray.tuning.ledger import Ledger, TrialRecord
from mskray.tuning.ray_trial import Plan
from mskray.tuning.trial import run_trial
from mskray.verbs.tables import table
from mskray.verbs.tune import parse_search, tune

FASTER = 5.0
SIZES = (500, 200, 100, 50)
_CLOSE = 1e-6


def search(cohort: str, out: str, sizes: Sequence[int]) -> dict[str, Any]:
    """The job, as `mskray tune` takes it."""
    space = {
        "vocabulary": {"choice": list(sizes)},
        "classifier.name": {"choice": ["svm", "gaussian_nb"]},
        "keypoints.descriptor": {"choice": ["orb", "sift", "surf"]},
    }
    job = {"family": "pair_bovw", "cohort": cohort, "out": out, "preset": "none", "kmeans": {"most": 50_000}}
    return {**job, "space": space, "search": {"method": "grid"}, "budget": {"trials": 6 * len(sizes)}}


def one_by_one(data: dict[str, Any], records: Sequence[TrialRecord], folder: str, display: Display) -> Ledger:
    """Do the same trials again, each alone with an empty cache."""
    job, chosen, base = parse_search(data, "benchmark")
    ledger = Ledger(locate(folder).join("alone"))
    plan = Plan(ledger, chosen.name, job.cohort, job.task, base, Resources(), 1, 0, f"validation.{chosen.judged_by}")
    for record in records:
        again = TrialRecord(id=record.id, number=record.number, parameters=record.parameters)
        with tempfile.TemporaryDirectory(dir=folder) as cache:
            alone = replace(plan, base={**base, "cache": {"uri": cache}})
            run_trial(alone, again, lambda event: None, display)
    return ledger


def differences(record: TrialRecord, one: Ledger, other: Ledger) -> str:
    """Say how two outcomes of a trial differ; "" where they do not."""
    here, there = (each.trial(record.id).figures for each in (one, other))
    names = [name for name in {**here, **there} if name != LATENCY and not _close(here.get(name), there.get(name))]
    if names:
        return f"figures: {', '.join(names)}"
    mine, theirs = (each.predictions(record.id) for each in (one, other))
    if mine.schema != theirs.schema or len(mine) != len(theirs):
        return "predictions' tables"
    told = [name for name in mine.column_names if name.startswith("prob_")]
    apart = max(float(np.abs(mine[name].to_numpy() - theirs[name].to_numpy()).max()) for name in told)
    return f"probabilities by up to {apart:.1e}" if apart > _CLOSE else ""


def _close(one: float | None, other: float | None) -> bool:
    return one is not None and other is not None and bool(np.isclose(one, other, rtol=_CLOSE))


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
    with tempfile.TemporaryDirectory(dir=out) as folder:
        knees = some_pairs(Path(arguments.data), Path(folder) / "knees", arguments.pairs)
        cohort = ingest("knee-pairs", str(knees), f"{folder}/cohort", report=display).location
        data = search(str(cohort), f"{folder}/search", arguments.sizes)
        found, shared_s = _timed(lambda: tune(*parse_search(data, "benchmark"), "benchmark", silent))
        records = sorted(found.trials(), key=lambda record: record.number)
        alone, alone_s = _timed(lambda: one_by_one(data, records, folder, display))
        display.end()
        apart = [differences(record, alone, found) for record in records]
        rows = [_row(record, alone.trial(record.id), words) for record, words in zip(records, apart, strict=True)]
    print(table(["descriptor", "words", "classifier", "AUROC", "s alone", "s in the search", "differs in"], rows))
    ratio = alone_s / shared_s
    print(f"{len(records)} trials on {arguments.pairs} pairs, {os.cpu_count()} cores")
    print(f"one by one {alone_s:.0f} s, mskray tune {shared_s:.0f} s: {ratio:.1f} times faster")
    if any(apart):
        sys.exit("missed: results differ")
    if ratio < FASTER:
        sys.exit(f"missed: less than {FASTER:g} times faster")


def _row(record: TrialRecord, alone: TrialRecord, apart: str) -> list[str]:
    keys = ("keypoints.descriptor", "vocabulary", "classifier.name")
    area = alone.figures.get("validation.study.auroc", float("nan"))
    named = [str(record.parameters[key]) for key in keys]
    return [*named, f"{area:.3f}", f"{alone.seconds:.1f}", f"{record.seconds:.1f}", apart]


def _timed(half: Callable[[], Ledger]) -> tuple[Ledger, float]:
    """Run one half in a Ray session of its own, so that neither finds processes that the other has started."""
    with cluster.session(dashboard=True):
        started = time.monotonic()
        return half(), time.monotonic() - started


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of the knees")
    parser.add_argument(
        "--out", required=True, help="folder for the cohort, the caches and both ledgers; all is deleted"
    )
    parser.add_argument("--pairs", type=int, default=600)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="sizes of vocabulary")
    return parser.parse_args()


if __name__ == "__main__":
    main()
