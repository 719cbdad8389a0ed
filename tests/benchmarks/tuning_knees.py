"""Three families tuned on real knees in half an hour of two cores; does the tuned ensemble beat untuned defaults?

    .venv/bin/python tests/benchmarks/tuning_knees.py --data KNEE_OA --weights MOBILENET_V2.safetensors --out FOLDER

KNEE_OA is a folder in the layout of the knee osteoarthritis data set (0 to 4 below train and val). Every other subject
of val is kept aside as the test split, at which no search can look. feature_svm, classifier and view_fusion, all with
mobilenet_v2 at 96 px, are searched one after the other by their own spaces (without the backbone), within half an hour
together; of all trials an ensemble of at most four is chosen, and its members trained on train and validation.

Compared on the subjects kept aside, by AUROC of images: that ensemble, and each family with its defaults, trained on
the same images for as many epochs as a trial at most, alone and together. The exit status is 1 where the ensemble is
not better than all of these, or the searches took longer than half an hour. What is in FOLDER is not made again.
"""

import argparse
import itertools
import sys
import time
from pathlib import Path
from typing import Any

from mskray import cluster
from mskray.cohorts.ingest import ingest
from mskray.evaluation.result import Evaluation
from mskray.progress import Display
from mskray.tuning.leaderboard import counted
from mskray.verbs.ensemble import make_ensemble
from mskray.verbs.evaluate import evaluate_model
from mskray.verbs.promote import promote
from mskray.verbs.tables import table
from mskray.verbs.train import parse_job, train
from mskray.verbs.tune import parse_search, tune

HALF_AN_HOUR_S, MEMBERS = 1800.0, 4
METRIC = "validation.image.auroc"


def jobs(weights: str) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Of each family what every training has, and what its search has beside it."""
    network, budget = {"backbone": "mobilenet_v2", "weights": weights}, {"trials": 20, "hours": 0.1}
    data = {"image_size": 96}
    return {
        "feature_svm": ({"network": network, "data": data}, {"budget": {"trials": 20, "hours": 0.06}}),
        "classifier": (
            {"network": network, "data": data, "loop": {"epochs": 3}},
            {"space": {"network.backbone": None}, "budget": budget},
        ),
        "view_fusion": (
            {"network": {**network, "views": 2}, "data": {**data, "batch_size": 16}, "loop": {"epochs": 3}},
            {"space": {"network.backbone": None, "network.views": None}, "budget": budget},
        ),
    }


def keep_aside(data: Path, folder: Path) -> Path:
    """Link the knees, those of every other subject of val as test; return the folder."""
    subjects = sorted({file.name[:7] for file in data.glob("val/*/*.png")})
    aside = set(subjects[1::2])
    for file in itertools.chain(data.glob("train/*/*.png"), data.glob("val/*/*.png")):
        split = "train" if file.parts[-3] == "train" else "test" if file.name[:7] in aside else "val"
        link = folder / split / file.parent.name / file.name
        if not link.is_symlink():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file.resolve())
    return folder


def main() -> None:
    arguments = _arguments()
    out, display = Path(arguments.out).resolve(), Display()
    cohort, rows, seconds = str(out / "cohort"), [], 0.0
    knees = keep_aside(Path(arguments.data), out / "knees")
    families = jobs(arguments.weights)
    with cluster.session(dashboard=True):
        ingest("knee-oa", str(knees), cohort, settings={"size": 96}, report=display)
        display.end()
        for name, (base, more) in families.items():
            began = time.monotonic()
            data = {
                "family": name,
                "cohort": cohort,
                "out": str(out / "searches" / name),
                "task": "abnormality",
                **base,
            }
            search = {**more, "metric": METRIC, "resources": {"cpus_per_worker": 0.75}}
            ledger = tune(*parse_search({**data, **search}, name), name, display)
            taken = time.monotonic() - began + _earlier(out / f"{name}-seconds.txt")
            (out / f"{name}-seconds.txt").write_text(f"{taken:.0f}")
            seconds += taken
            print(f"{name}: {counted(ledger.trials())}, {taken:.0f} s", flush=True)
        searches = [str(out / "searches" / name) for name in families]
        promote(searches, str(out / "tuned"), ensemble=MEMBERS, report=display)
        for name, (base, _) in families.items():
            job = {"family": name, "cohort": cohort, "out": str(out / "defaults" / name), "task": "abnormality", **base}
            train(*parse_job({**job, "merge": True}, name), report=display)
        together = out / "defaults" / "together"
        if not (together / "ensemble.json").is_file():
            make_ensemble([str(out / "defaults" / name) for name in families], str(together), report=display)
        areas = {}
        for place in (out / "tuned", *(out / "defaults" / name for name in (*families, "together"))):
            result = evaluate_model(str(place), cohort, "test", report=display)[0]
            areas[place.name] = _area(result)
            rows.append([str(place.relative_to(out)), *_figures(result)])
    display.end()
    print(table(["model", "image AUROC", "image κ", "study AUROC", "study κ"], rows))
    print(f"searches {seconds:.0f} s")
    tuned = areas.pop("tuned")
    if tuned <= max(areas.values()):
        sys.exit("missed: the tuned ensemble is not better than all defaults")
    if seconds > HALF_AN_HOUR_S:
        sys.exit("missed: the searches took more than half an hour")


def _earlier(file: Path) -> float:
    """Seconds that earlier calls took."""
    return float(file.read_text()) if file.is_file() else 0.0


def _area(result: Evaluation) -> float:
    value = result.image.overall.figures["auroc"].value
    assert value is not None
    return float(value)


def _figures(result: Evaluation) -> list[str]:
    """Each with its 95 % interval."""
    found = (
        getattr(result, level).overall.figures[name] for level in ("image", "study") for name in ("auroc", "kappa")
    )
    return [f"{each.value:.3f} ({each.low:.3f} to {each.high:.3f})" for each in found]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of the knees")
    parser.add_argument("--weights", default="imagenet", help="imagenet, or the URI of a mobilenet_v2 state dict")
    parser.add_argument("--out", required=True, help="folder for the cohort, the searches and the bundles")
    return parser.parse_args()


if __name__ == "__main__":
    main()
