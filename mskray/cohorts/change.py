"""What became of a patient between two images: the questions of pair cohorts, and what reversal makes of an answer.

Seen in the other order, what improved has regressed and what persisted has persisted (CRMO, "Data Preparation": data
was augmented by reversing image pair order). Whether a reversed pair improved therefore follows from the answer in
three classes, not from that in two: "not improved" may have persisted or regressed. The binary label is always taken
after reversal.
"""

import numpy as np

from mskray.cohorts.schema import MISSING, Task

PAIR = "pair"
"""Kind of a cohort whose rows are two images, before and after: cells (2, size, size)."""
CHANGE = Task(name="change", classes=("regressed", "persisted", "improved"), ordinal=True)
IMPROVED = Task(name="improved", classes=("not_improved", "improved"))
REVERSIBLE = (CHANGE.name, IMPROVED.name)
"""Tasks whose labels are known of a reversed pair."""


def change_labels(change: int | None) -> dict[str, int | None]:
    """Return the labels of both tasks, given that in three classes."""
    improved = None if change is None else int(CHANGE.classes[change] == "improved")
    return {CHANGE.name: change, IMPROVED.name: improved}


def reversed_labels(task: Task, labels: np.ndarray, change: np.ndarray | None = None) -> np.ndarray:
    """Return the labels that pairs have when they are reversed.

    Args:
        task: CHANGE or IMPROVED.
        labels: (n,) of this task, MISSING where not known.
        change: (n,) of CHANGE, where the cohort has it; without it only a pair that improved tells what its reversal
            is in two classes: not improved.
    Returns:
        (n,) int64; MISSING where it is not known.
    Raises:
        ValueError: another task.
    """
    labels = np.asarray(labels, np.int64)
    if task == CHANGE:
        return np.where(labels == MISSING, MISSING, len(CHANGE.classes) - 1 - labels)
    if task != IMPROVED:
        raise ValueError(f"it is not known what the reversal of a pair is in task {task.name}")
    known = np.where(labels == 1, 0, MISSING)
    if change is None:
        return known
    after = reversed_labels(CHANGE, change)
    return np.where(after == MISSING, known, (after == CHANGE.classes.index("improved")).astype(np.int64))
