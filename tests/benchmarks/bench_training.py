"""Images a second of training, epoch by epoch: mobilenet_v2, resnet18, kalm and spinenet.

    python tests/benchmarks/bench_training.py

All subjects train the same network on the same rows with the family's own loss, augmentation, optimizer and schedule,
in a process of their own with all cores. What differs is who drives:

- ours: `mskray train`, from shards, in the command's own process and on Ray Train; what it waits for counts;
- a bare PyTorch loop on tensors in memory, with the allocator's settings that ours gives its workers: the limit;
- Lightning's Trainer with a DataLoader over tensors in memory, without its checkpoints, logs and progress bar.

`bench_torchrun.py` has two workers, and what it takes to start.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from measure import Case, Found, Reach, alternate, apart, last_json, main

OURS, ON_RAY, LIMIT, LIGHTNING = "mskray train", "mskray train on Ray", "bare loop", "Lightning"
_FIT = {"schedule": {"name": "one_cycle"}, "optimizer": {"name": "adamw", "learning_rate": 1e-4}}
_CLASSIFIER = {"family": "classifier", "data": {"image_size": 160, "batch_size": 32}, **_FIT}
JOBS: dict[str, tuple[str, dict[str, Any]]] = {
    "classifier, mobilenet_v2 at 160 px": (
        "small",
        {**_CLASSIFIER, "network": {"backbone": "mobilenet_v2", "weights": "none"}},
    ),
    "classifier, resnet18 at 160 px": (
        "small",
        {**_CLASSIFIER, "network": {"backbone": "resnet18", "weights": "none"}},
    ),
    "kalm, mobilenet_v2 at 256 and 128 px": (
        "large",
        {
            "family": "kalm",
            "network": {"backbone": "mobilenet_v2", "weights": "none", "size": 128},
            "data": {"image_size": 256, "batch_size": 16},
            "local": _FIT,
            **_FIT,
        },
    ),
    "spinenet of half the width at 112 px": (
        "discs",
        {
            "family": "spinenet",
            "network": {"width": 0.5},
            "data": {"image_size": 112, "batch_size": 32},
            "predict": {"augment": False},
            **_FIT,
        },
    ),
}
# Epochs of some 20 s: in one of 3 s the checkpoint alone takes a tenth, and real epochs are longer.
COHORTS = {
    "small": ("phantom", {"patients": 450, "image_size": 192}, {"size": 160}),
    "large": ("phantom", {"patients": 600, "image_size": 320}, {"size": 256}),
    "discs": ("phantom-discs", {"patients": 1200}, {"size": 160}),
}


def cases(options: argparse.Namespace) -> Iterator[Found]:
    with tempfile.TemporaryDirectory() as folder:
        apart(__file__, "prepare", folder=folder, share=0.15 if options.small else 1.0)
        for name, (cohort, settings) in JOBS.items():
            if options.only not in name:
                continue
            job = {**settings, "cohort": f"{folder}/{cohort}", "loop": {"epochs": 2, "checkpoint_minutes": 0}}
            if "local" in settings:
                job["local"] = {**settings["local"], "epochs": 2}
            yield case(name, job, Path(folder), options.rounds)


def case(name: str, job: dict[str, Any], folder: Path, rounds: int) -> Case:
    subjects: dict[str, Callable[[], float]] = {
        OURS: partial(trained, job, folder),
        ON_RAY: partial(trained, job, folder, RAY_ADDRESS="local"),
        LIMIT: partial(apart, __file__, "bare", env=worker_environment(), job=job),
        LIGHTNING: partial(apart, __file__, "lightning", job=job),
    }
    return Case(f"{name}, 2 epochs", "images/s", OURS, alternate(subjects, rounds), [Reach(LIMIT, 0.97)])


def worker_environment() -> dict[str, str]:
    """The allocator's and OpenMP's settings that ours gives its workers."""
    from mskray.training.on_ray.driver import WORKER_ENVIRONMENT

    return WORKER_ENVIRONMENT


def prepare(folder: str, share: float) -> None:
    import ray

    from mskray.cohorts.ingest import ingest

    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    for name, (source, choices, settings) in COHORTS.items():
        some = {**choices, "patients": max(40, int(choices["patients"] * share))}
        fractions = {"split_fractions": [0.9, 0.05, 0.05]}
        ingest(source, None, f"{folder}/{name}", some, {**settings, **fractions}, key=b"a key for the benchmark")
    ray.shutdown()


def trained(job: dict[str, Any], folder: Path, **env: str) -> float:
    """Train by the command; the rate over all epochs of all its trainings."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        file = Path(place) / "job.json"
        file.write_text(json.dumps({**job, "out": f"{place}/bundle"}))
        last_json([sys.executable, __file__, "--apart", "ours", json.dumps({"file": str(file)})], 3600.0, env)
        from mskray.bundles import read_description
        from mskray.storage import locate

        history = read_description(locate(f"{place}/bundle")).history
    return _over_all([value for entry in history for key, value in entry.items() if key.endswith("images_per_s")])


