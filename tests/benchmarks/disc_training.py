"""A SpineNet trained in this process on phantom discs, for the benchmarks: no Ray, no cohort."""

import argparse
import time
from collections.abc import Mapping

import numpy as np
import torch
from phantom_discs import SLICES, TASKS, Discs, input_shape
from torch import Tensor, nn

from mskray.cohorts.schema import ImageFormat
from mskray.evaluation.grading import average_per_class_accuracy
from mskray.families.spinenet import SpineNetRecipe
from mskray.families.spinenet_config import SpineNetConfig
from mskray.training.disc_samples import stack_input
from mskray.training.recipe import inverse_frequency


def trained(
    discs: Discs, columns: int, tasks: Mapping[str, float], branch: str, width: float, options: argparse.Namespace
) -> tuple[SpineNetRecipe, nn.Module]:
    """Train a SpineNet in this process: the family's own augmentation and loss, a plain loop, AdamW and one cycle.

    Args:
        tasks: names of those to learn, with their weights in the loss.
        options: epochs, rate, batch, seed, device.
    Returns:
        The recipe and the network in evaluation mode.
    """
    torch.manual_seed(options.seed)
    chosen = [place for place, task in enumerate(TASKS) if task.name in tasks]
    config = SpineNetConfig.model_validate(
        {
            "network": {"branch": branch, "width": width},
            "data": {"image_size": columns},
            "tasks": {"weights": tasks},
            "loop": {"seed": options.seed},
        }
    )
    stored = ImageFormat(size=discs.images.shape[3], dtype="uint8", fit="pad", slices=15, rows=discs.images.shape[2])
    given = stack_input(stored, columns, SLICES)
    assert given.shape == input_shape(columns), "the truth lies elsewhere"
    recipe = SpineNetRecipe(config, given, tuple(TASKS[place] for place in chosen))
    labels = discs.labels[:, chosen]
    weights = [
        inverse_frequency(each[each >= 0], len(TASKS[place].classes))
        for place, each in zip(chosen, labels.T, strict=True)
    ]
    balance = torch.tensor(np.concatenate(weights), dtype=torch.float32, device=options.device)
    network = recipe.build().to(options.device, memory_format=torch.channels_last).train()
    network.mean.fill_(float(discs.images[:: max(1, len(labels) // 200)].mean() / 255))
    optimizer = torch.optim.AdamW(network.parameters(), options.rate, weight_decay=1e-4, fused=True)
    steps = max(1, len(labels) // options.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.rate, total_steps=options.epochs * steps)
    rng = np.random.default_rng(options.seed)
    half = torch.autocast(torch.device(options.device).type, torch.bfloat16, enabled=options.device != "cpu")
    for epoch in range(options.epochs):
        total, began = 0.0, time.monotonic()
        for rows in np.array_split(rng.permutation(len(labels))[: steps * options.batch], steps):
            rows.sort()  # neighbours on disk are read together
            batch = {"image": to_input(discs.images[rows], options.device), "label": torch.from_numpy(labels[rows])}
            batch = recipe.augment({name: each.to(options.device) for name, each in batch.items()})
            with half:
                loss = recipe.loss(network, batch, balance)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"{branch} {epoch + 1}: loss {total / steps:.3f}, {time.monotonic() - began:.0f} s", flush=True)
    return recipe, network.eval()


@torch.inference_mode()
def accuracies(
    discs: Discs, recipe: SpineNetRecipe, network: nn.Module, options: argparse.Namespace
) -> dict[str, float]:
    """Average per-class accuracy of each task, from the middle of each disc's context alone."""
    said: dict[str, list[np.ndarray]] = {task.name: [] for task in recipe.tasks}
    for start in range(0, len(discs.labels), options.batch):
        images = to_input(discs.images[start : start + options.batch], options.device)
        for name, each in recipe.answer(network, {"image": images}).parts.items():
            said[name].append(each.argmax(dim=1).cpu().numpy())
    places = {task.name: place for place, task in enumerate(TASKS)}
    found = {}
    for task in recipe.tasks:
        truth = discs.labels[:, places[task.name]]
        found[task.name] = average_per_class_accuracy(truth, np.concatenate(said[task.name]), len(task.classes))
    return {name: value for name, value in found.items() if value is not None}


def to_input(images: np.ndarray, device: str) -> Tensor:
    """Contexts (n, slices, rows, columns) in [0, 1] of stored ones."""
    return torch.from_numpy(np.ascontiguousarray(images)).to(device).float() / 255


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of a training, the same in every benchmark."""
    parser.add_argument("--columns", type=int, default=224, help="of the network's input; 128 is cheap")
    parser.add_argument("--patients", type=int, default=1600, help="of the training")
    parser.add_argument("--held-out", type=int, default=200, help="patients that are measured")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=3e-4, help="peak learning rate")
    parser.add_argument("--width", type=float, default=1.0, help="share of VGG-M's channels")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--workers", type=int, default=2, help="processes that render")
    parser.add_argument("--folder", default="/tmp/phantom-discs", help="where rendered discs are kept")
