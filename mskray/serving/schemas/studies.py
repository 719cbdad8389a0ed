"""Studies of radiographs: what is asked of the members, and what is answered."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from pydantic import Field

from mskray.serving.schemas.common import BY_CLASS, Answer, Doubt, ModelName, Probabilities, Probability, UnreadableView


class StudyResult(Answer):
    """The study as a whole."""

    probabilities: Probabilities = Field(description="Mean of the views' probabilities, by class.", examples=[BY_CLASS])
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


ExplainMethod = Literal["grad_cam", "guided_backprop", "saliency"]
"""The names of `mskray.explain.methods.METHODS`, which the ingress cannot import: torch would come with it."""


class Overlay(Answer):
    """Where a member holds reasons for the study's class, as a picture over a part of the decoded view."""

    member: str = Field(description="The member.", examples=["densenet169"])
    method: str = Field(description="How the reasons were found.", examples=["grad_cam"])
    label: str = Field(description="The class that is explained.", examples=["abnormal"])
    x: float = Field(description="Left edge of the part, px of the decoded view.", examples=[0.0])
    y: float = Field(description="Upper edge, px.", examples=[0.0])
    width: float = Field(description="Columns that it covers, px.", examples=[1736.0])
    height: float = Field(description="Rows that it covers, px.", examples=[2022.0])
    href: str | None = Field(
        description="A greyscale PNG, 0 for no evidence to 255 for the most in this picture, to be drawn over the "
        "part; kept for a day. Null where arrays were asked for.",
        examples=["/v1/results/0b5e9c3ad3c94a0fa8c0b6e3c9f0e1d2/0-densenet169-grad_cam.png"],
    )
    array: list[list[int]] | None = Field(
        description="The same values as rows of a matrix, where arrays were asked for.", examples=[[[0, 128], [7, 255]]]
    )


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
    probabilities: Probabilities = Field(description="The ensemble's, by class.", examples=[BY_CLASS])
    members: dict[str, Probabilities] = Field(
        description="Each member's own vote, before calibration, by class.",
        examples=[{"densenet169": BY_CLASS, "mobilenet_v2": {"normal": 0.25, "abnormal": 0.75}}],
    )
    parts: dict[str, dict[str, Probabilities]] = Field(
        description="What parts of a member say, such as its local network, or its model of the body part.",
        examples=[{"kalm-448": {"global": BY_CLASS, "local": {"normal": 0.1, "abnormal": 0.9}}}],
    )
    boxes: list[KeyArea] = Field(description="Where members looked, of those that look somewhere.")
    overlays: list[Overlay] = Field(description="With `explain`, where members hold reasons for the class.")


class StudyAnswer(Answer):
    """What the ensemble says of a study."""

    request_id: str | None = Field(description="The X-Request-Id of the response, for the server's logs.")
    study: StudyResult = Field(description="The study as a whole.")
    views: list[ViewResult] = Field(description="Each view that was read, in the order sent.")
    unreadable: list[UnreadableView] = Field(description="With `partial=true`, the views that were not read.")
    warnings: list[Doubt] = Field(description="Reasons to trust the answer less; empty when there is none.")
    model: ModelName = Field(description="The model that answered.")


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
class Evidence:
    """A map on its way to an `Overlay`.

    pixels: (rows, columns) uint8, 0 for none. box: x, y, width, height of the part of the view that it covers, px.
    """

    member: str
    method: str
    label: str
    box: tuple[float, float, float, float]
    pixels: np.ndarray


@dataclass(frozen=True)
class StudyVote:
    """What the members say of one study's views.

    views: by class, of each view, in order. members: the same of each member. parts: of its parts. boxes: of each view.
    evidence: of each view, where it was asked for. `study`, `warnings` and `model` are ready for the answer.
    """

    views: list[Probabilities]
    members: list[dict[str, Probabilities]]
    parts: list[dict[str, dict[str, Probabilities]]]
    boxes: list[list[KeyArea]]
    study: StudyResult
    warnings: list[Doubt]
    model: ModelName
    evidence: list[list[Evidence]] = field(default_factory=list)
