"""One shard, written by one Ray task: read, decode, fit, check, and store as one Parquet object with a ledger entry.

Everything a task needs is in its row and its `ShardJob`; what it writes is a function of these alone. A task that is
repeated, by Ray after a worker died or by the user after an interruption, writes the same bytes to the same name.
Memory: the pixels of the shard once, their compressed form, and a few source files read ahead.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mskray.cohorts.ahead import ahead
from mskray.cohorts.careful import Crashed, apart
from mskray.cohorts.plan import Quarantined, ShardPlan
from mskray.cohorts.schema import CORNERS, ImageFormat, Shard, Task, cells, is_pixels, shard_schema
from mskray.cohorts.sources import UNKNOWN_PART, Finding, Loaded, Source
from mskray.cohorts.unreadable import Unreadable, unreadable
from mskray.config import Section
from mskray.errors import UserError
from mskray.imaging.decode import DecodedImage, DecodeError
from mskray.imaging.intensity import to_dtype
from mskray.imaging.regions import Placement, fit_mask_to_canvas, fit_to_format
from mskray.imaging.spine import Vertebra
from mskray.storage import Location, locate

# Small row groups let a reader fetch a few images of a shard; below 64 rows the footer outgrows its use.
_ROW_GROUP = 128
# Black borders shrink away and noise does not: 224 px phantoms come to 0.68 of their pixels, with zstd level 1 to 0.61
# at 1.6 times the CPU time to write and 2.3 times to read.
_COMPRESSION = "lz4"
# From an object store files are read ahead in threads. From a disk they are not: handing small files from thread to
# thread costs a tenth of their decoding, and the kernel reads ahead by itself. A few at a time, because the
# interpreter's work between two decodings runs with cold caches.
_READERS = 8
_FILES_A_READ = 4


@dataclass(frozen=True)
class ShardJob:
    """What all shards of an ingest have in common; travels to the workers, holds no secret."""

    source: Source[Any]
    options: Section
    root: str | None
    out: str
    image: ImageFormat
    tasks: tuple[Task, ...]


@dataclass(frozen=True)
class Entry:
    """What became of one shard; the ledger holds it as JSON.

    Args:
        shard: what was written, None where no row was usable.
        quarantined: rows that were not.
        complete: False where a file could not be read for a reason that may pass; the next ingest tries again.
        notes: note → images of the shard that it was made of (`Loaded.notes`).
    """

    shard: Shard | None
    quarantined: tuple[Quarantined, ...]
    complete: bool = True
    notes: Mapping[str, int] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return self.shard.rows if self.shard else 0

    def to_json(self) -> dict[str, Any]:
        return {
            "shard": None if self.shard is None else self.shard.model_dump(),
            "quarantined": [asdict(each) for each in self.quarantined],
            "complete": self.complete,
            "notes": dict(self.notes),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Entry":
        shard = None if data["shard"] is None else Shard.model_validate(data["shard"])
        quarantined = tuple(Quarantined(**each) for each in data["quarantined"])
        return cls(shard, quarantined, data["complete"], data.get("notes", {}))


def write_shard(job: ShardJob, plan: ShardPlan, rows: list[dict[str, Any]], careful: bool = False) -> Entry:
    """Make one shard from its planned rows and write it with its ledger entry.

    Args:
        careful: decode each file in a process apart (`mskray.cohorts.careful`).
    Raises:
        UserError, OSError: storage that cannot be read or written after its retries. Nothing partial is left.
    """
    cv2.setNumThreads(1)
    images = np.zeros((len(rows), *job.image.shape), np.dtype(job.image.dtype))
    masks = np.zeros((len(rows), *job.image.shape), np.uint8) if job.source.masks else None
    records: list[dict[str, Any]] = []
    quarantined: list[Quarantined] = []
    notes = Counter[str]()
    complete = True
    root = None if job.root is None else locate(job.root)
    with apart(partial(_load, job)) if careful else nullcontext(partial(_load, job)) as load:
        for row, data in _read(job, root, rows):
            place = len(records)
            try:
                if isinstance(data, Unreadable):
                    complete = complete and not data.passing
                    raise DecodeError(data.reason)
                loaded = load(_address(row), data)
                images[place], placement = to_cell(loaded.image.pixels, job.image)
                if masks is not None:
                    masks[place] = 0 if loaded.mask is None else _fitted_mask(loaded.mask, job.image)
                records.append(_record(row, loaded, placement, job))
                notes.update(loaded.notes)
            except DecodeError as error:
                quarantined.append(Quarantined(row["path"], error.reason, "decode", plan.split, row["row"]))
            except Crashed:
                # Memory may have run out for another reason: the next ingest tries again.
                complete = False
                reason = "decoding it killed the process"
                quarantined.append(Quarantined(row["path"], reason, "decode", plan.split, row["row"]))
    shard = None
    if records:
        table = _table(job, records, images, masks)
        buffer = shard_bytes(table)
        digest = hashlib.sha256(buffer).hexdigest()
        shard = Shard(split=plan.split, path=plan.path, rows=len(records), bytes=len(buffer), sha256=digest)
        locate(job.out).join(plan.path).write_bytes(buffer)
    entry = Entry(shard, tuple(quarantined), complete, notes)
    locate(job.out).join(plan.ledger).write_json(entry.to_json())
    return entry


def _read(
    job: ShardJob, root: Location | None, rows: Sequence[dict[str, Any]]
) -> Iterator[tuple[dict[str, Any], bytes | Unreadable]]:
    """Yield each row with its file's bytes, reading a bounded number of files ahead."""
    if root is None:
        yield from ((row, b"") for row in rows)
        return

    def fetch(row: dict[str, Any]) -> bytes | Unreadable:
        try:
            return job.source.fetch(root, _address(row))
        except UserError as error:
            return unreadable(error, job.source.file(root, _address(row)), root)

    def fetch_all(group: Sequence[dict[str, Any]]) -> list[bytes | Unreadable]:
        return [fetch(row) for row in group]

    groups = [rows[start : start + _FILES_A_READ] for start in range(0, len(rows), _FILES_A_READ)]
    local = root.uri.startswith("file:")
    fetched = map(fetch_all, groups) if local else ahead(fetch_all, groups, _READERS, _READERS)
    for group, data in zip(groups, fetched, strict=True):
        yield from zip(group, data, strict=True)


