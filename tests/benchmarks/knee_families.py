"""Every radiograph family on real knees: AUROC, κ, seconds and bundle size, the best three together, and five grades.

    .venv/bin/python tests/benchmarks/knee_families.py --data KNEE_OA --weights MOBILENET_V2.safetensors --out FOLDER

KNEE_OA is a folder in the layout of the knee osteoarthritis data set (0 to 4 below train and val). All networks are
mobilenet_v2 at sizes that two cores bear in about an hour; abnormal is Kellgren-Lawrence grade 2 and above. The
epoch of each training and the members of the ensemble are chosen on the split that is reported: compare the rows with
each other, not with figures of held-out data. What is in FOLDER already is not made again.

flag_detector is left out: these knees have no annotated flags. Then jobs/configs/knee-grades.yaml grades them from 0 to
4. The exit status is 1 where the three together have a lower image AUROC than the best of them.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from mskray import cluster
from mskray.bundles import DESCRIPTION
from mskray.cohorts.ingest import ingest
from mskray.config import apply_overrides, read_yaml
from mskray.evaluation.result import Evaluation
from mskray.progress import Display
from mskray.storage import locate
from mskray.verbs.ensemble import make_ensemble
from mskray.verbs.evaluate import evaluate_model
from mskray.verbs.tables import table
from mskray.verbs.train import parse_job, train

SPLIT, SECONDS = "validation", "seconds.txt"
GRADES = Path(__file__).parents[2] / "jobs" / "configs" / "knee-grades.yaml"
_RECIPE = {"optimizer": {"learning_rate": 1e-3}, "schedule": {"name": "one_cycle"}}


def jobs(weights: str, out: str) -> dict[str, dict[str, Any]]:
    """A job for each family; the later ones may learn from the classifier's bundle."""
    network, classifier = {"backbone": "mobilenet_v2", "weights": weights}, f"{out}/classifier"
    recipe = {**_RECIPE, "optimizer": {"name": "adamw", "learning_rate": 1e-3, "weight_decay": 1e-4}}
    return {
        "classifier": {"network": network, "data": {"image_size": 160}, "loop": {"epochs": 4}, **_RECIPE},
        "kalm": {
            "network": {**network, "size": 112},
            "data": {"image_size": 224, "batch_size": 32},
            "loop": {"epochs": 4, "metric": "auroc"},
            "local": {"epochs": 4, "start": "global", **recipe},
            **recipe,
        },
        "zoom": {"zoom": {"bundle": classifier, "answer": "mean"}, "data": {"image_size": 224}},
        "racnn": {
            "network": {**network, "crop": 192, "zoom": 96},
            "data": {"image_size": 224, "batch_size": 32},
            "loop": {"epochs": 6},
            **_RECIPE,
        },
        "view_fusion": {
            "network": {**network, "views": 2},
            "data": {"image_size": 160, "batch_size": 16},
            "loop": {"epochs": 4},
            **_RECIPE,
        },
        "feature_svm": {"network": {"bundle": classifier}},
    }


def main() -> None:
    arguments = _arguments()
    out, display = str(Path(arguments.out).resolve()), Display()
    cohort = f"{out}/cohort"
    rows, results, missed = [], {}, False
    with cluster.session():
        ingest("knee-oa", arguments.data, cohort, settings={"size": 224}, report=display)
        for family, sections in jobs(arguments.weights, out).items():
            if arguments.only and family not in arguments.only:
                continue
            place = f"{out}/{family}"
            job = {"family": family, "cohort": cohort, "out": place, "task": "abnormality", **sections}
            new, started = not (Path(place) / DESCRIPTION).is_file(), time.monotonic()
            train(*parse_job(job, family), report=display)
            if new:
                (Path(place) / SECONDS).write_text(f"{time.monotonic() - started:.0f}")
            results[family], _ = evaluate_model(place, cohort, SPLIT, report=display)
            rows.append([family, *_figures(results[family]), _seconds(place), f"{_megabytes(place):.1f}"])
        best = sorted(results, key=lambda name: -_value(results[name], "image", "auroc"))[:3]
        if len(best) == 3:
            place = f"{out}/{'+'.join(sorted(best))}"
            if not (Path(place) / "ensemble.json").is_file():
                make_ensemble([f"{out}/{name}" for name in best], place, report=display)
            joined, _ = evaluate_model(place, cohort, SPLIT, report=display)
            rows.append([f"soft voting: {', '.join(best)}", *_figures(joined), "", ""])
            missed = _value(joined, "image", "auroc") < _value(results[best[0]], "image", "auroc")
        graded = None if arguments.only else _grades(cohort, out, arguments.weights, display)
    display.end()
    print(table(["family", "image AUROC", "image κ", "study AUROC", "study κ", "seconds", "MB"], rows))
    if graded:
        figures = (f"{name} {_value(graded, 'image', name):.3f}" for name in ("accuracy", "kappa", "quadratic_kappa"))
        print(f"five grades, image level: {', '.join(figures)}")
    if missed:
        sys.exit("missed: the three together have a lower AUROC than the best of them")


def _grades(cohort: str, out: str, weights: str, display: Display) -> Evaluation:
    words = [f"cohort={cohort}", f"out={out}/grades", f"network.weights={weights}"]
    train(*parse_job(apply_overrides(read_yaml(GRADES), words), GRADES.name), report=display)
    return evaluate_model(f"{out}/grades", cohort, SPLIT, report=display)[0]


def _figures(result: Evaluation) -> list[str]:
    return [f"{_value(result, level, name):.3f}" for level in ("image", "study") for name in ("auroc", "kappa")]


def _value(result: Evaluation, level: str, name: str) -> float:
    value = getattr(result, level).overall.figures[name].value
    assert value is not None
    return float(value)


def _seconds(place: str) -> str:
    """How long the training took when it was done, in one go or the last part of it; "" where that is not known."""
    kept = Path(place) / SECONDS
    return kept.read_text() if kept.is_file() else ""


def _megabytes(place: str) -> float:
    """Size of a bundle's own files, its evaluations and events left out."""
    folder = locate(place)
    names = [*folder.join(DESCRIPTION).read_json()["files"], DESCRIPTION]
    return sum((Path(place) / name).stat().st_size for name in names) / 1e6


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of the knees")
    parser.add_argument("--weights", default="imagenet", help="imagenet, or the URI of a mobilenet_v2 state dict")
    parser.add_argument("--out", required=True, help="folder for the cohort and the bundles")
    parser.add_argument("--only", nargs="*", help="these families only")
    return parser.parse_args()


if __name__ == "__main__":
    main()
