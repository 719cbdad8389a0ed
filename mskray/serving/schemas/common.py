"""What several answers share: probabilities, which model spoke, why to doubt it."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Probability = Annotated[float, Field(ge=0, le=1)]
Probabilities = dict[str, Probability]

BY_CLASS = {"normal": 0.18, "abnormal": 0.82}


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
