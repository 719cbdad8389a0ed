"""Fit a recipe on Ray Train: check what would fail or hang, start loading, train, collect the best epoch or last."""

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import ray
import ray.train
from ray.exceptions import RayError
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig as TorchBackend
from ray.train.torch import TorchTrainer
from safetensors.torch import load_file
from torch import Tensor

from mskray import cluster
from mskray.cohorts import Cohort, Task
from mskray.cohorts.schema import MISSING
from mskray.errors import Fault, UserError, user_error_in
from mskray.progress import Progress
from mskray.scratch import scratch
from mskray.storage import Location
from mskray.training.checkpoint import FILES, WEIGHTS
from mskray.training.controller import Stored, TellsOfLosses, Workers
from mskray.training.feed import LOADER_CPUS, Split, choose_cache, describe_split, hold
from mskray.training.group import GROUP_TIMEOUT
from mskray.training.loop import Assignment, Diverged, Trainer
from mskray.training.news import Say, listener
from mskray.training.recipe import Recipe, inverse_frequency
from mskray.training.run import Resources, Run, Trained
from mskray.training.samples import Samples
from mskray.training.session import Halted, Session
from mskray.training.shelf import Shelf

_WORK = "work"
# Left to itself, glibc gives the memory of every large tensor back to the kernel and faults it in again: on the CPU
# nearly half the time of a step. A worker keeps it, in one arena, because Ray Train calls the loop from a thread. Ray's
# processes take a CPU away now and then: threads that spin until the other one is back lose less than those that sleep.
_WORKER_ENVIRONMENT = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(1 << 32),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 32),
    "OMP_WAIT_POLICY": "ACTIVE",
}
# How often Ray Train looks at its workers, and how long one may be silent before it counts as lost: Ray's own ten
# minutes would be spent waiting for a worker that stands still, or whose node is cut off.
_HEALTH = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5", "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "25"}
_AGAIN = 2
"""Times that the last epoch is trained again where its checkpoint turns out to be damaged."""


def fit(
    recipe: Recipe, samples: Samples, initial: Callable[[], dict[str, Tensor]], cohort: Cohort, run: Run
) -> Trained:
    """Fit `recipe` on samples of the cohort's `train` split, the epoch chosen on its `validation` split.

    Where nothing is held back (`run.held_back`), the last epoch is the result.

    Args:
        samples: how the cohort's rows become samples.
        initial: returns the network's whole initial state, or raises UserError.
    Raises:
        UserError: before any worker starts, when a split or a class is missing or the cluster is too small;
            later when the training diverges, or workers failed more often than `resources.max_failures`.
    """
    resources = run.resources
    cluster.require(_need(resources, resources.least), LOADER_CPUS)
    tasks = recipe.tasks or (run.task,)
    train, labels = _checked_split(cohort, "train", tasks, samples, recipe)
    validation, _ = _checked_split(cohort, "validation", tasks, samples, recipe)
    step = recipe.config.data.batch_size * resources.workers
    if train.rows < step:
        raise UserError(
            f"the training split has {train.rows} labelled samples, fewer than one step of {resources.workers} "
            f"worker(s) × {recipe.config.data.batch_size}: lower data.batch_size or resources.workers"
        )
    weighted = recipe.config.loop.class_weights == "inverse_frequency"
    initial_weights = ray.put(initial())
    steps, left = divmod(train.rows, step)
    rest = f", {left} left out in each" if left else ""
    epoch = f"{steps:,} × {step} {samples.unit}{rest}"
    of = f" of {run.prefix.removesuffix('/')}" if run.prefix else ""
    workers = f"{resources.workers} training worker{'s' * (resources.workers > 1)}"
    run.report(Progress(f"starting {workers}{of}, epochs of {epoch}"))
    held = _hold(recipe, cohort, [train, validation], run)
    with listener(run, samples.unit) as queue:
        work = Assignment(
            recipe=recipe,
            train=train,
            validation=validation,
            train_shards=held[0],
            validation_shards=held[1],
            class_weights=_class_weights(tasks, labels) if weighted else None,
            initial_weights=initial_weights,
            say=Say(queue),
            held_back=run.held_back,
            part=run.part,
            cpus=None if run.shared is None else resources.cpus_per_worker,
            lanes=resources.workers,
        )
        return _trained(work, _counts(recipe, tasks, labels), run)


def _need(resources: Resources, workers: int) -> cluster.Need:
    return cluster.Need("training", workers, resources.cpus_per_worker, resources.gpus)


