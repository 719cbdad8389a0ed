"""A small cohort of discs labelled for several tasks, with two readings if asked for, and an untrained SpineNet."""

from pathlib import Path
from typing import Any

import numpy as np
from stack_cohort import STACKS, write_cohort

from mskray.bundles import Bundle, save_bundle
from mskray.cohorts import Cohort, Task, open_cohort
from mskray.cohorts.schema import MISSING
from mskray.families.spinenet import SpineNetRecipe
from mskray.storage import locate
from mskray.training.run import Trained
from mskray.verbs.train import fingerprint_of, parse_job

TASKS = (
    Task(name="narrowing", classes=("none", "slight", "moderate", "severe"), ordinal=True),
    Task(name="upper_marrow", classes=("normal", "change"), ordinal=True),
)
SECOND = Task(name="upper_marrow_second", classes=("normal", "change"), ordinal=True)
ROWS = 16


def disc_cohort(folder: Path, tasks: tuple[Task, ...] = TASKS) -> Cohort:
    """Sixteen discs a split, two of each patient; labels go through the classes, every fifth is missing.

    A second reading calls every fourth disc normal.
    """
    rng, number = np.random.default_rng(0), np.arange(ROWS)
    labels = {}
    for task in tasks:
        known = np.where(number % 5 == 4, MISSING, number % len(task.classes))
        labels[task.name] = np.where((number % 4 == 1) & (known > 0), 0, known) if task is SECOND else known
    stacks = {split: rng.integers(0, 256, (ROWS, *STACKS.shape), np.uint8) for split in ("train", "validation", "test")}
    return write_cohort(folder, {split: (images, labels) for split, images in stacks.items()}, tasks)


def disc_job(cohort: Cohort, out: Path, **sections: Any) -> dict[str, Any]:
    """A training job of a SpineNet with a few channels."""
    return {
        "family": "spinenet",
        "cohort": str(cohort.location),
        "out": str(out),
        "network": {"width": 0.02},
        "data": {"image_size": 84, "slices": 3, "batch_size": 4},
        "predict": {"augment": False},
        **sections,
    }


def untrained(job_data: dict[str, Any]) -> Bundle:
    """Write the bundle that a job would train, with the weights that it starts from."""
    job, chosen, config = parse_job(job_data, "test")
    cohort = open_cohort(job.cohort)
    cohort = cohort.exchange() if job.exchange else cohort
    tasks = chosen.tasks(cohort, config)
    recipe = SpineNetRecipe(config, chosen._given(cohort, config), tasks)
    entry = {"epoch": 1}
    labels = {f"{task.name}/{name}": 1 for task in tasks for name in task.classes}
    trained = Trained(recipe.initial_state(np.zeros(config.data.slices)), [entry], entry, labels)
    fitted = chosen.fitted(cohort, config, tasks[0], trained)
    fitted.tasks.update({task.name: task.classes for task in tasks})
    return save_bundle(fitted, locate(job.out), fingerprint_of(job, chosen, config, cohort))
