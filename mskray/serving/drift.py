"""Whether the studies that come in still look like those that the ensemble was judged on.

The population stability index of the last studies' scores against those of held-out studies, in tenths of the latter:
0 where they are distributed alike; above 0.1 worth a look, above 0.25 another population, as the rule of thumb of
credit scoring has it (Siddiqi 2006, chapter 6).
"""

from collections import deque
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mskray.evaluation.places import EVALUATION, PREDICTIONS
from mskray.storage import Location

_BINS = 10
_LEAST, _MOST = 100, 1000
"""Studies: fewer say nothing, and older ones are forgotten."""
_SMALLEST = 1e-3
"""Share of a bin that nothing fell into."""
_MOST_BYTES = 256 * 2**20


def score(probabilities: np.ndarray) -> np.ndarray:
    """Return what studies are compared by, (n,): of two classes the second's probability, of more the largest.

    Args:
        probabilities: (n, classes).
    """
    return probabilities[:, 1] if probabilities.shape[1] == 2 else probabilities.max(axis=1)


def held_out_scores(model: Location, classes: Sequence[str]) -> np.ndarray:
    """Return the scores of the studies that a bundle or ensemble was judged on, (0,) where it was not yet.

    They are read from what `mskray evaluate` leaves in the model's folder: of a test split where there is one.
    """
    found = [each for each in model.join(EVALUATION).walk() if each.path.endswith(f"/{PREDICTIONS}")]
    if not found:
        return np.zeros(0)
    chosen = min(found, key=lambda each: (not each.path.startswith("test-"), each.path))
    table = pq.read_table(pa.BufferReader(model.join(EVALUATION, chosen.path).read_bytes(_MOST_BYTES)))
    names = [f"prob_{name}" for name in classes]
    judged = table.filter(pc.is_null(table["error"]))
    studies = judged.group_by("study_id").aggregate([(name, "mean") for name in names])
    return score(np.stack([studies[f"{name}_mean"].to_numpy() for name in names], axis=1))


class Drift:
    """Compares the scores of studies with those of held-out ones.

    Args:
        held_out: (n,) scores; fewer than `_LEAST` are no reference, and nothing is told.
    """

    def __init__(self, held_out: np.ndarray) -> None:
        self._edges: np.ndarray | None = None
        self._recent: deque[float] = deque(maxlen=_MOST)
        if len(held_out) >= _LEAST:
            self._edges = np.unique(np.quantile(held_out, np.linspace(0, 1, _BINS + 1)[1:-1]))
            self._expected = self._shares(held_out)

    def add(self, value: float) -> float | None:
        """Take a study's score, and return the index; None while it cannot be told."""
        self._recent.append(value)
        if self._edges is None or len(self._recent) < _LEAST:
            return None
        found = self._shares(np.array(self._recent))
        return float(((found - self._expected) * np.log(found / self._expected)).sum())

    def _shares(self, scores: np.ndarray) -> np.ndarray:
        assert self._edges is not None
        counts = np.bincount(np.searchsorted(self._edges, scores, side="right"), minlength=len(self._edges) + 1)
        return np.maximum(counts / len(scores), _SMALLEST)
