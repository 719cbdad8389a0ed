"""What a reader corrects."""

from pydantic import Field

from mskray.imaging.corrected import CorrectedBox
from mskray.serving.schemas.common import Answer


class Feedback(Answer):
    """A correction, as it is stored."""

    id: str = Field(description="Name of the correction.", examples=["0b5e9c3ad3c94a0fa8c0b6e3c9f0e1d2"])
    time: str = Field(description="When, ISO 8601 in UTC.", examples=["2026-01-31T09:30:00+00:00"])
    who: str = Field(description="Name of the token; empty where the server has none.", examples=["ward-3"])
    image: str = Field(description="SHA-256 of the decoded pixels that were corrected, the name of the stored picture.")
    patient: str = Field(description="A pseudonym: corrections of one patient have the same.")
    body_part: str | None = Field(description="DICOM body part.", examples=["KNEE"])
    task: str = Field(description="The question.", examples=["abnormality"])
    label: str | None = Field(description="The right class; null where only boxes were corrected.", examples=["normal"])
    boxes: list[CorrectedBox] = Field(description="Where the finding is; empty where nothing was drawn.")
    reason: str = Field(description="In the reader's words.", examples=["the line is a vessel, no fracture"])
    said: str | None = Field(description="The class that the model called.", examples=["abnormal"])
    model: str = Field(description="Hash of the model that was corrected.")
