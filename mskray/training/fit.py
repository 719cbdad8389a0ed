"""Fit a recipe: check what would fail or hang, start loading, have it trained, collect the best epoch or the last.

Where it is trained is a matter of the run: on Ray Train's workers, or in this process (`driver`).
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from safetensors.torch import load_file
from torch import Tensor

from mskray.cohorts import Cohort, Task
from mskray.cohorts.schema import MISSING
from mskray.errors import Fault, UserError
from mskray.progress import Progress
from mskray.scratch import scratch
from mskray.training.assignment import Assignment
from mskray.training.checkpoint import FILES, WEIGHTS
from mskray.training.driver import Driver, driver_of
from mskray.training.feed import Split, choose_cache, describe_split, hold
from mskray.training.recipe import Recipe, inverse_frequency
from mskray.training.run import Run, Trained
from mskray.training.samples import Samples
from mskray.training.shelf import Shelf

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
        UserError: before any worker starts, when a split or a class is missing or there is too little room;
            later when the training diverges, or workers failed more often than `resources.max_failures`.
    """
    resources, driver = run.resources, driver_of(run)
    driver.check(resources)
    if resources.compile != "off" and not recipe.compiles:
        raise UserError(
            f"resources.compile = {resources.compile}: not for the network of a {type(recipe).__name__}; set it to off"
        )
    if resources.compile == "graphs" and (
        recipe.config.optimizer.accumulate > 1 or resources.least < resources.workers
    ):
        raise UserError(
            "resources.compile = graphs keeps gradients where the next step's will lie: set it to on, or "
            "optimizer.accumulate to 1 and resources.min_workers to 0"
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
    weights = driver.keep(initial())
    steps, left = divmod(train.rows, step)
    rest = f", {left} left out in each" if left else ""
    epoch = f"{steps:,} × {step} {samples.unit}{rest}"
    of = f" of {run.prefix.removesuffix('/')}" if run.prefix else ""
    workers = f"{resources.workers} training worker{'s' * (resources.workers > 1)}"
    run.report(Progress(f"starting {workers}{of}, epochs of {epoch}"))
    try:
        held = _hold(driver, recipe, cohort, [train, validation], run)
        with driver.listening(run, samples.unit) as say:
            work = Assignment(
                recipe=recipe,
                train=train,
                validation=validation,
                train_shards=held[0],
                validation_shards=held[1],
                class_weights=_class_weights(tasks, labels) if weighted else None,
                say=say,
                held_back=run.held_back,
                part=run.part,
                cpus=None if run.shared is None else resources.cpus_per_worker,
                compile=resources.compile,
                lanes=resources.workers,
            )
            return _trained(driver, work, weights, _counts(recipe, tasks, labels), run)
    finally:
        driver.close()


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


def _hold(driver: Driver, recipe: Recipe, cohort: Cohort, splits: Sequence[Split], run: Run) -> list[tuple[Any, ...]]:
    """Start loading every shard now, while the workers start, if all of them fit in memory; in a search, once."""
    bytes_per_pixel = np.dtype(cohort.image.dtype).itemsize
    if choose_cache(recipe.config.data.cache, splits, bytes_per_pixel, driver.readers) == "stream":
        return [() for _ in splits]
    return [hold(driver.readers, split, cohort.content_hash, bytes_per_pixel, run.shared) for split in splits]


def _trained(driver: Driver, work: Assignment, weights: Any, labels: dict[str, int], run: Run) -> Trained:
    """Train and collect the best epoch or the last."""
    shelf = Shelf(run.location.join(run.name))
    last = run.part is not None or not run.held_back

    def tell(line: str) -> None:
        run.report(Progress(f"{run.prefix}{line}"))

    for _ in range(1 + _AGAIN):
        history = driver.train(work, weights, run)
        with scratch("checkpoint") as folder:
            found = shelf.newest(folder, tell) if last else shelf.best(folder, tell)
            if found is None or (last and found.epoch < len(history)):
                continue  # what is damaged is trained again
            if run.part is not None:
                for name in FILES:
                    run.part.leave.join(name).write_bytes((folder / name).read_bytes())
            return Trained(load_file(folder / WEIGHTS), history, history[found.epoch - 1], labels)
    raise Fault(f"no checkpoint at {run.location.join(run.name)} is whole: check the store, then run the command again")
