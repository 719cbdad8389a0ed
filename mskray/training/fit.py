"""Fit a recipe on Ray Train: check what would fail or hang, start loading, train, collect the best epoch or last."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.train
from ray.exceptions import RayError
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig as TorchBackend
from ray.train.torch import TorchTrainer
from safetensors.torch import load_file
from torch import Tensor

from mskray import cluster
from mskray.cohorts import Cohort, Task
from mskray.cohorts.schema import MISSING
from mskray.errors import Fault, UserError, user_error_in
from mskray.progress import Progress
from mskray.training.checkpoint import FILES, WEIGHTS, read_history
from mskray.training.feed import LOADER_CPUS, Split, choose_cache, describe_split, hold
from mskray.training.loop import Assignment, Diverged, Trainer
from mskray.training.news import Say, listener
from mskray.training.recipe import Recipe, inverse_frequency
from mskray.training.run import Run, Trained
from mskray.training.samples import Samples
from mskray.training.session import SCORE, Session
from mskray.training.snapshot import mend_snapshot
from mskray.training.stored import TellsWhatIsStored

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
# Each poll takes one report of a worker; at Ray's 2 s short epochs queue up, and a stop loses what is queued.
_POLLING = ("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")


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
    cluster.require(
        cluster.Need("training", resources.workers, resources.cpus_per_worker, resources.gpus),
        LOADER_CPUS,
    )
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
        )
        result = _train(work, run)
    return _collect(result, _counts(recipe, tasks, labels), run)


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
    """Stops at once at Ctrl-C; Ray's own handler stops in order, which takes some 15 s, and leaves the program."""

    _controller: Any = None

    def _register_sigint_handler(self, controller: Any) -> None:
        self._controller = controller

    def stop(self) -> None:
        """End the controller, and with it the workers."""
        if self._controller is not None:
            ray.kill(self._controller)


def _train(work: Assignment, run: Run) -> Any:
    resources = run.resources
    mend_snapshot(run.location.join(run.name))
    os.environ.setdefault(*_POLLING)
    trainer = _Trainer(
        _worker,
        train_loop_config={_WORK: ray.put(work)},  # a reference: the controller would load torch for the value
        torch_config=TorchBackend(backend="nccl" if resources.gpu else "gloo", timeout_s=600),
        scaling_config=ScalingConfig(
            num_workers=resources.workers,
            use_gpu=resources.gpu,
            placement_strategy=resources.placement.upper(),
            resources_per_worker={
                "CPU": resources.cpus_per_worker,
                **({"GPU": resources.gpus} if resources.gpu else {}),
            },
        ),
        run_config=RunConfig(
            name=run.name,
            worker_runtime_env={"env_vars": _WORKER_ENVIRONMENT},  # type: ignore[call-arg]  # typed as its first version
            storage_path=run.location.path,
            storage_filesystem=run.location.filesystem,
            callbacks=[TellsWhatIsStored(work.say)],  # type: ignore[list-item]  # typed as its first version
            failure_config=FailureConfig(max_failures=resources.max_failures),
            checkpoint_config=CheckpointConfig(
                num_to_keep=1, checkpoint_score_attribute=SCORE, checkpoint_score_order="max"
            ),
        ),
    )
    try:
        result: Any = trainer.fit()
    except KeyboardInterrupt:
        trainer.stop()
        raise
    except (RayError, ray.train.TrainingFailedError) as error:
        raise user_error_in(error) or _stopped(error) from error
    if result.return_value is not None:
        raise UserError(result.return_value)
    return result


def _worker(config: dict[Any, Any]) -> Any:
    """Train; return why the training diverged, or None. Raised, Ray would try it again with the same end."""
    work: Assignment = ray.get(config[_WORK])
    weights = ray.get(work.initial_weights)
    try:
        Trainer(work, weights, Session(work.say, work.cpus)).run()
    except Diverged as error:
        return str(error)
    return None


def _collect(result: Any, labels: dict[str, int], run: Run) -> Trained:
    last = run.part is not None or not run.held_back
    chosen = result.checkpoint if last else result.get_best_checkpoint(SCORE, "max")
    with chosen.as_directory() as folder:
        state, best = load_file(Path(folder) / WEIGHTS), read_history(Path(folder))[-1]
    with result.checkpoint.as_directory() as folder:
        history = read_history(Path(folder))
        if run.part is not None:
            for name in FILES:
                run.part.leave.join(name).write_bytes((Path(folder) / name).read_bytes())
    return Trained(state, history, best, labels)


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
