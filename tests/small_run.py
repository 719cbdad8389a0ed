"""A training job that two cores finish in seconds, and what it leaves; a bundle that nothing was learnt for."""

from pathlib import Path
from typing import Any, NamedTuple

from mskray.bundles import Bundle, Fitted, save_bundle
from mskray.cohorts import Cohort
from mskray.families.classifier import ClassifierConfig, ClassifierRecipe
from mskray.progress import Progress, Report, silent
from mskray.storage import Location, locate
from mskray.verbs.train import parse_job, train


class Trained(NamedTuple):
    """A finished run: its bundle, what it said, and the folder where the bundle is."""

    bundle: Bundle
    progress: list[Progress]
    folder: Path


def small_job(cohort: Cohort, out: Location, **sections: Any) -> dict[str, Any]:
    """Describe the job; `sections` replace its own."""
    return {
        "family": "classifier",
        "cohort": str(cohort.location),
        "out": str(out),
        "network": {"backbone": "mobilenet_v3_small", "weights": "none"},
        "data": {"image_size": 64, "batch_size": 8, "shuffle_window": 64},
        "loop": {"epochs": 2, "checkpoint_minutes": 0.01},
        **sections,
    }


def run(job: dict[str, Any], report: Report = silent, local: bool = False) -> Bundle:
    return train(*parse_job(job, "test"), report=report, local=local)


def untrained_bundle(
    folder: Path, backbone: str = "resnet18", image_size: int = 96, seed: int = 0, size: int = 96
) -> str:
    """Write a classifier of normal and abnormal with random weights, whose canvas has `size`; return its URI."""
    config = ClassifierConfig.model_validate(
        {
            "network": {"backbone": backbone, "weights": "none"},
            "data": {"image_size": image_size},
            "loop": {"seed": seed},
        }
    )
    entry = {"epoch": 1}
    fitted = Fitted(
        family="classifier",
        config=config.model_dump(mode="json"),
        task="abnormality",
        classes=("normal", "abnormal"),
        kind="radiograph",
        body_parts=("HAND",),
        image={"size": size, "dtype": "uint8", "fit": "pad"},
        state=ClassifierRecipe(config, 2).initial_state(),
        history=[entry],
        best=entry,
        labels={"normal": 1, "abnormal": 1},
        cohort={"uri": "s3://bucket/cohort", "content_hash": "ab" * 32},
    )
    save_bundle(fitted, locate(folder), "f00")
    return str(folder)
