"""A cohort of a few discs with labels of several tasks, written without Ray, and a SpineNet that learned nothing."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mskray.bundles import Bundle, save_bundle
from mskray.cohorts import Cohort, Task, open_cohort
from mskray.cohorts.schema import (
    MANIFEST,
    Counts,
    ImageFormat,
    Manifest,
    Shard,
    SplitCount,
    SplitMethod,
    cells,
    content_hash,
    count_labels,
    shard_schema,
)
from mskray.cohorts.shards import shard_bytes
from mskray.families.spinenet import SpineNetRecipe
from mskray.storage import locate
from mskray.training.run import Trained
from mskray.verbs.train import fingerprint_of, parse_job

TASKS = (
    Task(name="narrowing", classes=("none", "slight", "moderate", "severe"), ordinal=True),
    Task(name="upper_marrow", classes=("normal", "change"), ordinal=True),
)
SECOND = Task(name="upper_marrow_second", classes=("normal", "change"), ordinal=True)
FORMAT = ImageFormat(size=120, dtype="uint8", fit="pad", slices=5, rows=72)
LEVELS = ("L3/L4", "L4/L5")


def disc_cohort(folder: Path, tasks: tuple[Task, ...] = TASKS, patients: int = 8) -> Cohort:
    """Two discs of each patient, `patients` a split; labels go through the classes, every fifth is missing."""
    location, rng = locate(folder), np.random.default_rng(0)
    schema = shard_schema(FORMAT, tasks, False)
    shards, counts = [], {}
    for split in ("train", "validation", "test"):
        rows = len(LEVELS) * patients
        people = np.repeat(np.arange(patients), len(LEVELS))
        columns: dict[str, Any] = {
            "image": cells(rng.integers(0, 256, (rows, *FORMAT.shape), np.uint8)),
            "instance_id": [f"{split}-{number}" for number in range(rows)],
            "study_id": [f"{split}-study-{person}" for person in people],
            "patient_id": [f"{split}-patient-{person}" for person in people],
            "view": list(LEVELS) * patients,
            "view_index": [number % len(LEVELS) for number in range(rows)],
            "body_part": ["LSPINE"] * rows,
        }
        for task in tasks:
            labels = [None if number % 5 == 4 else number % len(task.classes) for number in range(rows)]
            # Two readings differ on one disc in four.
            columns[task.column] = [
                0 if label and task is SECOND and number % 4 == 1 else label for number, label in enumerate(labels)
            ]
        arrays = [
            pa.array(columns[field.name], field.type) if field.name in columns else _empty(field, rows)
            for field in schema
        ]
        table = pa.table(arrays, schema=schema)
        content = shard_bytes(table)
        path = f"split={split}/part-0.parquet"
        location.join(path).write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        shards.append(Shard(split=split, path=path, rows=rows, bytes=content.size, sha256=digest))
        found = {task.name: count_labels(table[task.column], task) for task in tasks}
        counts[split] = SplitCount(images=rows, studies=patients, patients=patients, labels=found)
    total = sum(count.images for count in counts.values())
    manifest = Manifest(
        kind="disc",
        source="manifest",
        source_options={},
        tasks=tasks,
        image=FORMAT,
        masks=False,
        split=SplitMethod(method="source", seed=0, fractions=None),
        counts=Counts(listed=total, images=total, quarantined=0, splits=counts),
        shards=tuple(shards),
        hash_key_fingerprint="",
        content_hash=content_hash(tasks, FORMAT, shards),
        created_by="a test",
    )
    location.join(MANIFEST).write_json(manifest.model_dump(mode="json"))
    return open_cohort(location)


def _empty(field: pa.Field, rows: int) -> pa.Array:
    if field.nullable:
        return pa.nulls(rows, field.type)
    return pa.array([[]] * rows if pa.types.is_list(field.type) else [1] * rows, field.type)


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
