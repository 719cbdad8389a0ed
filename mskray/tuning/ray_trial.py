"""A trial as Ray Tune sees it: a thread that works, and steps that wait for what it tells.

Neither torch nor a family is imported here: the process is up in a moment, and what the work needs is loaded by it.
"""

import queue
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ray import tune
from ray.tune.result import DONE

from mskray.training.run import Resources
from mskray.tuning.figures import sign
from mskray.tuning.ledger import Ledger, TrialRecord

RECORD, SCORE, STEP, EPOCH, FIGURE = "record", "score", "step", "epoch", "figure"
"""Keys of what a trial is told (its record), and of what it reports to Tune after each step."""
_ERROR = "error"
Tell = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Plan:
    """What all trials of a search have in common; small, so that it travels.

    Args:
        base: the family's sections before a trial's parameters.
        round_epochs: epochs of a round of population based training; 0 where trials train to their end.
        metric: by whose figure a scheduler compares epochs or folds.
        shared: where work that trials share is done once, see `mskray.training.run.Run`.
        here: whether a trial trains in its own process, which books what a worker takes.
    """

    ledger: Ledger
    family: str
    cohort: str
    task: str
    base: Mapping[str, Any]
    resources: Resources
    folds: int
    folds_seed: int
    metric: str
    round_epochs: int = 0
    shared: Any = None
    here: bool = False


Work = Callable[[Plan, TrialRecord, Tell], TrialRecord]
"""Does a trial, writes its record to the ledger as it ends, and returns it; `mskray.tuning.trial.run_trial`."""


class RayTrial(tune.Trainable):
    """A trial as Ray Tune sees it: each step is an epoch, a fold, or the end."""

    _last: dict[str, Any]
    _plan: Plan
    _work: Work

    def setup(self, config: dict[str, Any], plan: Plan | None = None, work: Work | None = None) -> None:
        assert plan is not None
        assert work is not None
        self._plan, self._work = plan, work
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next trial in this process, unless one that was stopped still trains in it."""
        if self._thread.is_alive():
            return False
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        event = self._events.get()
        if _ERROR in event:
            raise event[_ERROR]
        if DONE in event:
            return {**self._last, DONE: True}
        self._last = {STEP: event[STEP], SCORE: sign(self._plan.metric) * event[FIGURE], **event}
        return self._last

    def _begin(self, config: dict[str, Any]) -> None:
        record = TrialRecord.model_validate(config[RECORD])
        events: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        # What a scheduler reads of a trial that ends before its first step.
        self._events = events
        self._last = {STEP: 0, SCORE: float("-inf")}

        def work() -> None:
            try:
                self._work(self._plan, record, events.put)
            except BaseException as error:  # whatever it is: the step that waits must hear of it
                events.put({_ERROR: error})
            else:
                events.put({DONE: True})

        self._thread = threading.Thread(target=work, name=record.id, daemon=True)
        self._thread.start()
