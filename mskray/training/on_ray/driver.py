"""Ray Train drives the loop: workers wherever there is room, started again where they are lost."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import ray
import ray.train
from ray.exceptions import RayError
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig as TorchBackend
from ray.train.torch import TorchTrainer
from torch import Tensor

from mskray import cluster
from mskray.errors import Fault, UserError, user_error_in
from mskray.storage import Location
from mskray.training.assignment import Assignment
from mskray.training.driver import stopped
from mskray.training.feed import LOADER_CPUS
from mskray.training.group import GROUP_TIMEOUT
from mskray.training.loop import Diverged, Trainer
from mskray.training.news import Say
from mskray.training.on_ray.controller import Stored, TellsOfLosses, Workers
from mskray.training.on_ray.news import Told, listener
from mskray.training.on_ray.readers import RayReaders
from mskray.training.on_ray.session import RaySession
from mskray.training.run import Resources, Run
from mskray.training.session import Halted

_WORK, _WEIGHTS = "work", "weights"
# Left to itself, glibc gives the memory of every large tensor back to the kernel and faults it in again: on the CPU
# nearly half the time of a step. A worker keeps it, in one arena, because Ray Train calls the loop from a thread. Ray's
# processes take a CPU away now and then: threads that spin until the other one is back lose less than those that sleep.
WORKER_ENVIRONMENT = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(1 << 32),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 32),
    "OMP_WAIT_POLICY": "ACTIVE",
}
# How often Ray Train looks at its workers, and how long one may be silent before it counts as lost: Ray's own ten
# minutes would be spent waiting for a worker that stands still, or whose node is cut off.
_HEALTH = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5", "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "25"}


class OnRay:
    """The driver of a cluster's training."""

    readers = RayReaders()

    def check(self, resources: Resources) -> None:
        cluster.require(_need(resources, resources.least), LOADER_CPUS)

    def keep(self, weights: dict[str, Tensor]) -> ray.ObjectRef:
        return ray.put(weights)

    @contextmanager
    def listening(self, run: Run, unit: str) -> Iterator[Say]:
        with listener(run, unit) as queue:
            yield Told(queue)

    def train(self, work: Assignment, weights: ray.ObjectRef, run: Run) -> list[dict[str, Any]]:
        return _train(work, weights, run)

    def close(self) -> None: ...


def _need(resources: Resources, workers: int) -> cluster.Need:
    return cluster.Need("training", workers, resources.cpus_per_worker, resources.gpus)


class _Trainer(TorchTrainer):
    """Stops at once at Ctrl-C; Ray's own handler stops in order, which takes some 15 s, and leaves the program.

    And it decides by our policy how many workers run.
    """

    _controller: Any = None
    policy: Any = None

    def _initialize_and_run_controller(self, **given: Any) -> Any:
        return super()._initialize_and_run_controller(  # type: ignore[misc]  # typed as its first version
            **{**given, "scaling_policy": self.policy}
        )

    def _register_sigint_handler(self, controller: Any) -> None:
        self._controller = controller

    def stop(self) -> None:
        """End the controller, and with it the workers."""
        if self._controller is not None:
            ray.kill(self._controller)


def _train(work: Assignment, weights: ray.ObjectRef, run: Run) -> list[dict[str, Any]]:
    """Train to the end; return the history."""
    resources = run.resources
    elastic = resources.least < resources.workers
    for name, value in _HEALTH.items():
        os.environ.setdefault(name, value)
    stored = Stored() if elastic else None
    workers: Any = (resources.least, resources.workers) if elastic else resources.workers
    scaling = ScalingConfig(
        num_workers=workers,
        use_gpu=resources.gpu,
        placement_strategy=resources.placement.upper(),
        resources_per_worker={
            "CPU": resources.cpus_per_worker,
            **({"GPU": resources.gpus} if resources.gpu else {}),
        },
    )
    loop: Any = partial(_worker, run=run.location.join(run.name), stored=stored, least=resources.least)
    trainer = _Trainer(
        loop,
        # References: the controller would load torch for the values.
        train_loop_config={_WORK: ray.put(work), _WEIGHTS: weights},
        torch_config=TorchBackend(
            backend="nccl" if resources.gpu else "gloo", timeout_s=int(GROUP_TIMEOUT.total_seconds())
        ),
        scaling_config=scaling,
        run_config=RunConfig(
            name=run.name,
            worker_runtime_env={"env_vars": WORKER_ENVIRONMENT},  # type: ignore[call-arg]  # typed as its first version
            storage_path=run.location.path,
            storage_filesystem=run.location.filesystem,
            callbacks=[TellsOfLosses(work.say, resources.max_failures)],  # type: ignore[list-item]  # as above
            failure_config=FailureConfig(
                max_failures=resources.max_failures,
                max_preemption_failures=resources.max_failures,  # type: ignore[call-arg]  # as above
            ),
        ),
    )
    trainer.policy = Workers(
        scaling, _need(resources, resources.workers), resources.least, LOADER_CPUS, stored, work.say
    )
    try:
        result: Any = trainer.fit()
    except KeyboardInterrupt:
        trainer.stop()
        raise
    except (RayError, ray.train.TrainingFailedError) as error:
        raise user_error_in(error) or _stopped(error) from error
    finally:
        if stored is not None:
            stored.close()
    if isinstance(result.return_value, UserError):
        raise result.return_value
    history: list[dict[str, Any]] = result.return_value
    return history


def _worker(
    config: dict[Any, Any], run: Location, stored: Stored | None, least: int
) -> list[dict[str, Any]] | UserError:
    """Train; return the history, or why the training ended. Raised, Ray would try it again with the same end."""
    work: Assignment = ray.get(config[_WORK])
    weights = ray.get(config[_WEIGHTS])
    session = RaySession(run, work.say, stored or (lambda: None), work.cpus)
    try:
        trainer = Trainer(work, weights, session)
        if least < work.lanes:
            goes_on = trainer.position.epoch or trainer.position.step
            text = f"training {'goes on' if goes_on else 'begins'} with {session.world} of {work.lanes} workers"
            session.say({"kind": "workers", "text": text})
        trainer.run()
    except Diverged as error:
        return UserError(str(error))
    except Halted as error:
        return Fault(str(error))
    return trainer.position.history


def _stopped(error: Exception) -> UserError:
    """What a training that Ray stopped is told as: a fault of the cluster, unless a worker raised something."""
    first = next(iter(getattr(error, "worker_failures", {}).values()), error)
    first = getattr(first, "cause", first)
    lines = str(first).strip().splitlines() or ["no reason given"]
    # Where Ray's own controller failed, the first line ends with a colon and the reason is the second.
    reason = " ".join(lines[:2] if lines[0].endswith(":") else lines[:1])
    ours = not isinstance(first, RayError | ray.train.TrainingFailedError)
    return stopped(UserError if ours else Fault, first, reason)
