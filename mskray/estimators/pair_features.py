"""A network's features of every image of the pairs and their noisy copies: extracted once with Ray Data, then found."""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from safetensors.torch import save
from torch import Tensor

from mskray.cohorts import Cohort, Task
from mskray.estimators.cache import Cache
from mskray.estimators.extract import Extraction
from mskray.estimators.features import FeatureFiles
from mskray.estimators.pair_samples import PairImages, labelled_digest
from mskray.estimators.pairs import AugmentSection
from mskray.imaging.inputs import InputFormat
from mskray.progress import Progress, Report
from mskray.training.feed import describe_split
from mskray.training.run import Resources

VERSION = 1
"""Raised when the same facts give other features."""


@dataclass(frozen=True)
class FeatureNetwork:
    """Whose features.

    Args:
        backbone: a member of BACKBONES.
        state: its whole state.
    """

    backbone: str
    state: dict[str, Tensor]
    input: InputFormat
    batch_size: int

    @property
    def hash(self) -> str:
        """SHA-256 over its weights."""
        return hashlib.sha256(save({name: value.contiguous() for name, value in self.state.items()})).hexdigest()


def pair_features(
    cohort: Cohort,
    splits: tuple[str, ...],
    task: Task,
    network: FeatureNetwork,
    augment: AugmentSection,
    cache: Cache,
    resources: Resources,
    report: Report,
) -> dict[str, np.ndarray]:
    """Return features (n, 1 + noisy copies, 2, width) float32 of the labelled pairs of each split.

    What the cache has is read; what it lacks is extracted and put there. It is found again for every task that labels
    the same pairs. A split without a labelled pair has none: (0, 1 + noisy copies, 2, 0).
    """
    samples = PairImages(task.column, augment)
    extraction = Extraction(network.backbone, network.state, network.batch_size, resources, report)
    facts: dict[str, Any] = {
        "what": "features of pairs",
        "version": VERSION,
        "cohort": cohort.content_hash,
        "backbone": network.backbone,
        "network": network.hash,
        "input": vars(network.input),
        "noise": augment.model_dump(mode="json", exclude={"reverse"}) if augment.noise_copies else None,
    }
    found = {}
    for name in splits:
        split, labels = describe_split(cohort, name, samples, network.input)
        if not len(labels):
            found[name] = samples.by_pair(np.empty((0, 0), np.float32))
            continue
        of_split = {"split": name, "labelled": labelled_digest(cohort.columns(name, [task.column])[task.column])}
        files = FeatureFiles(cache.entry({**facts, **of_split}).join(name), split.counts)
        if not files.missing():
            report(Progress(f"features of {name}", files.rows, files.rows, note="from the cache"))
        extraction.run(split, files, name)
        found[name] = samples.by_pair(files.gather(np.arange(len(labels))))
    return found
