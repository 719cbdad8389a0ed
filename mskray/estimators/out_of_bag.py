"""What bagged SVMs say of rows that they were fitted on: each row judged by the bags that leave its patient out.

Breiman, Out-of-bag estimation (1996): where no split is held back, such decisions calibrate a model as those of a
held-out split do. Images of one patient are alike, so a bag that holds another image of the patient does not count.
Fewer SVMs judge a row than later judge an image; decisions scatter a little more, and probabilities come out a little
less sure, not more.
"""

from collections.abc import Sequence

import numpy as np
import ray

from mskray.estimators.features import FeatureFiles
from mskray.estimators.svm import FittedBag, Kernel, PartModel

_BLOCK = 1024


def left_out(patients: np.ndarray, rows: np.ndarray, bags: Sequence[FittedBag]) -> np.ndarray:
    """Say which bags hold no row of a row's patient: (n, bags) bool.

    Args:
        patients: (n,) patient of each row.
        rows: (n,) numbers of the rows, ascending, as the bags name them.
    """
    codes = np.unique(patients, return_inverse=True)[1]
    result = np.empty((len(rows), len(bags)), dtype=bool)
    for number, bag in enumerate(bags):
        inside = np.unique(codes[np.searchsorted(rows, bag.rows)])
        result[:, number] = ~np.isin(codes, inside)
    return result


def spread_duals(rows: np.ndarray, used: np.ndarray, bags: Sequence[FittedBag]) -> tuple[np.ndarray, np.ndarray]:
    """Bring the bags' coefficients onto the support vectors of all: duals (bags, outputs, v), intercepts.

    Args:
        rows: (n,) numbers of the rows that bags were drawn from, ascending.
        used: (v,) places of the support vectors among them, ascending.
    """
    duals = np.zeros((len(bags), len(bags[0].intercepts), len(used)))
    for number, bag in enumerate(bags):
        places = np.searchsorted(rows, bag.rows)
        vectors = np.flatnonzero(np.isin(places, used))  # a row that supports nothing has coefficients of 0
        duals[number][:, np.searchsorted(used, places[vectors])] = bag.duals[:, vectors]
    return duals, np.stack([bag.intercepts for bag in bags])


def decisions(
    part: PartModel,
    kernel: Kernel,
    duals: np.ndarray,
    intercepts: np.ndarray,
    features: np.ndarray,
    outside: np.ndarray,
) -> np.ndarray:
    """Mean decision (n, outputs) of the bags that leave a row out; NaN where none does.

    Holds n × bags × outputs numbers beside a block of the kernel.

    Args:
        duals, intercepts: of `spread_duals`.
        features: (n, features) as extracted; outside: (n, bags) of `left_out`.
    """
    bags, outputs = intercepts.shape
    given, flat = part.standard(features), duals.reshape(bags * outputs, -1)
    found = np.tile(intercepts.reshape(1, -1), (len(given), 1))
    for start in range(0, len(part.vectors), _BLOCK):
        block = slice(start, start + _BLOCK)
        found += kernel(given, part.vectors[block]) @ flat[:, block].T
    counted = outside[:, :, None] * found.reshape(len(given), bags, outputs)
    judges = outside.sum(axis=1)[:, None]
    return np.divide(counted.sum(axis=1), judges, out=np.full((len(given), outputs), np.nan), where=judges > 0)


@ray.remote(num_cpus=1, max_retries=3, scheduling_strategy="SPREAD")
def decide(
    part: PartModel,
    kernel: Kernel,
    spread: tuple[np.ndarray, np.ndarray],
    files: FeatureFiles,
    number: int,
    places: np.ndarray,
    outside: np.ndarray,
) -> np.ndarray:
    """`decisions` of some rows of one file: `places` (n,) in it."""
    return decisions(part, kernel, *spread, files.read(number)[places], outside)
