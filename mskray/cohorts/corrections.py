"""What readers corrected, as it lies in a store: written by the server, read by the ingest source `feedback`.

    STORE/feedback/images/<SHA-256 of the pixels>.png             lossless, no header
    STORE/feedback/corrections/<date>/<id>.json                   one correction, never written again
    STORE/feedback/key                                            of the patients' pseudonyms, random, made once

Whoever has the key can test whether a known patient is in the store: let nobody read it who may not know that.
"""

import hashlib
from datetime import datetime

import numpy as np
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from mskray.cohorts.schema import Task
from mskray.imaging.corrected import CorrectedBox

SCHEMA_VERSION = 1
IMAGES, CORRECTIONS, KEY = "images", "corrections", "key"
MOST_BYTES = 1 << 20
"""Of a correction's file."""

_HEX = r"^[0-9a-f]{64}$"


class StoredCorrection(BaseModel):
    """A file of corrections.

    Args:
        time: when the server took it.
        who: name of the token.
        image: SHA-256 of the picture's pixels (`pixel_digest`).
        patient: a pseudonym of this store.
        classes: of the task, in the order of the label's index.
        label: the right class; None where boxes alone were given.
        said: the class that the model called.
        model: its hash.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: int = Field(default=SCHEMA_VERSION, ge=1, le=SCHEMA_VERSION)
    id: str = Field(pattern=r"^[0-9a-f]{32}$")
    time: AwareDatetime
    who: str
    image: str = Field(pattern=_HEX)
    patient: str = Field(min_length=1)
    body_part: str | None
    task: str
    classes: tuple[str, ...]
    label: str | None
    boxes: tuple[CorrectedBox, ...]
    reason: str
    said: str | None
    model: str = Field(pattern=_HEX)

    @property
    def question(self) -> Task:
        """What was corrected. Raises pydantic's ValidationError for a task that no cohort can have."""
        return Task(name=self.task, classes=self.classes)


def picture_path(image: str) -> str:
    """Where the picture of these pixels lies in a store."""
    return f"{IMAGES}/{image}.png"


def correction_path(time: datetime, name: str) -> str:
    """Where a correction lies in a store, by its id."""
    return f"{CORRECTIONS}/{time:%Y-%m-%d}/{name}.json"


def pixel_digest(pixels: np.ndarray) -> str:
    """SHA-256 of a picture's pixels (rows, columns) with their type and shape: 64 hex characters."""
    head = f"{pixels.dtype.name} {' '.join(map(str, pixels.shape))}\n"
    little = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("<"))
    return hashlib.sha256(head.encode() + little.tobytes()).hexdigest()
