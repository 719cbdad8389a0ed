"""Evidence hotspots: where in each slice of a volume a network sees reasons for a grade (SpineNet, section 3).

    maps = hotspots(network, volumes, "upper_marrow", shape=(9, 112, 224))           # (n, 9, 112, 224)
    peer = hotspots(network, volumes, "upper_marrow", shape=(9, 112, 224), copies=ONE)
    both = task_hotspots(network, volumes, {"upper_marrow": None, "lower_marrow": None}, shape=(9, 112, 224))
    with guided_gates(network):                                                      # an option, not the paper's
        maps = hotspots(network, volumes, "upper_marrow", shape=(9, 112, 224))

Of each slice z the map is M_z = |∂y/∂x_z|, y the class's score before softmax, averaged over randomly augmented copies
that are mapped back by the inverse transform. A voxel's mean is over the copies that show it: the sum is divided by a
coverage mask. One copy, the volume as it is, is the saliency of Simonyan et al. 2013, kept apart by slice.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from mskray.errors import UserError, did_you_mean
from mskray.explain.scores import score_of
from mskray.models.sampling import warp
from mskray.training.disc_views import DiscAugment, Shape, Views, look, matrices, random_views, windows

Network = Callable[[Tensor], Mapping[str, Tensor]]
"""Volumes (n, slices, rows, columns) → logits (n, classes) of each task; in evaluation mode."""
Targets = Mapping[str, Tensor | None]
"""Task → the class (n,) to explain, None for the one that the network gives each volume as it is."""


@dataclass(frozen=True)
class Copies:
    """Which copies a map is averaged over: the volume as it is, and random ones around it.

    Args:
        number: copies in all, 1 or more.
        augment: how the others differ in place, size, slices and brightness; by default as SpineNet's training
            augmentation, which its section 3 takes ("aggressive augmentations is key to producing better localized
            hotspots").
        seed: of the random draws, which are the same for every volume.
    """

    number: int = 64
    augment: DiscAugment = field(default_factory=DiscAugment)
    seed: int = 0


PAPER = Copies()
ONE = Copies(number=1)
"""No copies but the volume itself: Simonyan's saliency."""


@dataclass(frozen=True)
class _Plan:
    """k copies: how each is cut out of the canvas, how much brighter it is, and where it shows the input.

    brightness: (k,). back: (k, 2, 3) matrices from the input's coordinates to the copy's.
    """

    views: Views
    brightness: Tensor
    back: Tensor

    def part(self, start: int, end: int) -> "_Plan":
        views = Views(self.views.matrix[start:end], self.views.slices[start:end])
        return _Plan(views, self.brightness[start:end], self.back[start:end])


def hotspots(
    network: Network,
    images: Tensor,
    task: str,
    target: Tensor | None = None,
    *,
    shape: Shape | None = None,
    copies: Copies = PAPER,
    batch: int = 64,
) -> Tensor:
    """Return the evidence for a class of a task, (n, slices, rows, columns) float32, 0 or more.

    Args:
        network: any callable on volumes of `shape` that gives each task's logits.
        images: (n, slices, rows, columns) in [0, 1] of the canvas, whose middle is the input; what a copy shows beside
            the middle comes from the canvas, zeros beyond it.
        target: (n,) class indices, or None for the class that the network gives each volume as it is.
        shape: slices, rows and columns of the network's input and of the maps; those of `images` when None.
        batch: copies that go through the network at once.
    Raises:
        UserError: the network has no such task, or the canvas is smaller than the input.
    """
    return task_hotspots(network, images, {task: target}, shape=shape, copies=copies, batch=batch)[task]


def task_hotspots(
    network: Network,
    images: Tensor,
    targets: Targets,
    *,
    shape: Shape | None = None,
    copies: Copies = PAPER,
    batch: int = 64,
) -> dict[str, Tensor]:
    """As `hotspots`, of several tasks: copies are made, mapped through the network and covered once for all of them.

    Returns:
        Task → its maps (n, slices, rows, columns).
    """
    slices, rows, columns = size = _size(images, shape, copies)
    # What comes from inference mode cannot have a gradient, and in fp16 a voxel's gradient would be zero.
    exact = torch.autocast(images.device.type, enabled=False)
    with torch.inference_mode(False), torch.enable_grad(), exact:
        canvas = images.detach().to(torch.promote_types(images.dtype, torch.float32), copy=True)
        plan = _drawn(copies, canvas, size)
        chosen = _chosen(network, canvas, plan, size, targets, batch)
        totals = {task: canvas.new_zeros((len(canvas), canvas.shape[1], rows, columns)) for task in targets}
        coverage = canvas.new_zeros((1, canvas.shape[1], rows, columns))
        at_once = max(1, batch // max(1, len(canvas)))
        for start in range(0, copies.number, at_once):
            some = plan.part(start, start + at_once)
            seen = some.views.slices.flatten()
            ones = canvas.new_ones((len(some.back), 1, rows, columns))
            shown = warp(ones, some.back, rows, columns, "zeros").repeat_interleave(slices, dim=0)
            coverage.index_add_(1, seen, shown.transpose(0, 1))
            for first in range(0, len(canvas), batch):
                part = slice(first, first + batch)
                asked = {task: target[part] for task, target in chosen.items()}
                for task, maps in _mapped_back(network, canvas[part], some, size, asked):
                    totals[task][part].index_add_(1, seen, maps)
    first = (canvas.shape[1] - slices) // 2
    return {task: (total / coverage.clamp(min=1e-6))[:, first : first + slices] for task, total in totals.items()}


def blurred(maps: Tensor, sigma: float) -> Tensor:
    """Smooth each slice of maps (n, slices, rows, columns) by a Gaussian of `sigma` px: an option, not the paper's."""
    if sigma <= 0:
        return maps
    reach = math.ceil(3 * sigma)
    steps = torch.arange(-reach, reach + 1, device=maps.device, dtype=maps.dtype)
    weights = torch.exp(-(steps**2) / (2 * sigma**2))
    weights = weights / weights.sum()
    flat = maps.flatten(0, 1).unsqueeze(1)
    for kernel in (weights.view(1, 1, -1, 1), weights.view(1, 1, 1, -1)):
        flat = F.conv2d(flat, kernel, padding=(kernel.shape[2] // 2, kernel.shape[3] // 2))
    return flat.view_as(maps)


def _size(images: Tensor, shape: Shape | None, copies: Copies) -> Shape:
    """Slices, rows and columns of the input. Raises UserError."""
    if copies.number < 1:
        raise UserError(f"{copies.number} copies for hotspots: give at least 1, the volume itself")
    canvas = tuple(images.shape[1:])
    size = canvas if shape is None else shape
    if len(canvas) != 3 or any(have < want for have, want in zip(canvas, size, strict=True)):
        raise UserError(f"hotspots of a network for volumes of {shape} need a canvas of at least that, got {canvas}")
    return size[0], size[1], size[2]


def _drawn(copies: Copies, canvas: Tensor, shape: Shape) -> _Plan:
    """Draw the copies; the first is the volume as it is, so that every voxel is covered."""
    device = canvas.device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(copies.seed)
        views = random_views(canvas[:1].expand(copies.number, -1, -1, -1), shape, copies.augment)
        brightness = (torch.rand(copies.number, device=device) * 2 - 1) * copies.augment.brightness
    brightness[0] = 0
    straight = matrices(torch.eye(2, device=device)[None], torch.zeros(1, 2, device=device), canvas.shape, shape)
    still = torch.zeros(1, dtype=torch.long, device=device)
    middle = windows(still, still.bool(), canvas.shape[1], shape[0])
    there, slices = torch.cat([straight, views.matrix[1:]]), torch.cat([middle, views.slices[1:]])
    # From the input to the canvas, and from there to the copy.
    back = torch.linalg.inv(_square(there)) @ _square(straight)
    return _Plan(Views(there, slices), brightness, back[:, :2])


def _square(matrix: Tensor) -> Tensor:
    return torch.cat([matrix, matrix.new_tensor([[[0.0, 0.0, 1.0]]]).expand(len(matrix), 1, 3)], dim=1)


def _copied(canvas: Tensor, plan: _Plan, shape: Shape) -> Tensor:
    """The copies (n · k, slices, rows, columns) of n volumes, a volume's side by side."""
    count, number = len(canvas), len(plan.back)
    views = Views(plan.views.matrix.repeat(count, 1, 1), plan.views.slices.repeat(count, 1))
    found = look(canvas.repeat_interleave(number, dim=0), views, shape)
    return (found + plan.brightness.repeat(count)[:, None, None, None]).clamp(0, 1)


def _chosen(
    network: Network, canvas: Tensor, plan: _Plan, shape: Shape, targets: Targets, batch: int
) -> dict[str, Tensor]:
    """The class (n,) of each task that is explained; where none is given, what the network calls each volume."""
    open_ones = [task for task, target in targets.items() if target is None]
    called: dict[str, list[Tensor]] = {task: [] for task in open_ones}
    if open_ones:
        with torch.no_grad():
            for part in canvas.split(batch):
                answers = network(_copied(part, plan.part(0, 1), shape))
                for task in open_ones:
                    called[task].append(_logits(answers, task).argmax(dim=1))
    return {
        task: (torch.cat(called[task]) if target is None else target.clone()).to(canvas.device)
        for task, target in targets.items()
    }


def _mapped_back(
    network: Network, canvas: Tensor, plan: _Plan, shape: Shape, targets: Mapping[str, Tensor]
) -> Iterator[tuple[str, Tensor]]:
    """Each task's |∂y/∂x| of every copy where the volume as it is has it: (n, k · slices, rows, columns)."""
    voxels = _copied(canvas, plan, shape).requires_grad_()
    answers = network(voxels)
    last = list(targets)[-1]
    for task, target in targets.items():
        score = score_of(_logits(answers, task), target.repeat_interleave(len(plan.back)))
        # A copy's score depends on its own voxels alone, so one backward pass serves the batch.
        (slope,) = torch.autograd.grad(score.sum(), voxels, retain_graph=task != last)
        placed = warp(slope.abs(), plan.back.repeat(len(canvas), 1, 1), shape[1], shape[2], "zeros")
        yield task, placed.view(len(canvas), -1, *shape[1:])


def _logits(answers: Mapping[str, Tensor], task: str) -> Tensor:
    if task not in answers:
        raise UserError(
            f"no hotspots of task {task!r}: {did_you_mean(task, list(answers))}the model knows {', '.join(answers)}"
        )
    return answers[task]
