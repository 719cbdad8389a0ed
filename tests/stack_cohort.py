"""A cohort of small discs or radiographs with labels of several tasks, written without a cluster."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mskray.cohorts import Cohort, Task, open_cohort
from mskray.cohorts.schema import (
    MANIFEST,
    MISSING,
    Counts,
    ImageFormat,
    Manifest,
    Shard,
    SplitCount,
    SplitMethod,
    cells,
    content_hash,
    count_labels,
    is_pixels,
    shard_schema,
)
from mskray.storage import Location, locate

SIDE = Task(name="side", classes=("front", "middle", "back"), ordinal=True)
TILT = Task(name="type", classes=("lying", "standing"))
STACKS = ImageFormat(size=120, dtype="uint8", fit="pad", slices=5, rows=72)
PICTURES = ImageFormat(size=48, dtype="uint8", fit="pad")


def discs(count: int, seed: int, missing: float = 0.2) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Stacks (n, 5, 72, 120) with a bright bar, and labels: where it is, and which way it lies; some are missing."""
    random = np.random.default_rng(seed)
    labels = {"side": random.integers(0, 3, count), "type": random.integers(0, 2, count)}
    stacks = random.integers(90, 130, (count, *STACKS.shape)).astype(np.uint8)
    for stack, side, standing in zip(stacks, labels["side"], labels["type"], strict=True):
        x, y = 36 + 24 * int(side), 36
        half = (3, 12) if standing else (12, 3)
        stack[:, y - half[1] : y + half[1], x - half[0] : x + half[0]] = 240
    for known in labels.values():
        known[random.random(count) < missing] = MISSING
    return stacks, labels


def write_cohort(
    folder: Path,
    splits: Mapping[str, tuple[np.ndarray, Mapping[str, np.ndarray]]],
    tasks: tuple[Task, ...] = (SIDE, TILT),
    image: ImageFormat = STACKS,
    kind: str = "disc",
    shard_rows: int = 1 << 16,
    names: str = "",
) -> Cohort:
    """Write shards of each split's images and labels (-1 where missing); two images are a study and a patient.

    Identifiers begin with `names`, or with the split.
    """
    out, schema = locate(folder), shard_schema(image, tasks, False)
    shards: list[Shard] = []
    counts = {}
    for split, (images, labels) in splits.items():
        rows = [_row(names or split, number, image) for number in range(len(images))]
        columns = [
            cells(images) if is_pixels(field) else pa.array([row.get(field.name) for row in rows], field.type)
            for field in schema
        ]
        table = pa.table(columns, schema=schema)
        for task in tasks:
            known = labels[task.name]
            column = pa.array(known.astype(np.int32), pa.int32(), mask=known == MISSING)
            table = table.set_column(table.schema.get_field_index(task.column), schema.field(task.column), column)
        cuts = [table.slice(start, shard_rows) for start in range(0, len(rows), shard_rows)]
        shards += [_shard(out, split, number, cut) for number, cut in enumerate(cuts)]
        pairs = -(-len(rows) // 2)
        found = {task.name: count_labels(table[task.column], task) for task in tasks}
        counts[split] = SplitCount(images=len(rows), studies=pairs, patients=pairs, labels=found)
    total = sum(shard.rows for shard in shards)
    manifest = Manifest(
        kind=kind,
        source="manifest",
        source_options={},
        tasks=tasks,
        image=image,
        masks=False,
        split=SplitMethod(method="source", seed=0, fractions=None),
        counts=Counts(listed=total, images=total, quarantined=0, splits=counts),
        shards=tuple(shards),
        hash_key_fingerprint="",
        content_hash=content_hash(tasks, image, shards),
        created_by="",
    )
    out.join(MANIFEST).write_json(manifest.model_dump(mode="json"))
    return open_cohort(out)


def _shard(out: Location, split: str, number: int, table: pa.Table) -> Shard:
    path, sink = f"split={split}/part-{number}.parquet", pa.BufferOutputStream()
    pq.write_table(table, sink)
    data = sink.getvalue().to_pybytes()
    out.join(path).write_bytes(data)
    return Shard(split=split, path=path, rows=len(table), bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def _row(split: str, number: int, image: ImageFormat) -> dict[str, Any]:
    study = f"{split}-{number // 2:03}"
    names = {"instance_id": f"{split}-{number:03}", "study_id": study, "patient_id": study, "view_index": number % 2}
    geometry = {"rows": image.shape[-2], "columns": image.shape[-1], "bits": 8, "findings": []}
    placement = {"scale_x": 1.0, "scale_y": 1.0, "offset_x": 0.0, "offset_y": 0.0}
    return {**names, **geometry, **placement, "body_part": "LSPINE"}
