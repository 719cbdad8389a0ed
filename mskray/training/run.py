"""A training run as the driver sees it: where it is kept, what it may use, who hears of it, what comes out."""

import hashlib
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from pydantic import model_validator

from mskray.cohorts import Task
from mskray.config import Section, setting
from mskray.progress import Report, silent
from mskray.storage import Location
from mskray.training.tracking import Tracker

if TYPE_CHECKING:  # a search's driver and its trials' processes need no torch to name what a run is told
    from torch import Tensor

    from mskray.training.once import Shared


class Resources(Section):
    """What a run may occupy."""

    workers: int = setting(1, "training workers; they decide the size of a step, however many run", ge=1, le=4096)
    min_workers: int = setting(
        0,
        "workers that training goes on with when others are lost, until these are back; 0 for all of them",
        ge=0,
        le=4096,
        source="EasyScale, Li et al. 2023",
    )
    gpu: bool = setting(False, "give each worker a GPU")
    gpus_per_worker: float = setting(1.0, "share of it, where workers have GPUs", unit="GPUs", gt=0, le=1)
    cpus_per_worker: float = setting(
        1.0, "CPUs reserved for each worker; in a search also its threads", unit="CPUs", ge=0.1, le=256
    )
    compile: Literal["off", "on", "graphs"] = setting(
        "off", "have torch compile the network, minutes once for faster steps on a GPU; graphs: as CUDA graphs, too"
    )
    placement: Literal["pack", "spread"] = setting(
        "pack", "workers of one training on as few nodes as hold them, or on as many as there are"
    )
    max_failures: int = setting(
        3, "times that workers or nodes may be lost before the run fails; each kind counts for itself", ge=0, le=1000
    )

    @model_validator(mode="after")
    def _one_rank_a_gpu(self) -> "Resources":
        if self.gpu and self.workers > 1 and self.gpus_per_worker < 1:
            raise ValueError(
                f"resources.gpus_per_worker = {self.gpus_per_worker:g} with {self.workers} workers: workers of one "
                "training cannot share a GPU (NCCL): set resources.workers=1, or resources.gpus_per_worker=1"
            )
        return self

    @model_validator(mode="after")
    def _no_more_than_all(self) -> "Resources":
        if self.min_workers > self.workers:
            raise ValueError(
                f"resources.min_workers = {self.min_workers} is more than resources.workers = {self.workers}: lower it"
            )
        return self

    @property
    def least(self) -> int:
        """Workers without which a training waits."""
        return self.min_workers or self.workers

    @property
    def gpus(self) -> float:
        """GPUs for each worker; 0 where none is asked for."""
        return self.gpus_per_worker if self.gpu else 0.0


@dataclass(frozen=True)
class Part:
    """Some epochs of a training: population based training cuts it into such.

    Args:
        until: the epoch to end after; the schedule is that of the whole training.
        start: the checkpoint to go on from, also one of another config; None at the beginning.
        leave: where the last checkpoint goes, for the next part.
    """

    until: int
    start: Location | None
    leave: Location


@dataclass(frozen=True)
class Run:
    """Where and how to train.

    Args:
        location: folder that holds the run's folder.
        name: the run's own folder; the same name goes on from its last checkpoint.
        task: what to learn.
        report: called with progress.
        trackers: told of every finished epoch.
        prefix: of figures and progress, where the run is one of several stages.
        held_back: whether the validation split is no part of the train split, and so chooses and calibrates. Where
            all is learned from (`Cohort.merged`), the last epoch is kept whatever its figures, nothing stops early,
            and figures of the validation split are called `learned_…`. A plateau schedule goes on watching these: it
            lowers the rate later than in a training that holds the split back, or never.
        shared: of a search, whose trials do common work once; None for a run alone.
        part: of the training that is done now, None for all. Of a part the last epoch is kept, and nothing stops early.
        local: trained in this process: without Ray or, as a trial of a search, with what the process has booked of it.
    """

    location: Location
    name: str
    task: Task
    resources: Resources
    report: Report = silent
    trackers: tuple[Tracker, ...] = ()
    prefix: str = ""
    held_back: bool = True
    shared: "Shared | None" = None
    part: Part | None = None
    local: bool = False

    def stage(self, name: str) -> "Run":
        """Return the run of one of several trainings, kept in this run's folder and told apart by `name`."""
        return replace(self, location=self.location.join(self.name), name=name, prefix=f"{name}/")


@dataclass(frozen=True)
class Trained:
    """What a torch family's fit returns.

    Args:
        state: weights of the best epoch, or of the last (`Run.held_back`).
        history: an entry an epoch: losses, validation figures, images/s.
        best: the entry of that epoch.
        labels: training samples of each class.
    """

    state: "dict[str, Tensor]"
    history: list[dict[str, Any]]
    best: dict[str, Any]
    labels: dict[str, int]


def run_name(**facts: Any) -> str:
    """Return 12 hex digits of a hash over all that decides a run's result (JSON values).

    The same job submitted again has the same name, so it finds its checkpoints.
    """
    text = json.dumps(facts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
