"""Counts for `cohort.json`, made shard by shard: which images, studies, patients and labels each split holds."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from mskray.cohorts.plan import Plan, Quarantined
from mskray.cohorts.schema import SPLITS, Counts, SplitCount, Task, count_labels
from mskray.cohorts.spill import Records, hashes

_PATIENT = np.dtype([("key", "u8"), ("split", "i1")])


def count(plan: Plan, quarantined: Sequence[Quarantined], tasks: Sequence[Task]) -> Counts:
    """Count what is in the shards: what was planned, less what could not be decoded."""
    refused = {row.path for row in quarantined if row.stage == "decode"}
    images, studies = Counter[str](), Counter[str]()
    labels: dict[str, dict[str, Counter[str]]] = {split: {task.name: Counter() for task in tasks} for split in SPLITS}
    patients = Records(plan.spill, "counted", _PATIENT)
    columns = ["path", "study_id", "patient_id", *(task.column for task in tasks)]
    for shard, part in plan.parts(columns):
        if refused:
            keep = [path not in refused for path in part["path"].to_pylist()]
            part = part.filter(pa.array(keep, pa.bool_()))
        images[shard.split] += part.num_rows
        studies[shard.split] += len(part["study_id"].unique())  # a study is in one shard
        for task in tasks:
            labels[shard.split][task.name].update(count_labels(part[task.column], task))
        found = np.empty(part.num_rows, _PATIENT)
        found["key"], found["split"] = hashes(part["patient_id"].to_pylist()), SPLITS.index(shard.split)
        patients.append(np.unique(found))
    held = np.zeros(len(SPLITS), np.int64)
    for records in patients.parts():
        held += np.bincount(np.unique(records)["split"], minlength=len(SPLITS))
    patients.delete()
    splits = {
        split: SplitCount(
            images=images[split],
            studies=studies[split],
            patients=int(held[place]),
            labels={task.name: dict(labels[split][task.name]) for task in tasks},
        )
        for place, split in enumerate(SPLITS)
        if images[split]
    }
    return Counts(listed=plan.listed, images=images.total(), quarantined=len(quarantined), splits=splits)
