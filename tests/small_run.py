"""A training job that two cores finish in seconds, and what it leaves."""

from pathlib import Path
from typing import Any, NamedTuple

from mskray.bundles import Bundle
from mskray.cohorts import Cohort
from mskray.progress import Progress, Report, silent
from mskray.storage import Location
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
        "loop": {"epochs": 2, "checkpoint_every": 4},
        **sections,
    }


def run(job: dict[str, Any], report: Report = silent) -> Bundle:
    return train(*parse_job(job, "test"), report=report)
