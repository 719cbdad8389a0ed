"""What a cohort looks like: counts by split, body part and label, and a sheet of images with their truth.

mskray cohort show URI --sheet sheet.png
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image, ImageDraw, ImageFont

from mskray.cohorts.read import Cohort
from mskray.cohorts.schema import CORNERS, Task, count_labels
from mskray.imaging.intensity import to_uint8
from mskray.imaging.regions import Placement, fit_to_canvas

_TILE = 224
_CAPTION = 20
_GAP = 4
_TEXT = (235, 235, 235)
_ABNORMAL_TEXT = (255, 140, 120)
_FINDING = (255, 80, 60)
_FLAG = (80, 170, 255)
_CORNERS = tuple(zip(CORNERS[::2], CORNERS[1::2], strict=True))


@dataclass(frozen=True)
class Group:
    """Counts of one body part in one split. `labels`: task → class name ("missing" for none) → images."""

    split: str
    body_part: str
    images: int
    studies: int
    patients: int
    labels: dict[str, dict[str, int]]


def summary(cohort: Cohort) -> list[Group]:
    """Counts by split and body part, parts in alphabetical order within each split."""
    groups = []
    columns = ["body_part", "study_id", "patient_id", *(task.column for task in cohort.tasks)]
    for split in cohort.splits:
        table = cohort.metadata(split, columns)
        for part in sorted(table["body_part"].unique().to_pylist()):
            rows = table.filter(pc.equal(table["body_part"], part))
            groups.append(
                Group(
                    split=split,
                    body_part=part,
                    images=rows.num_rows,
                    studies=len(rows["study_id"].unique()),
                    patients=len(rows["patient_id"].unique()),
                    labels={task.name: count_labels(rows[task.column], task) for task in cohort.tasks},
                )
            )
    return groups


def contact_sheet(cohort: Cohort, split: str, rows: int = 4, columns: int = 6, seed: int = 0) -> np.ndarray:
    """Draw images taken at random, ordered by label and part, with label, part, view and the source's true boxes.

    Returns:
        (height, width, 3) uint8 RGB; findings are framed in red, L/R flags in blue; of two classes the second is named
        in red.
    """
    names = ["instance_id", "body_part", "view", "laterality", "findings", *(task.column for task in cohort.tasks)]
    names += ["vertebrae"] if cohort.manifest.vertebrae else []
    table = cohort.metadata(split, names)
    count = min(rows * columns, table.num_rows)
    chosen = np.random.default_rng(seed).choice(table.num_rows, count, replace=False)
    records = table.take(pa.array(np.sort(chosen))).to_pylist()
    task = cohort.tasks[0] if cohort.tasks else None
    records.sort(key=lambda record: (_label(record, task) or 0, record["body_part"]))
    images = cohort.images(split, [record["instance_id"] for record in records])
    height = _TILE + _CAPTION + _GAP
    sheet = Image.new("RGB", (columns * (_TILE + _GAP) + _GAP, -(-max(count, 1) // columns) * height + _GAP))
    for place, record in enumerate(records):
        tile = _tile(images[record["instance_id"]], record, task)
        sheet.paste(tile, (_GAP + place % columns * (_TILE + _GAP), _GAP + place // columns * height))
    return np.asarray(sheet)


def _tile(image: np.ndarray, record: dict[str, Any], task: Task | None) -> Image.Image:
    pixels, placement = fit_to_canvas(to_uint8(shown(image)), _TILE)
    tile = Image.new("RGB", (_TILE, _TILE + _CAPTION))
    tile.paste(Image.fromarray(pixels).convert("RGB"), (0, 0))
    draw = ImageDraw.Draw(tile)
    for finding in record["findings"]:
        _frame(draw, finding, placement)
    for body in record.get("vertebrae") or ():
        draw.polygon([placement.to_canvas((body[x], body[y], 0, 0))[:2] for x, y in _CORNERS], outline=_FINDING)
    label = _label(record, task)
    words = [
        record["body_part"],
        record["view"] or "",
        record["laterality"] or "",
        "before, after" if len(image) == 2 and image.ndim == 3 else "",
        task.classes[label] if task is not None and label is not None else "",
    ]
    second_of_two = task is not None and len(task.classes) == 2 and label == 1
    colour = _ABNORMAL_TEXT if second_of_two else _TEXT
    draw.text((2, _TILE + 2), " ".join(word for word in words if word), fill=colour, font=ImageFont.load_default(13))
    return tile


def shown(image: np.ndarray) -> np.ndarray:
    """A plain image, both of a pair side by side, or the middle slice of a stack: (rows, columns)."""
    if image.ndim == 2:
        return image
    return np.concatenate(list(image), axis=1) if len(image) == 2 else image[len(image) // 2]


def _label(record: dict[str, Any], task: Task | None) -> int | None:
    return None if task is None else record[task.column]


def _frame(draw: ImageDraw.ImageDraw, finding: dict[str, Any], placement: Placement) -> None:
    x, y, w, h = placement.to_canvas((finding["x"], finding["y"], finding["w"], finding["h"]))
    colour = _FLAG if finding["kind"] == "flag" else _FINDING
    # A box of a pixel or two could not be seen: it is drawn around what it marks.
    draw.rectangle((x - 2, y - 2, x + w + 1, y + h + 1), outline=colour)
