"""What a search optimises: figures named by split, level and figure, and which way is better.

validation.study.kappa       of studies, as `mskray evaluate` counts them
validation.image.auroc       of images
validation.tasks.balanced_accuracy, validation.pfirrmann.kappa       of a family with several tasks: mean, and each
latency_ms, size_mb          an image, predicted two at a time by one process; of the weights
"""

from mskray.errors import UserError

SPLIT = "validation"
LATENCY, SIZE = "latency_ms", "size_mb"
_OF_MODEL = (LATENCY, SIZE)
_LOWER = ("loss", "brier", "ece", "error", *_OF_MODEL)


def higher_is_better(metric: str) -> bool:
    return metric.rpartition(".")[2] not in _LOWER


def sign(metric: str) -> float:
    """What to multiply a figure by so that more is better."""
    return 1.0 if higher_is_better(metric) else -1.0


def check_metric(name: str, where: str) -> None:
    """Raise UserError for a metric without split and level, or of a split that must not be tuned on."""
    if name in _OF_MODEL:
        return
    parts = name.split(".")
    example = f"give {SPLIT}.study.kappa, {SPLIT}.image.auroc, … or {', '.join(_OF_MODEL)}"
    if parts[0] == "test":
        raise UserError(
            f"{where}: metric {name}: the test split cannot be tuned on, it would no longer be held out: {example}"
        )
    if len(parts) != 3 or not all(parts):
        raise UserError(f"{where}: metric {name!r} names no split, level and figure: {example}")
    if parts[0] != SPLIT:
        raise UserError(f"{where}: metric {name}: trials are judged on split {SPLIT} alone: {example}")
