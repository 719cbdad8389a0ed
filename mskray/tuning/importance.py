"""How much each parameter matters: the share of the first metric's variance that it explains alone (fANOVA).

F. Hutter, H. Hoos, K. Leyton-Brown: An Efficient Approach for Assessing Hyperparameter Importance, ICML 2014; as
Optuna computes it, from a random forest over the finished trials. A parameter that is only there under a condition is
judged among the trials that have it. What the shares of one group of trials leave of 1 is due to
parameters together, and to chance.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import log10
from typing import TYPE_CHECKING, Any

import numpy as np

from mskray.tuning.leaderboard import Row
from mskray.tuning.ledger import Description
from mskray.tuning.wording import is_number, kind_of

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

FEWEST = 4
"""Finished sets of parameters below which nothing is said."""
_SEED = 0


@dataclass(frozen=True)
class Importance:
    """What is known of each parameter, the most important first.

    Args:
        shares: key → share of the variance in 0–1.
        counted: key → how many sets of parameters that is of.
        reasons: key → why there is no share.
    """

    shares: Mapping[str, float] = field(default_factory=dict)
    counted: Mapping[str, int] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)


def importance(description: Description, rows: Sequence[Row], keys: Sequence[str]) -> Importance:
    """Judge the parameters `keys` by the first metric's means of the finished rows."""
    metric = description.metrics[0]
    able = [row for row in rows if row.rank]
    having = {key: tuple(index for index, row in enumerate(able) if key in row.parameters) for key in keys}
    shares: dict[str, float] = {}
    reasons: dict[str, str] = {}
    for members in dict.fromkeys(having.values()):
        mine = [key for key in keys if having[key] == members]
        chosen = [able[index] for index in members]
        figures = np.array([row.figures[metric].mean for row in chosen])
        varied = []
        for key in (key for key in keys if set(having[key]) >= set(members)):
            values = [row.parameters[key] for row in chosen]
            distinct = len(set(map(repr, values)))
            if distinct == 1:
                reasons |= {key: "always the same"} if key in mine else {}
            elif distinct == len(values) and not all(map(is_number, values)):
                # Categories that never recur would explain any figure wholly.
                reasons |= {key: "never twice the same"} if key in mine else {}
            else:
                varied.append(key)
        if len(chosen) < FEWEST:
            reasons |= {key: f"{len(chosen)} finished with it, {FEWEST} are needed" for key in mine}
        elif np.ptp(figures) <= 1e-12 * np.abs(figures).max():
            reasons |= {key: "the figure is always the same" for key in mine if key in varied}
        elif varied:
            found = _fanova(description, chosen, varied, figures)
            shares |= {key: found[key] for key in mine if key in found}
    ordered = dict(sorted(shares.items(), key=lambda item: -item[1]))
    return Importance(ordered, {key: len(having[key]) for key in ordered}, reasons)


def _fanova(
    description: Description, rows: Sequence[Row], keys: Sequence[str], figures: np.ndarray
) -> dict[str, float]:
    import optuna
    from optuna.importance import FanovaImportanceEvaluator

    columns = {key: _column(description, key, [row.parameters[key] for row in rows]) for key in keys}
    distributions = {key: distribution for key, (distribution, _) in columns.items()}
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study()
    finally:
        optuna.logging.set_verbosity(verbosity)
    for index, figure in enumerate(figures):
        parameters = {key: values[index] for key, (_, values) in columns.items()}
        study.add_trial(optuna.trial.create_trial(params=parameters, distributions=distributions, value=float(figure)))
    found = FanovaImportanceEvaluator(seed=_SEED).evaluate(study)
    return {key: float(share) for key, share in found.items()}


def _column(description: Description, key: str, values: Sequence[Any]) -> "tuple[BaseDistribution, list[Any]]":
    """A distribution for Optuna and the trials' values in it.

    A range spans what was tried, in the logarithm where it was drawn so; listed numbers are places in their order, so
    that a tree may cut between them; anything else is a category.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    numbers = all(is_number(value) for value in values)
    if numbers and kind_of(description, key) in ("uniform", "loguniform"):
        log = kind_of(description, key) == "loguniform" and min(values) > 0
        drawn = [log10(value) if log else float(value) for value in values]
        return FloatDistribution(min(drawn), max(drawn)), drawn
    if numbers:
        order = sorted(set(values))
        return IntDistribution(0, len(order) - 1), [order.index(value) for value in values]
    names = [repr(value) for value in values]
    kinds = sorted(set(names))
    return CategoricalDistribution(range(len(kinds))), [kinds.index(name) for name in names]
