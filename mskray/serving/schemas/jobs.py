"""Long work: asked for once, looked at until it is done."""

from typing import Literal

from pydantic import Field

from mskray.serving.problems import ProblemDetails
from mskray.serving.schemas.common import Answer
from mskray.serving.schemas.spines import SpineAnswer
from mskray.serving.schemas.studies import StudyAnswer


class BatchEntry(Answer):
    """One study of a batch: an answer, or why there is none."""

    index: int = Field(description="Its place in the zip, from 0.", examples=[0])
    name: str = Field(description="Its folder in the zip, made safe; distinct.", examples=["study-1"])
    answer: StudyAnswer | None = Field(description="What the ensemble says of it.")
    problem: ProblemDetails | None = Field(description="Why there is no answer.")


class Job(Answer):
    """How far a job is, and what came of it."""

    id: str = Field(description="The job's name.", examples=["0b5e9c3ad3c94a0fa8c0b6e3c9f0e1d2"])
    kind: Literal["spine", "batch"] = Field(description="What was asked for.")
    status: Literal["waiting", "running", "done", "failed"] = Field(description="`done` and `failed` are final.")
    done: int = Field(description="Steps that are done.", examples=[12])
    total: int = Field(description="Steps in all; 0 while not known.", examples=[36])
    what: str = Field(description="What is done now.", examples=["grading discs"])
    href: str = Field(description="Where to ask again.", examples=["/v1/jobs/0b5e9c3ad3c94a0fa8c0b6e3c9f0e1d2"])
    spine: SpineAnswer | None = Field(description="Of a spine that is done.")
    batch: list[BatchEntry] | None = Field(description="Of a batch that is done: each study, in the zip's order.")
    problem: ProblemDetails | None = Field(description="Of a job that failed: why.")
