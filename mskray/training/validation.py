"""The few figures that steer training; the full evaluation with intervals is `mskray evaluate`."""

from collections.abc import Mapping

import numpy as np

HIGHER_IS_BETTER = {
    "auroc": True,
    "kappa": True,
    "balanced_accuracy": True,
    "accuracy": True,
    "f1": True,
    "loss": False,
}

HELD_OUT, LEARNED = "val_", "learned_"


def named(figures: Mapping[str, float], held_back: bool) -> dict[str, float]:
    """Figures `val_…` of the validation split, called `learned_…` where it was learned from (`Run.held_back`)."""
    return {key if held_back else LEARNED + key.removeprefix(HELD_OUT): value for key, value in figures.items()}


def validation_metrics(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Image-level figures of a validation split.

    Args:
        probabilities: (n, classes); labels: (n,) class indices of which at least two occur.
    Returns:
        `val_<metric>` for every metric that `loop.metric` may name. AUROC is macro one-vs-rest over the classes
        that occur, F1 is that of class 1 for two classes and macro beyond.
    """
    # With scipy and pandas behind it, it takes as long to load as torch: not before an epoch has been trained.
    from sklearn.metrics import (
        accuracy_score,
        balanced_accuracy_score,
        cohen_kappa_score,
        f1_score,
        log_loss,
        roc_auc_score,
    )

    classes = probabilities.shape[1]
    guess = probabilities.argmax(axis=1)
    present = [index for index in range(classes) if 0 < (labels == index).sum() < len(labels)]
    pick = present if classes > 2 else [1]
    return {
        "val_auroc": float(np.mean([roc_auc_score(labels == index, probabilities[:, index]) for index in pick])),
        "val_kappa": float(cohen_kappa_score(labels, guess)),
        "val_balanced_accuracy": float(balanced_accuracy_score(labels, guess)),
        "val_accuracy": float(accuracy_score(labels, guess)),
        "val_f1": float(f1_score(labels, guess, average="binary" if classes == 2 else "macro", zero_division=0)),
        "val_loss": float(log_loss(labels, probabilities, labels=list(range(classes)))),
    }
