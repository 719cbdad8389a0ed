"""`ensemble.json`: which bundles vote together, how their mean is calibrated, what else is done and told."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

SCHEMA_VERSION = 1


class Member(BaseModel):
    """One bundle of an ensemble."""

    model_config = ConfigDict(frozen=True)

    uri: str
    hash: str
    weight: float = Field(default=1.0, gt=0)


class FlagRemover(BaseModel):
    """The flag detector that takes L/R markers out of every image before the members see it."""

    model_config = ConfigDict(frozen=True)

    uri: str
    hash: str


class Calibration(BaseModel):
    """Temperature scaling of the mean; 1 leaves it as it is. `fitted_on` names cohort and split."""

    model_config = ConfigDict(frozen=True)

    temperature: float = Field(default=1.0, gt=0)
    fitted_on: str | None = None


class OutlierTest(BaseModel):
    """What tells images apart that are none of those that the ensemble was made for, see `mskray.outliers`.

    Args:
        file: beside `ensemble.json`; its URI where that was read. hash: SHA-256 of its content.
        threshold: score above which an image is strange. quantile: of the held-out images' scores that it is.
        fitted_on: names cohort and splits.
        member: position of the member whose canvas is looked at, and whose features.
    """

    model_config = ConfigDict(frozen=True)

    file: str
    hash: str
    threshold: float = Field(allow_inf_nan=False)
    quantile: float = Field(gt=0, le=1)
    fitted_on: str
    member: int = Field(default=0, ge=0)


class Ensemble(BaseModel):
    """`ensemble.json`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: int = SCHEMA_VERSION
    name: str
    voting: Literal["soft"] = "soft"
    task: str
    classes: tuple[str, ...]
    members: tuple[Member, ...] = Field(min_length=1)
    calibration: Calibration = Calibration()
    threshold: float = Field(default=0.5, ge=0, le=1)
    flag_remover: FlagRemover | None = None
    outliers: OutlierTest | None = None
