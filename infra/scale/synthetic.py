"""Parquet manifests of any number of radiographs that do not exist: what `mskray ingest manifest` reads.

A patient has two to five images in one to three studies, and half of the body parts are wrists and hands; paths are as
long as those of a public collection. Written a row group at a time.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROW_GROUP = 100_000
PARTS = np.array(["WRIST", "HAND", "SHOULDER", "ELBOW", "FINGER", "FOREARM", "KNEE", "HUMERUS"])
IMAGES_A_PATIENT = 3.5


def write_manifest(path: Path, rows: int, seed: int = 0) -> None:
    """Write a manifest of so many rows."""
    writer = None
    for table in tables(rows, seed):
        writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd")
        writer.write_table(table)
    if writer is None:
        raise ValueError("a manifest has at least one row")
    writer.close()


def tables(rows: int, seed: int = 0) -> Iterator[pa.Table]:
    """The manifest, a row group at a time."""
    draw = np.random.default_rng(seed)
    patient = 0
    for start in range(0, rows, ROW_GROUP):
        count = min(ROW_GROUP, rows - start)
        sizes = draw.integers(2, 6, count // 2 + 1)
        owner = np.repeat(np.arange(len(sizes)), sizes)[:count]
        image = np.arange(count) - np.concatenate([[0], np.cumsum(sizes)])[owner]
        part = PARTS[np.minimum(draw.geometric(0.3, len(sizes)), len(PARTS)) - 1][owner]
        number = patient + owner
        patient = int(number[-1]) + 1
        yield pa.table(
            {
                "path": [
                    f"XR_{where}/patient{who:09d}/study{1 + what // 2}/image{what % 2 + 1}.png"
                    for where, who, what in zip(part.tolist(), number.tolist(), image.tolist(), strict=True)
                ],
                "patient_id": pa.array(number, pa.int64()),
                "study_id": pa.array(1 + image // 2, pa.int8()),
                "body_part": pa.array(part).dictionary_encode(),
                "view_index": pa.array(image % 2, pa.int8()),
                "label": pa.array((draw.random(len(sizes)) < 0.4)[owner].astype(np.int8)),
                "fingerprint": [
                    f"{size:x}-{mark:016x}"
                    for size, mark in zip(
                        draw.integers(10**4, 10**7, count).tolist(),
                        draw.integers(0, 2**63, count).tolist(),
                        strict=True,
                    )
                ],
            }
        )


def planned(rows: int) -> pa.Table:
    """Rows as a shard's plan holds them."""
    (table,) = tables(rows)
    draw = np.random.default_rng(1)
    names = ("instance_id", "study_id", "patient_id")
    ids = {name: [f"{word:016x}" for word in draw.integers(0, 2**63, rows).tolist()] for name in names}
    nothing = pa.nulls(rows, pa.string())
    return pa.table(
        {
            "path": table["path"],
            "fingerprint": table["fingerprint"],
            **ids,
            "body_part": table["body_part"].cast(pa.string()),
            "view": nothing,
            "laterality": nothing,
            "view_index": table["view_index"].cast(pa.int32()),
            "row": pa.array(np.arange(rows), pa.int32()),
            "label_abnormality": table["label"].cast(pa.int32()),
            "split": ["train"] * rows,
        }
    ).combine_chunks()
