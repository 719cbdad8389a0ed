"""A network's features of a split, kept by content: extracted once with Ray Data, then found again."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from safetensors.torch import save
from torch import Tensor

from mskray.cohorts import Cohort
from mskray.estimators.cache import Cache
from mskray.estimators.extract import Extraction
from mskray.estimators.features import FeatureFiles
from mskray.estimators.pair_samples import labelled_digest
from mskray.imaging.inputs import InputFormat
from mskray.progress import Progress, Report
from mskray.training.feed import Split, describe_split
from mskray.training.once import Shared, once
from mskray.training.run import Resources
from mskray.training.samples import Samples

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

    @property
    def facts(self) -> dict[str, Any]:
        """What decides its features of an image, JSON values."""
        return {"version": VERSION, "backbone": self.backbone, "network": self.hash, "input": vars(self.input)}


def split_features(
    cohort: Cohort,
    name: str,
    samples: Samples,
    column: str,
    network: FeatureNetwork,
    facts: Mapping[str, Any],
    cache: Cache,
    resources: Resources,
    shared: Shared | None,
    report: Report,
) -> tuple[FeatureFiles, np.ndarray]:
    """Return the features of a split's samples, and the samples' labels (n,).

    What the cache has is read; what it lacks is extracted and put there, in a search once for all trials. It is found
    again for every task that labels the same rows.

    Args:
        column: whose labels say which rows are samples.
        facts: of the network and of whatever else decides the features beside cohort, split and rows.
    """
    split, labels = describe_split(cohort, name, samples, network.input)
    labelled = labelled_digest(cohort.columns(name, [column])[column])
    whole = {"cohort": cohort.content_hash, **facts, "split": name, "labelled": labelled}
    files = FeatureFiles(cache.entry(whole), split.counts)
    if files.missing():
        what = f"features of {name}"
        once(shared, str(files.folder), what, partial(_extract, split, files, network, resources), report)
    elif files.rows:
        report(Progress(f"features of {name}", files.rows, files.rows, note="from the cache"))
    return files, labels


def _extract(split: Split, files: FeatureFiles, network: FeatureNetwork, resources: Resources, report: Report) -> None:
    extraction = Extraction(network.backbone, network.state, network.batch_size, resources, report)
    extraction.run(split, files, split.name)
