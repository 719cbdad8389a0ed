"""A network's features of every image of the pairs and their noisy copies."""

import numpy as np

from mskray.cohorts import Cohort, Task
from mskray.estimators.cache import Cache
from mskray.estimators.network_features import FeatureNetwork, split_features
from mskray.estimators.pair_samples import PairImages
from mskray.estimators.pairs import AugmentSection
from mskray.progress import Report
from mskray.training.once import Shared
from mskray.training.run import Resources


def pair_features(
    cohort: Cohort,
    splits: tuple[str, ...],
    task: Task,
    network: FeatureNetwork,
    augment: AugmentSection,
    cache: Cache,
    resources: Resources,
    shared: Shared | None,
    report: Report,
) -> dict[str, np.ndarray]:
    """Return features (n, 1 + noisy copies, 2, width) float32 of the labelled pairs of each split.

    Kept and found again as `split_features` says. A split without a labelled pair has none: (0, 1 + noisy copies, 2,
    0).
    """
    samples = PairImages(task.column, augment)
    noise = augment.model_dump(mode="json", exclude={"reverse"}) if augment.noise_copies else None
    facts = {"what": "features of pairs", **network.facts, "noise": noise}
    found = {}
    for name in splits:
        files, labels = split_features(
            cohort, name, samples, task.column, network, facts, cache, resources, shared, report
        )
        found[name] = samples.by_pair(files.gather(np.arange(len(labels))))
    return found