def ours(file: str) -> int:
    from mskray.cli import main as command

    try:
        command(["train", file])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


Drive = Callable[[Any, Any, dict[str, Any]], list[float]]
"""Trains a recipe's network on arrays in memory; returns the images/s of each epoch."""


def bare(job: dict[str, Any]) -> float:
    return _driven(job, _bare_loop)


def lightning(job: dict[str, Any]) -> float:
    return _driven(job, _lightning_loop)


def _driven(job: dict[str, Any], drive: Drive) -> float:
    """Fit a family with another loop in the place of ours."""
    import torch

    from mskray.cohorts import open_cohort
    from mskray.storage import locate
    from mskray.training.run import Resources, Run, Trained
    from mskray.verbs.train import parse_job

    rates: list[float] = []

    def fit(recipe: Any, samples: Any, initial: Any, cohort: Any, run: Run) -> Trained:
        torch.manual_seed(0)
        network = recipe.build()
        network.load_state_dict(initial())
        network.to(memory_format=torch.channels_last)
        rates.extend(drive(recipe, network, _arrays(cohort, samples, recipe)))
        names = tuple(name for task in recipe.tasks or (run.task,) for name in task.classes)
        return Trained(network.state_dict(), [{}], {}, dict.fromkeys(names, 1))

    _, family, config = parse_job({**job, "out": "unused"}, "benchmark")
    sys.modules[type(family).__module__].fit = fit  # type: ignore[attr-defined]
    cohort = open_cohort(job["cohort"])
    run = Run(locate(tempfile.gettempdir()), "benchmark", family.task(cohort, ""), Resources(), local=True)
    family.fit(cohort, config, run)
    return _over_all(rates)


def _arrays(cohort: Any, samples: Any, recipe: Any) -> dict[str, Any]:
    import numpy as np

    from mskray.training.feed import describe_split

    split, _ = describe_split(cohort, "train", samples, recipe.config.data.input_format)
    parts = [split.load(shard) for shard in range(len(split.counts))]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _steps(recipe: Any, arrays: dict[str, Any]) -> int:
    return len(arrays["image"]) // recipe.config.data.batch_size


def _optimizer(recipe: Any, network: Any, updates: int) -> tuple[Any, Any]:
    from mskray.training.schedules import Schedule, make_optimizer

    optimizer = make_optimizer(network.parameters(), recipe.config.optimizer)
    return optimizer, Schedule(
        optimizer, recipe.config.schedule, recipe.config.optimizer.learning_rate, updates, higher_is_better=True
    )


def _bare_loop(recipe: Any, network: Any, arrays: dict[str, Any]) -> list[float]:
    import torch

    from mskray.training.recipe import to_batch

    epochs, steps, size = recipe.config.loop.epochs, _steps(recipe, arrays), recipe.config.data.batch_size
    optimizer, schedule = _optimizer(recipe, network, epochs * steps)
    found = []
    for epoch in range(epochs):
        recipe.set_training(network, epoch)
        started = time.perf_counter()
        order = torch.randperm(len(arrays["image"])).numpy()
        for step in range(steps):
            rows = order[step * size : (step + 1) * size]
            batch = recipe.augment(to_batch({name: each[rows] for name, each in arrays.items()}, torch.device("cpu")))
            loss = recipe.loss(network, batch, None)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            schedule.after_update()
        found.append(steps * size / (time.perf_counter() - started))
    return found


def _lightning_loop(recipe: Any, network: Any, arrays: dict[str, Any]) -> list[float]:
    import logging
    import warnings

    import torch
    from lightning import Callback, LightningModule, Trainer
    from torch.utils.data import DataLoader, TensorDataset

    from mskray.training.recipe import to_unit_range

    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    epochs, steps, size = recipe.config.loop.epochs, _steps(recipe, arrays), recipe.config.data.batch_size
    optimizer, schedule = _optimizer(recipe, network, epochs * steps)
    names = list(arrays)
    found: list[float] = []

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def training_step(self, batch: Any, number: int) -> Any:
            named = dict(zip(names, batch, strict=True))
            named["image"] = to_unit_range(named["image"].numpy(), torch.device("cpu"))
            return recipe.loss(self.network, recipe.augment(named), None)

        def on_train_batch_end(self, *_: Any) -> None:
            schedule.after_update()

        def configure_optimizers(self) -> Any:
            return optimizer

    class Clock(Callback):
        def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
            recipe.set_training(network, trainer.current_epoch)
            self.started = time.perf_counter()

        def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
            found.append(steps * size / (time.perf_counter() - self.started))

    data = TensorDataset(*(torch.from_numpy(each) for each in arrays.values()))
    Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Clock()],
    ).fit(Module(), DataLoader(data, size, shuffle=True, drop_last=True))
    return found


def _over_all(rates: list[float]) -> float:
    """Images/s over epochs of equal length: the harmonic mean."""
    return len(rates) / sum(1 / each for each in rates)


if __name__ == "__main__":
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    main(cases, prepare, ours, bare, lightning)
