"""Pairs: one place of a body, before and after."""

from dataclasses import dataclass

from pydantic import Field

from mskray.serving.schemas.common import Answer, Doubt, ModelName, Probabilities, Probability

_CHANGE = {"improved": 0.1, "same": 0.7, "worse": 0.2}


class PairResult(Answer):
    """What changed."""

    probabilities: Probabilities = Field(description="The ensemble's, by class.", examples=[_CHANGE])
    label: str = Field(
        description="The class called: of two classes the second when its probability reaches the threshold, of more "
        "the most probable.",
        examples=["same"],
    )
    threshold: Probability | None = Field(
        description="Probability from which the second of two classes is called; null with more classes.",
        examples=[None],
    )


class PairImage(Answer):
    """One picture of the pair."""

    name: str | None = Field(description="The file name as sent, made safe; null without one.", examples=["2019.dcm"])
    format: str = Field(description="What the content was: png, jpeg, tiff or dicom.", examples=["dicom"])
    rows: int = Field(description="Rows of the decoded image, px.", examples=[448])
    columns: int = Field(description="Columns of the decoded image, px.", examples=[448])


class PairAnswer(Answer):
    """What the ensemble says of a pair."""

    request_id: str | None = Field(description="The X-Request-Id of the response, for the server's logs.")
    pair: PairResult = Field(description="The pair as a whole.")
    members: dict[str, Probabilities] = Field(
        description="Each member's own vote, before calibration, by class.", examples=[{"pair_softmax": _CHANGE}]
    )
    before: PairImage = Field(description="The earlier picture.")
    after: PairImage = Field(description="The later picture.")
    warnings: list[Doubt] = Field(
        description="Reasons to trust the answer less; `views` are 0 for before, 1 for after."
    )
    model: ModelName = Field(description="The model that answered.")


@dataclass(frozen=True)
class PairVote:
    """What the members say of a pair, on its way to the answer."""

    pair: PairResult
    members: dict[str, Probabilities]
    warnings: list[Doubt]
    model: ModelName
