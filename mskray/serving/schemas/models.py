"""Which models answer."""

from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from mskray.errors import UserError
from mskray.serving.schemas.common import Answer, Probability

Served = Literal["studies", "pairs", "spines"]


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
    usual: str | None = Field(
        description="Cohort that it learned from which pictures are usual; null where it does not know, and doubts "
        "none for being strange.",
        examples=["s3://cohorts/knees train"],
    )


class MemberInfo(Answer):
    """A bundle that is served: a member of the ensemble of studies or pairs, or a part of what reads spines."""

    serves: Served = Field(description="What it answers.", examples=["studies"])
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
    weight: float = Field(
        description="Its share of the vote; the shares of an ensemble sum to 1. Of what reads spines, each has 1.",
        examples=[0.5],
    )
    card: str = Field(description="Its model card, Markdown.", examples=["# densenet169\n"])


class SpineModelInfo(Answer):
    """What reads spines: a detector of vertebrae and a grader of discs."""

    name: str = Field(description="Name of the grader.", examples=["spinenet"])
    hash: str = Field(description="SHA-256 over the hashes of the detector and the grader.")
    tasks: dict[str, list[str]] = Field(
        description="The classes of each graded task.", examples=[{"upper_marrow": ["normal", "change"]}]
    )


class Rollout(Answer):
    """A change of the ensemble of studies while the server runs."""

    ensemble: str = Field(description="URI of the ensemble that is wanted.", examples=["s3://models/knees-2"])
    hash: str | None = Field(description="Its SHA-256, as `EnsembleInfo` has it; null while a replica begins.")
    id: str | None = Field(description="Of this change; null where the server answers as it began.")
    state: Literal["loading", "served", "refused"] = Field(
        description="`loading`: the one before answers still, in one replica at least; `served`: all have it.",
        examples=["served"],
    )
    reason: str | None = Field(description="Why it was refused.", examples=["it answers another question"])


class Models(Answer):
    """Everything about the served models."""

    served: list[Served] = Field(description="What this server answers.", examples=[["studies", "spines"]])
    ensemble: EnsembleInfo | None = Field(description="What answers studies; null where none are answered.")
    pairs: EnsembleInfo | None = Field(description="What answers pairs; null where none are answered.")
    spines: SpineModelInfo | None = Field(description="What reads spines; null where none are read.")
    members: list[MemberInfo] = Field(description="Every bundle, in the order of its ensemble.")
    rollout: Rollout | None = Field(description="The last change of the ensemble since the server started.")

    @property
    def of_studies(self) -> EnsembleInfo:
        """What answers studies. Raises UserError where none are answered."""
        if self.ensemble is None:
            raise UserError(f"the server answers {' and '.join(self.served)}, no studies: ask another one")
        return self.ensemble


@dataclass(frozen=True)
class Described:
    """An ensemble of studies or pairs, on its way to `Models`."""

    ensemble: EnsembleInfo
    members: list[MemberInfo]
