"""Running the trials of a search with Ray Tune: how many at once, which are stopped, what is shown meanwhile.

Tune's own experiment state is kept in a temporary folder and thrown away; the ledger is what counts. A trial's process
books what a worker takes where it trains itself, else memory alone: any share of a CPU would be missing from the
workers and tasks that it waits for.
"""

import os
import tempfile
import time
from collections.abc import Callable
from typing import Any

from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import ConcurrencyLimiter, Searcher

from mskray import cluster
from mskray.errors import user_error_in
from mskray.training.feed import LOADER_CPUS
from mskray.training.run import Resources
from mskray.tuning.job import SchedulerSection
from mskray.tuning.ray_trial import RECORD, SCORE, STEP, Plan, RayTrial, Work

_HEAD: dict[str, int | float] = {"memory": 64 * 2**20}
_QUIET = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends the command; Tune would end its part in order, and no more
}
_MANY = 10**9
_LOOK_EVERY_S = 10.0
Watch = Callable[[dict[str, Any], dict[str, Any] | None], None]
"""Called with a trial's record as it was given, and with each of its results: {} as it starts, None as it has ended."""


def run_trials(
    plan: Plan,
    searcher: Searcher,
    room: Callable[[], int],
    scheduler: SchedulerSection,
    most_steps: int,
    watch: Watch,
    work: Work,
    seconds: float | None = None,
) -> list[str]:
    """Run what the searcher gives until it has nothing more; each trial writes its record itself.

    Returns why trials stay open that the cluster or the store was at fault of: a line for each.

    Args:
        room: how many trials may run side by side; asked again while they run, as nodes come and go.
        most_steps: epochs or folds of the longest trial.
        work: what a trial does.
        seconds: after which all is stopped; trials that were running stay open.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    with tempfile.TemporaryDirectory(prefix="mskray-tune-") as folder:
        tuner = tune.Tuner(
            tune.with_resources(
                tune.with_parameters(RayTrial, plan=plan, work=work), tune.PlacementGroupFactory([_head(plan)])
            ),
            tune_config=tune.TuneConfig(
                metric=SCORE,
                mode="max",
                search_alg=_Slots(searcher, room, watch),
                scheduler=_scheduler(scheduler, most_steps),
                num_samples=_MANY,
                time_budget_s=seconds,
                # A trial that was stopped trains on in its process, which can take no other then.
                reuse_actors=scheduler.name == "none" and seconds is None,
            ),
            run_config=tune.RunConfig(
                name="search",
                storage_path=folder,
                verbose=0,
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                failure_config=tune.FailureConfig(max_failures=plan.resources.max_failures),
            ),
        )
        return [_reason(error) for error in tuner.fit().errors]


def _head(plan: Plan) -> dict[str, int | float]:
    """What a trial's process books."""
    resources = plan.resources
    booked = {"CPU": resources.cpus_per_worker, **({"GPU": resources.gpus} if resources.gpu else {})}
    return {**_HEAD, **booked} if plan.here else _HEAD


def check_room(resources: Resources) -> None:
    """Raise UserError where not one trial fits on the cluster."""
    cluster.require(_need(resources), LOADER_CPUS)


def room(resources: Resources, torch: bool, most: int = 0) -> int:
    """How many trials fit on the cluster as it is now side by side, at least one, at most `most` unless that is 0."""
    found = cluster.room(_need(resources), LOADER_CPUS if torch else 0.0) // resources.workers
    if not torch:  # tasks do the work, and one trial more has some ready while another begins or is judged
        found += 1
    return max(1, min(found, most or found))


def _need(resources: Resources) -> cluster.Need:
    return cluster.Need("a trial", resources.workers, resources.cpus_per_worker, resources.gpus)


def _reason(error: Exception) -> str:
    found = user_error_in(error)
    return str(found) if found else f"{type(error).__name__}: {' '.join(str(error).split())[-300:]}"


def _scheduler(section: SchedulerSection, most_steps: int) -> TrialScheduler:
    if section.name == "none":
        return FIFOScheduler()
    return AsyncHyperBandScheduler(
        time_attr=STEP,
        grace_period=min(section.grace, most_steps),
        reduction_factor=section.reduction,
        brackets=section.brackets if section.name == "hyperband" else 1,
        max_t=most_steps + 1,  # a trial that trained all its epochs has still to be judged
    )


class _Slots(ConcurrencyLimiter):
    """Gives as many trials as the cluster has room for now, and tells how they fare.

    A callback of Tune could do this too, but for any of these Tune loads every logger that it knows, in seconds.
    """

    def __init__(self, searcher: Searcher, room: Callable[[], int], watch: Watch) -> None:
        self._room, self._watch, self._asked = room, watch, time.monotonic()
        self._records: dict[str, dict[str, Any]] = {}
        super().__init__(searcher, max_concurrent=room())

    def get_state(self) -> dict[str, Any]:
        return {}  # Tune keeps its searchers for a later run, which there is none of

    __getstate__ = get_state

    def suggest(self, trial_id: str) -> Any:
        if time.monotonic() - self._asked >= _LOOK_EVERY_S:
            self.set_max_concurrency(self._room())
            self._asked = time.monotonic()
        given = super().suggest(trial_id)
        if isinstance(given, dict):
            self._records[trial_id] = given[RECORD]
            self._watch(given[RECORD], {})
        return given

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        super().on_trial_result(trial_id, result)
        self._watch(self._records[trial_id], result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        super().on_trial_complete(trial_id, result=result, error=error)
        if trial_id in self._records:
            self._watch(self._records.pop(trial_id), None)
