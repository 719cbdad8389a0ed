"""An ensemble's votes as the trials of a search: which members vote and with which weights, each judged in a moment.

What each member says of the validation split is asked for once (`mskray.verbs.votes`); here it is only weighed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from mskray.config import merge
from mskray.tuning.figures import LATENCY, SIZE
from mskray.tuning.judge import figures_by_level
from mskray.tuning.ledger import TrialRecord
from mskray.tuning.ray_trial import Plan, Tell
from mskray.tuning.trial import attempt, check_reported


def weights_of(members: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """The weights of those members that vote, by name; nobody votes with a weight of 0.

    Args:
        members: `weight` and `member` of each.
    """
    return {name: float(each["weight"]) for name, each in members.items() if each["member"] and each["weight"] > 0}


@dataclass(frozen=True)
class Ballots:
    """What m members say of n labelled images; called, it is the work of a search's trials (`mskray.tuning.ray_trial`).

    Args:
        names: of the members.
        rows: of the images: identity and label.
        prob: (m, n, classes) float32.
        costs: `latency_ms` and `size_mb` of each member.
        classes: in the order of `prob`. ordinal: whether they are grades.
        kind: of the cohort.
    """

    names: tuple[str, ...]
    rows: pa.Table
    prob: np.ndarray
    costs: tuple[Mapping[str, float], ...]
    classes: tuple[str, ...]
    ordinal: bool
    kind: str

    def __call__(self, plan: Plan, record: TrialRecord, tell: Tell) -> TrialRecord:
        """Judge one vote, write its record and return it; it has no steps to tell of."""

        def work() -> dict[str, Any]:
            figures = self.judged(weights_of(merge(plan.base, record.parameters)["members"]))
            check_reported(plan, figures)
            return {"figures": figures, "folds": (figures,)}

        return attempt(plan, record, work)

    def vote(self, weights: Mapping[str, float]) -> np.ndarray:
        """The weighted mean (n, classes) of those named, uncalibrated, as `mskray.ensemble.Voter` takes it."""
        shares = np.array(list(weights.values()))
        places = [self.names.index(name) for name in weights]
        return np.tensordot(shares / shares.sum(), self.prob[places], axes=1)

    def judged(self, weights: Mapping[str, float]) -> dict[str, float]:
        """The figures of a vote, by name: as of a trained model, with what all who vote take together."""
        mean, table = self.vote(weights), self.rows
        for place, name in enumerate(self.classes):
            table = table.append_column(f"prob_{name}", pa.array(mean[:, place]))
        costs = [self.costs[self.names.index(name)] for name in weights]
        known = {name: sum(each[name] for each in costs) for name in (LATENCY, SIZE)}
        return {**figures_by_level(table, self.classes, self.kind, self.ordinal), **known}
