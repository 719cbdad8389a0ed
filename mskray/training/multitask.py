"""Several tasks learned at once: their loss, in which missing labels say nothing, and how they are judged.

Labels are (n, tasks), -1 where one is missing. What belongs to a class stands task by task: the classes of the first
task, then those of the second (`spans`).
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mskray.cohorts import Task
from mskray.cohorts.schema import MISSING
from mskray.training.validation import validation_metrics


def spans(tasks: Sequence[Task]) -> list[slice]:
    """Where each task's classes stand among those of all tasks."""
    ends = np.cumsum([0, *(len(task.classes) for task in tasks)]).tolist()
    return [slice(start, end) for start, end in pairwise(ends)]


def multitask_loss(
    logits: Sequence[Tensor],
    labels: Tensor,
    task_weights: Sequence[float],
    class_weights: Sequence[Tensor | None],
    label_smoothing: float = 0.0,
) -> Tensor:
    """SpineNet's loss (section 2): Σ_t ω_t L_t, L_t the cross-entropy in which a sample of class c counts α_c.

    L_t is the mean over the samples that have a label of the task. Without any it is zero and has no gradient; the
    parameters are part of the graph all the same, which training on several workers asks for.

    Args:
        logits: (n, classes) of each task.
        labels: (n, tasks) int64.
        task_weights: ω of each task.
        class_weights: α (classes,) of each task, None for 1.
    """
    total = labels.new_zeros((), dtype=torch.float32)
    for task, (each, weight, balance) in enumerate(zip(logits, task_weights, class_weights, strict=True)):
        truth = labels[:, task]
        summed = F.cross_entropy(
            each.float(), truth, balance, ignore_index=MISSING, reduction="sum", label_smoothing=label_smoothing
        )
        total = total + weight * summed / (truth != MISSING).sum().clamp(min=1)
    return total


def multitask_metrics(probabilities: np.ndarray, labels: np.ndarray, tasks: Sequence[Task]) -> dict[str, float]:
    """Figures of a validation split: the mean over tasks of each, and each task's average per-class accuracy.

    Args:
        probabilities: (n, all classes); labels: (n, tasks), of which every task has at least two classes.
    Returns:
        `val_<metric>` as `validation_metrics` names them, and `val_<task>_balanced_accuracy`.
    """
    single: dict[str, Mapping[str, float]] = {}
    for place, (task, span) in enumerate(zip(tasks, spans(tasks), strict=True)):
        known = labels[:, place] != MISSING
        single[task.name] = validation_metrics(probabilities[known, span], labels[known, place])
    means = {name: float(np.mean([each[name] for each in single.values()])) for name in next(iter(single.values()))}
    return means | {f"val_{name}_balanced_accuracy": each["val_balanced_accuracy"] for name, each in single.items()}