def _address(row: dict[str, Any]) -> str:
    return row.get("address") or row["path"]


def _load(job: ShardJob, path: str, data: bytes) -> Loaded:
    """Decode one image; whatever goes wrong with its bytes is a DecodeError, so that no file stops a shard."""
    try:
        loaded = job.source.load_as(job.image, path, data, job.options)
    except (DecodeError, MemoryError, UserError):
        raise
    except Exception as error:
        raise DecodeError(f"the decoder failed ({type(error).__name__})") from error
    if loaded.image.metadata.get("burned_in_annotation") == "YES" and not job.source.allows_burned_in(job.options):
        raise DecodeError("BurnedInAnnotation is YES: text, perhaps a name, is drawn into it (see allow_burned_in)")
    shape = loaded.image.pixels.shape
    if job.image.slices and (len(shape) != 3 or shape[0] != job.image.slices):
        raise DecodeError(f"{shape[0] if len(shape) == 3 else 1} slices where {job.image.slices} are stored")
    if not job.image.slices and len(shape) != 2:
        raise DecodeError(f"{shape[0]} frames: a radiograph has one")
    return loaded


def to_cell(pixels: np.ndarray, image: ImageFormat) -> tuple[np.ndarray, Placement]:
    """Bring an image to its cell; a stack slice by slice, unless its source made it in the cell's shape."""
    if pixels.ndim == 3 and pixels.shape == image.shape and pixels.dtype == image.dtype:
        return pixels, Placement(1.0, 1.0, 0.0, 0.0)
    if pixels.ndim == 2:
        return fit_to_format(pixels, image.size, image.fit, image.dtype)
    if image.rows:
        return _resized(pixels, image)
    slices = [fit_to_format(each, image.size, image.fit, image.dtype) for each in pixels]
    return np.stack([each for each, _ in slices]), slices[0][1]


def _resized(pixels: np.ndarray, image: ImageFormat) -> tuple[np.ndarray, Placement]:
    """A stack whose source made it in the proportions of the cell, to its size."""
    height, width = image.shape[-2:]
    placement = Placement(width / pixels.shape[2], height / pixels.shape[1], 0.0, 0.0)
    if pixels.shape != image.shape:
        method = cv2.INTER_AREA if placement.scale_x < 1 else cv2.INTER_LINEAR
        pixels = np.stack([cv2.resize(each, (width, height), interpolation=method) for each in pixels])
    return to_dtype(pixels, image.dtype), placement