def _checked_split(
    cohort: Cohort, name: str, tasks: tuple[Task, ...], samples: Samples, recipe: Recipe
) -> tuple[Split, list[np.ndarray]]:
    """Return the split and, for each task, the labels of the samples that have one."""
    split, found = describe_split(cohort, name, samples, recipe.config.data.input_format)
    labels = [column[column != MISSING] for column in found.reshape(len(found), len(tasks)).T]
    for task, known in zip(tasks, labels, strict=True):
        present = np.unique(known)
        if len(present) < 2:
            raise UserError(
                f"cohort {cohort.location}, split {name}: task {task.name} needs samples of at least two classes of "
                f"{', '.join(task.classes)}; it has {len(known)} of {len(present)}"
            )
    return split, labels


def _class_weights(tasks: tuple[Task, ...], labels: list[np.ndarray]) -> tuple[float, ...]:
    """Return the weights of each task's classes, task after task."""
    weights = (inverse_frequency(known, len(task.classes)) for task, known in zip(tasks, labels, strict=True))
    return tuple(weight for each in weights for weight in each)


def _counts(recipe: Recipe, tasks: tuple[Task, ...], labels: list[np.ndarray]) -> dict[str, int]:
    """Return the training samples of each class, of several tasks by "<task>/<class>"."""
    counts = {}
    for task, known in zip(tasks, labels, strict=True):
        prefix = f"{task.name}/" if recipe.tasks else ""
        for name, count in zip(task.classes, np.bincount(known, minlength=len(task.classes)).tolist(), strict=True):
            counts[prefix + name] = count
    return counts


def _hold(recipe: Recipe, cohort: Cohort, splits: Sequence[Split], run: Run) -> list[tuple[Any, ...]]:
    """Start loading every shard now, while the workers start, if all of them fit in memory; in a search, once."""
    bytes_per_pixel = np.dtype(cohort.image.dtype).itemsize
    if choose_cache(recipe.config.data.cache, splits, bytes_per_pixel) == "stream":
        return [() for _ in splits]
    return [hold(split, cohort.content_hash, bytes_per_pixel, run.shared) for split in splits]


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


def _train(work: Assignment, run: Run) -> list[dict[str, Any]]:
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
        train_loop_config={_WORK: ray.put(work)},  # a reference: the controller would load torch for the value
        torch_config=TorchBackend(
            backend="nccl" if resources.gpu else "gloo", timeout_s=int(GROUP_TIMEOUT.total_seconds())
        ),
        scaling_config=scaling,
        run_config=RunConfig(
            name=run.name,
            worker_runtime_env={"env_vars": _WORKER_ENVIRONMENT},  # type: ignore[call-arg]  # typed as its first version
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
    weights = ray.get(work.initial_weights)
    session = Session(run, work.say, stored or (lambda: None), work.cpus)
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


def _trained(work: Assignment, labels: dict[str, int], run: Run) -> Trained:
    """Train and collect the best epoch or the last."""
    shelf = Shelf(run.location.join(run.name))
    last = run.part is not None or not run.held_back

    def tell(line: str) -> None:
        run.report(Progress(f"{run.prefix}{line}"))

    for _ in range(1 + _AGAIN):
        history = _train(work, run)
        with scratch("checkpoint") as folder:
            found = shelf.newest(folder, tell) if last else shelf.best(folder, tell)
            if found is None or (last and found.epoch < len(history)):
                continue  # what is damaged is trained again
            if run.part is not None:
                for name in FILES:
                    run.part.leave.join(name).write_bytes((folder / name).read_bytes())
            return Trained(load_file(folder / WEIGHTS), history, history[found.epoch - 1], labels)
    raise Fault(f"no checkpoint at {run.location.join(run.name)} is whole: check the store, then run the command again")


def _stopped(error: Exception) -> UserError:
    """What a training that Ray stopped is told as: a fault of the cluster, unless a worker raised something."""
    first = next(iter(getattr(error, "worker_failures", {}).values()), error)
    first = getattr(first, "cause", first)
    lines = str(first).strip().splitlines() or ["no reason given"]
    # Where Ray's own controller failed, the first line ends with a colon and the reason is the second.
    reason = " ".join(lines[:2] if lines[0].endswith(":") else lines[:1])[:300]
    ours = not isinstance(first, RayError | ray.train.TrainingFailedError)
    return (UserError if ours else Fault)(
        f"training stopped ({type(first).__name__}: {reason}): the same command goes on from the last checkpoint"
    )
