"""Which rows each SVM sees, who gets a model, and how much memory fitting one takes."""

from dataclasses import dataclass

import numpy as np

from mskray.config import Section, setting
from mskray.estimators.svm import ALL_PARTS

_PROCESS = 400 << 20
"""A Ray worker with scikit-learn and pyarrow loaded, before it reads anything."""


class SvmSection(Section):
    """Each support vector machine, and which there are."""

    degree: int = setting(5, "degree of the polynomial kernel", ge=1, le=10, source="ZHAW, section IV-C")
    C: float = setting(1.0, "penalty of a misjudged row", gt=0, le=1e6)
    coef0: float = setting(1.0, "constant of the kernel: 0 for powers of `degree` alone, 1 for all", ge=0, le=100)
    cache_mb: int = setting(200, "libsvm's own cache, for each SVM in work", unit="MB", ge=1, le=16384)
    per_part: bool = setting(True, "a model for each body part beside the one over all", source="ZHAW, section IV-C")
    least_images: int = setting(
        10, "images of each class, in train and in validation, that a body part needs for its own", unit="images", ge=2
    )


class BagSection(Section):
    """The rows that each machine sees, drawn with replacement, classes in proportion."""

    number: int = setting(10, "SVMs of a body part and class", ge=1, le=1000, source="ZHAW, section IV-C")
    max_samples: float = setting(
        0.1,
        "rows of a bag, as a share of the body part's; a tenth fits the training times of ZHAW's Table II",
        gt=0,
        le=1,
    )
    most_rows: int = setting(
        4096, "rows of a bag at most: its memory grows with their square", unit="images", ge=16, le=100_000
    )
    seed: int = setting(0, "seed of the draws", ge=0, le=2**31 - 1)


@dataclass(frozen=True)
class Bag:
    """What one SVM sees: distinct rows (m,), ascending, and how often each was drawn (m,)."""

    rows: np.ndarray
    counts: np.ndarray


def bag_size(rows: int, section: BagSection) -> int:
    """Rows that are drawn for a bag from `rows`."""
    return min(section.most_rows, max(1, round(section.max_samples * rows)))


def draw_bag(labels: np.ndarray, section: BagSection, stream: tuple[int, ...]) -> Bag:
    """Draw a bag from n rows, with replacement, each class in proportion and at least once.

    Args:
        labels: (n,) class of each row.
        stream: numbers that tell this draw from others of the same seed.
    Returns:
        Rows from 0 to n − 1.
    """
    random = np.random.default_rng([section.seed, *stream])
    total, drawn = bag_size(len(labels), section), []
    for number in np.unique(labels):
        members = np.flatnonzero(labels == number)
        drawn.append(random.choice(members, max(1, total * len(members) // len(labels))))
    return Bag(*np.unique(np.concatenate(drawn), return_counts=True))


def models_for(
    parts: tuple[np.ndarray, np.ndarray], labels: tuple[np.ndarray, np.ndarray], classes: int, section: SvmSection
) -> tuple[list[str], list[str]]:
    """Decide which body parts get a model beside the one over all.

    Args:
        parts, labels: of the train and of the validation split.
    Returns:
        Names of the models, ALL_PARTS first, and a line that names the parts that get none, where there are such.
    """
    names: list[str] = [ALL_PARTS]
    scarce: list[str] = []
    known = sorted(set(parts[0]))
    if not section.per_part or len(known) < 2:  # the only part is all parts
        return names, []
    for part in known:
        counts = [np.bincount(label[of == part], minlength=classes) for of, label in zip(parts, labels, strict=True)]
        least = min(int(count.min()) for count in counts)
        if part and least >= section.least_images:
            names.append(part)
        else:
            scarce.append(f"{part or 'without a body part'} {least}")
    if not scarce:
        return names, []
    return names, [
        f"answered by the model over all parts, for fewer than {section.least_images} images of the rarest class in "
        f"train or validation (svm.least_images): {', '.join(scarce)}"
    ]


def bag_bytes(rows: int, features: int, file_rows: int, cache_mb: int) -> int:
    """Most memory of a process that fits one bag.

    Beside the process itself: one file of features, the bag as float32 and as float64, its kernel as float64, and
    libsvm's cache, which holds at most the kernel as float32.
    """
    kernel = rows * rows
    return (
        _PROCESS
        + 2 * file_rows * features * 4  # the file as bytes and as an array
        + rows * features * (4 + 8)
        + kernel * 8
        + min(cache_mb << 20, kernel * 4)
    )
