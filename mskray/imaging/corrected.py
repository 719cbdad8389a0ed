"""A box that a reader drew: as it is sent, as it is stored, and as a cohort takes it in."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

_Place = Annotated[float, Field(ge=0, le=1e6)]
_Length = Annotated[float, Field(gt=0, le=1e6)]


class CorrectedBox(BaseModel):
    """Where a finding is, in pixels of the decoded picture."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, max_length=64, description="What is there.", examples=["effusion"])
    x: _Place = Field(description="Left edge, px.", examples=[412.5])
    y: _Place = Field(description="Upper edge, px.", examples=[300.0])
    width: _Length = Field(description="Columns, px.", examples=[220.0])
    height: _Length = Field(description="Rows, px.", examples=[180.5])
