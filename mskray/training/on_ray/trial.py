"""A trial of a search drives the loop in its own process, which has booked what one worker takes.

The process takes one trial after the other, so that torch is loaded once for all of them; Ray Train would start a
controller and a worker for each. A process that is lost ends its trial, which Ray Tune begins again: it goes on from
its last checkpoint.
"""

import gc
from typing import Any

import torch
from torch import Tensor

from mskray.training.assignment import Assignment
from mskray.training.local import Local, trained
from mskray.training.memory import keep_memory
from mskray.training.on_ray.readers import RayReaders
from mskray.training.on_ray.session import session_of_trial
from mskray.training.run import Resources, Run


class InTrial(Local):
    """The driver of a training in a trial's process, its shards read by the cluster's tasks."""

    def __init__(self) -> None:
        super().__init__(RayReaders())

    def check(self, resources: Resources) -> None:
        """Nothing: the process would not run if there were no room."""

    def train(self, work: Assignment, weights: dict[str, Tensor], run: Run) -> list[dict[str, Any]]:
        """As for any driver. What fails for the cluster's or the store's sake is raised as it is, to be tried again."""
        keep_memory()
        if not gc.get_freeze_count():
            gc.freeze()  # what packages hold, hundreds of thousands of objects, is not looked through after each trial
        place = run.location.join(run.name)
        try:
            return trained(work, weights, session_of_trial(place, work.say, work.cpus, run.resources.gpu))
        finally:
            gc.collect()
            torch.cuda.empty_cache()  # others may compute on this GPU
