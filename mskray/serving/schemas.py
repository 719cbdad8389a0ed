"""What the server says: typed, described, with an example each, so that the OpenAPI document is complete.

    curl localhost:8000/openapi.json

`DecodedView` and `StudyVote` pass between the two deployments; everything else reaches the client.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

Probability = Annotated[float, Field(ge=0, le=1)]
Probabilities = dict[str, Probability]

_BY_CLASS = {"normal": 0.18, "abnormal": 0.82}


class Answer(BaseModel):
    """Base of everything that is answered."""

    model_config = ConfigDict(frozen=True)


class Health(Answer):
    """The server is up and its ensemble answers."""

    status: str = Field(description="Always `ok`.", examples=["ok"])


class MemberName(Answer):
    """A member, enough to know which model spoke."""

    name: str = Field(description="Name of the bundle, numbered where two have the same.", examples=["densenet169"])
    hash: str = Field(description="SHA-256 over the bundle's weights and all that decides a prediction.")


class ModelName(Answer):
    """The model that answered, enough to ask it the same again."""

    name: str = Field(description="Name of the ensemble.", examples=["knees"])
    hash: str = Field(description="SHA-256 over its members, weights, calibration, threshold and flag remover.")
    task: str = Field(description="The question that it answers.", examples=["abnormality"])
    calibrated: bool = Field(description="Whether its probabilities were calibrated on held-out studies.")
    members: list[MemberName] = Field(description="In the order of the ensemble.")


class StudyResult(Answer):
    """The study as a whole."""

    probabilities: Probabilities = Field(
        description="Mean of the views' probabilities, by class.", examples=[_BY_CLASS]
    )
    label: str = Field(
        description="The class called: of two classes the second when its probability reaches the threshold, of more "
        "the most probable.",
        examples=["abnormal"],
    )
    threshold: Probability | None = Field(
        description="Probability from which the second of two classes is called; null with more classes.",
        examples=[0.5],
    )
    views: int = Field(description="Views that the mean is over.", examples=[2])


class KeyArea(Answer):
    """Where a member looked, in pixels of the decoded view."""

    member: str = Field(description="The member.", examples=["kalm-448"])
    name: str = Field(description="What it calls the area.", examples=["key area"])
    x: float = Field(description="Left edge, px.", examples=[412.5])
    y: float = Field(description="Upper edge, px.", examples=[300.0])
    width: float = Field(description="Columns, px.", examples=[220.0])
    height: float = Field(description="Rows, px.", examples=[180.5])


class ViewResult(Answer):
    """One view."""

    index: int = Field(
        description="Position among the `views` of the request, from 0, files of a zip each.", examples=[0]
    )
    name: str | None = Field(
        description="The file name as sent, without folders and with unusual characters replaced; null without one.",
        examples=["view-1.dcm"],
    )
    format: str = Field(description="What the content was: png, jpeg, tiff or dicom.", examples=["dicom"])
    rows: int = Field(description="Rows of the decoded image, px.", examples=[2022])
    columns: int = Field(description="Columns of the decoded image, px.", examples=[1736])
    body_part: str | None = Field(
        description="The request's body part, else that of the DICOM header, else null.", examples=["KNEE"]
    )
    probabilities: Probabilities = Field(description="The ensemble's, by class.", examples=[_BY_CLASS])
    members: dict[str, Probabilities] = Field(
        description="Each member's own vote, before calibration, by class.",
        examples=[{"densenet169": _BY_CLASS, "mobilenet_v2": {"normal": 0.25, "abnormal": 0.75}}],
    )
    parts: dict[str, dict[str, Probabilities]] = Field(
        description="What parts of a member say, such as its local network, or its model of the body part.",
        examples=[{"kalm-448": {"global": _BY_CLASS, "local": {"normal": 0.1, "abnormal": 0.9}}}],
    )
    boxes: list[KeyArea] = Field(description="Where members looked, of those that look somewhere.")


class UnreadableView(Answer):
    """A view that could not be read, and why."""

    index: int = Field(
        description="Position among the `views` of the request, from 0, files of a zip each.", examples=[1]
    )
    name: str | None = Field(description="The file name as sent, made safe.", examples=["view-2.png"])
    reason: str = Field(description="One clause.", examples=["truncated PNG"])


class Doubt(Answer):
    """A reason to trust the answer less."""

    code: str = Field(description="For programs.", examples=["body-part-not-trained"])
    views: list[int] = Field(description="Indices of the views that it is about.", examples=[[0]])
    message: str = Field(description="For people.", examples=["densenet169 was not trained on SHOULDER"])


class StudyAnswer(Answer):
    """What the ensemble says of a study."""

    request_id: str | None = Field(description="The X-Request-Id of the response, for the server's logs.")
    study: StudyResult = Field(description="The study as a whole.")
    views: list[ViewResult] = Field(description="Each view that was read, in the order sent.")
    unreadable: list[UnreadableView] = Field(description="With `partial=true`, the views that were not read.")
    warnings: list[Doubt] = Field(description="Reasons to trust the answer less; empty when there is none.")
    model: ModelName = Field(description="The model that answered.")


class CalibrationInfo(Answer):
    """How the mean of the members became a probability."""

    temperature: float = Field(description="1 leaves the mean as it is.", examples=[1.3])
    fitted_on: str | None = Field(description="Cohort and split that it was fitted on; null if uncalibrated.")


class EnsembleInfo(Answer):
    """The ensemble."""

    name: str = Field(description="Name of the ensemble.", examples=["knees"])
    hash: str = Field(description="SHA-256 over its members, weights, calibration, threshold and flag remover.")
    task: str = Field(description="The question that it answers.", examples=["abnormality"])
    classes: list[str] = Field(description="In the order of the label's index.", examples=[["normal", "abnormal"]])
    threshold: Probability | None = Field(
        description="Probability from which the second of two classes is called; null with more classes.",
        examples=[0.5],
    )
    calibration: CalibrationInfo = Field(description="How the mean of the members became a probability.")


class MemberInfo(Answer):
    """A member of the ensemble."""

    name: str = Field(description="Name of the bundle, numbered where two have the same.", examples=["densenet169"])
    family: str = Field(description="Model family.", examples=["classifier"])
    task: str = Field(description="The question that it answers.", examples=["abnormality"])
    classes: list[str] = Field(description="In the order of the label's index.", examples=[["normal", "abnormal"]])
    body_parts: list[str] = Field(description="Parts that it was trained on.", examples=[["KNEE", "WRIST"]])
    metrics: dict[str, float] = Field(
        description="Figures of the chosen epoch. They were used to choose it, so they flatter.",
        examples=[{"epoch": 4, "val_auroc": 0.93}],
    )
    hash: str = Field(description="SHA-256 over the bundle's weights and all that decides a prediction.")
    cohort_hash: str = Field(description="Content hash of the cohort that it learned from.")
    weight: float = Field(description="Its share of the vote; the shares sum to 1.", examples=[0.5])


class Models(Answer):
    """Everything about the served model."""

    ensemble: EnsembleInfo = Field(description="The ensemble.")
    members: list[MemberInfo] = Field(description="Its members, in order.")


@dataclass(frozen=True)
class DecodedView:
    """A view on its way to the members.

    index: position among the request's views. name: made safe. format: of the content.
    pixels: (rows, columns) uint8 or uint16, display-ready. body_part: upper case, "" where not known.
    """

    index: int
    name: str | None
    format: str
    pixels: np.ndarray
    body_part: str


@dataclass(frozen=True)
class StudyVote:
    """What the members say of one study's views.

    views: by class, of each view, in order. members: the same of each member. parts: of its parts. boxes: of each view.
    `study`, `warnings` and `model` are ready for the answer.
    """

    views: list[Probabilities]
    members: list[dict[str, Probabilities]]
    parts: list[dict[str, dict[str, Probabilities]]]
    boxes: list[list[KeyArea]]
    study: StudyResult
    warnings: list[Doubt]
    model: ModelName