def _fitted_mask(mask: np.ndarray, image: ImageFormat) -> np.ndarray:
    if mask.ndim == 3 and mask.shape == image.shape:
        return mask
    if mask.ndim == 2:
        return fit_mask_to_canvas(mask, image.size, image.fit)
    if image.rows:
        place = np.nonzero(mask)
        height, width = image.shape[-2:]
        found = np.zeros(image.shape, np.uint8)
        # Small things must not vanish, and a value may hold several bits.
        target = (place[0], place[1] * height // mask.shape[1], place[2] * width // mask.shape[2])
        np.bitwise_or.at(found, target, mask[place].astype(np.uint8))
        return found
    return np.stack([fit_mask_to_canvas(each, image.size, image.fit) for each in mask])


def _record(row: dict[str, Any], loaded: Loaded, placement: Placement, job: ShardJob) -> dict[str, Any]:
    """The columns of one row other than pixels. What the listing did not know may stand in the file's header."""
    image = loaded.image
    spacing = image.pixel_spacing_mm or (None, None)
    part, side = row["body_part"], row["laterality"]
    header_side = image.metadata.get("laterality")
    record: dict[str, Any] = {
        **{name: row[name] for name in ("instance_id", "study_id", "patient_id", "view_index")},
        "view": row["view"] or image.metadata.get("view_position") or None,
        "body_part": part if part != UNKNOWN_PART else str(image.metadata.get("body_part") or part).upper(),
        "laterality": side or (header_side if header_side in ("L", "R") else None),
        "rows": image.pixels.shape[-2],
        "columns": image.pixels.shape[-1],
        "row_spacing_mm": spacing[0],
        "column_spacing_mm": spacing[1],
        "bits": image.bits,
        "scale_x": placement.scale_x,
        "scale_y": placement.scale_y,
        "offset_x": placement.offset_x,
        "offset_y": placement.offset_y,
        "findings": [
            {"kind": each.kind, **dict(zip("xywh", placement.to_canvas(each.box), strict=True))}
            for each in (*loaded.findings, *_listed(row, loaded.image, job.source.relative_boxes))
        ],
        "vertebrae": [_vertebra(each, placement) for each in loaded.vertebrae],
    }
    record.update({task.column: row[task.column] for task in job.tasks})
    return record


def _vertebra(body: Vertebra, placement: Placement) -> dict[str, Any]:
    corners = [placement.to_canvas((x, y, 0, 0))[:2] for x, y in body.corners]
    return {"level": body.level, "slice": body.slice, **dict(zip(CORNERS, np.ravel(corners).tolist(), strict=True))}


def _listed(row: dict[str, Any], image: DecodedImage, relative: bool) -> Iterator[Finding]:
    """Findings that the listing knew, in pixels of the image."""
    rows, columns = image.pixels.shape[-2:]
    across, down = (columns, rows) if relative else (1, 1)
    for each in row.get("findings") or ():
        box = (each["x"] * across, each["y"] * down, each["w"] * across, each["h"] * down)
        yield Finding(each["kind"], box)


def _table(job: ShardJob, records: list[dict[str, Any]], images: np.ndarray, masks: np.ndarray | None) -> pa.Table:
    schema = shard_schema(job.image, job.tasks, masks is not None, job.source.vertebrae)
    arrays = []
    for column in schema:
        if is_pixels(column):
            source = images if column.name == "image" or masks is None else masks
            arrays.append(cells(source[: len(records)]))
        else:
            arrays.append(pa.array([record[column.name] for record in records], column.type))
    return pa.Table.from_arrays(arrays, schema=schema)


def shard_bytes(table: pa.Table) -> pa.Buffer:
    """A shard as a Parquet file. Pixels get neither dictionary nor statistics: both cost time and tell nothing."""
    words = [column.name for column in table.schema if pa.types.is_string(column.type)]
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        row_group_size=_ROW_GROUP,
        compression=_COMPRESSION,
        use_dictionary=words,
        write_statistics=words,
    )
    return sink.getvalue()
