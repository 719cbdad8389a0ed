"""A small cohort of pairs written without a cluster, and a bundle that judges pairs by random words."""

from pathlib import Path

import cv2
import numpy as np
import torch
from stack_cohort import write_cohort

from mskray.bundles import Fitted
from mskray.cohorts import Cohort
from mskray.cohorts.change import CHANGE, IMPROVED, PAIR
from mskray.cohorts.schema import MISSING, ImageFormat
from mskray.estimators.words import ClassifierSection, fit_classifier
from mskray.families.pair_bovw import PairBovwConfig

SIDE = 96
PAIRS = ImageFormat(size=SIDE, dtype="uint8", fit="pad", slices=2)


def picture(seed: int, size: int = SIDE) -> np.ndarray:
    """Blurred discs."""
    random = np.random.default_rng(seed)
    image = np.full((size, size), 60, np.uint8)
    for _ in range(20):
        place = random.integers(20, size - 20, 2)
        cv2.circle(image, (int(place[0]), int(place[1])), int(random.integers(3, 9)), int(random.integers(255)), -1)
    return cv2.GaussianBlur(image, (0, 0), 1.2)


def pair_cohort(folder: Path, splits: dict[str, list[int]]) -> Cohort:
    """A cohort with these labels of CHANGE in each split (MISSING where there is none); two pairs are a patient."""
    given, seed = {}, 0
    for split, labels in splits.items():
        pairs = np.empty((len(labels), *PAIRS.shape), np.uint8)
        for place in np.ndindex(pairs.shape[:2]):
            pairs[place] = picture(seed)
            seed += 1
        change = np.array(labels)
        improved = np.where(change == MISSING, MISSING, change == CHANGE.classes.index("improved"))
        given[split] = pairs, {CHANGE.name: change, IMPROVED.name: improved.astype(np.int64)}
    return write_cohort(folder, given, (CHANGE, IMPROVED), PAIRS, PAIR)


def fitted(words: int = 6) -> Fitted:
    """A model of random words, whose classifier knows a few random histograms."""
    random = np.random.default_rng(0)
    section = ClassifierSection(name="gaussian_nb")
    rows, labels = random.random((30, 2 * words)).astype(np.float32), np.arange(30) % 3
    config = PairBovwConfig.model_validate({"vocabulary": words, "classifier": {"name": "gaussian_nb"}})
    return Fitted(
        family="pair_bovw",
        config=config.model_dump(mode="json"),
        task=CHANGE.name,
        classes=CHANGE.classes,
        kind=PAIR,
        body_parts=("KNEE",),
        image={"size": SIDE, "dtype": "uint8", "fit": "pad"},
        state={"words": torch.from_numpy(random.integers(0, 120, (words, 128)).astype(np.float32))},
        history=[],
        best={},
        labels=dict.fromkeys(CHANGE.classes, 10),
        cohort={"uri": "s3://bucket/pairs", "content_hash": "ab" * 32},
        estimator=fit_classifier(rows, labels, np.arange(30), CHANGE.classes, section),
        sample="pair",
    )
