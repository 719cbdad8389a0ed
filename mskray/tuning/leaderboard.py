"""Which parameters came out best: a search's trials grouped, judged and put in order.

Trials of the same parameters with other seeds are one row, judged by the mean over its seeds: the best of many trials
is partly luck, and more so the more there are. Where some rows were repeated they alone compete for the first place.
Members of a population are a row each: two may have come to the same values by different ways.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from mskray.errors import UserError, did_you_mean
from mskray.tuning.figures import sign
from mskray.tuning.ledger import Description, State, TrialRecord

_ORDER: tuple[State, ...] = ("finished", "open", "stopped", "failed", "refused")


@dataclass(frozen=True)
class Summary:
    """A figure of one row.

    Args:
        mean: over the seeds; of one seed the mean over its folds.
        sd: sample standard deviation over the seeds, of one seed that over its folds; None of one value.
        over: what `sd` is over, "" where there is none.
        n: how many seeds or folds.
    """

    mean: float
    sd: float | None = None
    over: Literal["seeds", "folds", ""] = ""
    n: int = 1


@dataclass(frozen=True)
class Row:
    """One set of parameters.

    Args:
        rank: from 1; 0 of a row that has not finished, or lacks the first metric.
        trials: of its seeds, in their order.
        state: finished as soon as one of its trials is; else the first of open, stopped, failed, refused.
        figures: by name, of its finished trials; of a row that was stopped, what its trials had reached.
        seeds: how many trials the figures are of.
        folds: of each of these.
    """

    rank: int
    parameters: Mapping[str, Any]
    trials: tuple[TrialRecord, ...]
    state: State
    figures: Mapping[str, Summary]
    seeds: int
    folds: int

    @property
    def id(self) -> str:
        """Of the trial that stands for the row: the first that its figures are of."""
        return self.judged[0].id

    @property
    def judged(self) -> tuple[TrialRecord, ...]:
        """Its trials in the row's state."""
        return tuple(each for each in self.trials if each.state == self.state)

    @property
    def seconds(self) -> float:
        """Of a trial, on average."""
        return math.fsum(each.seconds for each in self.judged) / len(self.judged)

    @property
    def epochs(self) -> float:
        return math.fsum(each.epochs for each in self.judged) / len(self.judged)

    @property
    def reason(self) -> str:
        """Why it did not finish."""
        return "" if self.state == "finished" else next((each.reason for each in self.judged if each.reason), "")


def ranked(description: Description, records: Iterable[TrialRecord]) -> list[Row]:
    """All trials as rows, the best first.

    Finished rows come by the mean of the first metric, those with several seeds before those with one; then those
    without that figure, and those that are open, stopped, failed or refused. Equal ones keep their trials' order.

    Raises:
        UserError: trials have finished, and none of them reported one of the metrics.
    """
    kept = sorted(records, key=lambda each: (each.number, each.seed, each.id))
    check_reported(description, kept)
    metric = description.metrics[0]
    better = sign(metric)
    groups: dict[str, list[TrialRecord]] = {}
    population = description.scheduler.get("name") == "pbt"
    for record in kept:
        group = record.id if population else json.dumps(record.parameters, sort_keys=True)
        groups.setdefault(group, []).append(record)

    def place(row: Row) -> tuple[int, bool, bool, float]:
        found = row.figures.get(metric)
        lone = row.state == "finished" and row.seeds == 1
        return _ORDER.index(row.state), found is None, lone, 0.0 if found is None else -better * found.mean

    rows = sorted((_row(trials) for trials in groups.values()), key=place)
    judged = sum(row.state == "finished" and metric in row.figures for row in rows)
    return [replace(row, rank=rank if rank <= judged else 0) for rank, row in enumerate(rows, start=1)]


def winner(description: Description, records: Iterable[TrialRecord]) -> Row:
    """The first row. Raises UserError where nothing has finished with the first metric."""
    kept = list(records)
    rows = ranked(description, kept)
    if rows and rows[0].rank == 1:
        return rows[0]
    unfinished = f"no trial of this search of {description.family} has finished with {description.metrics[0]}"
    reason = next((row.reason for row in rows if row.reason), "")
    told = f" ({counted(kept)}{f'; the first: {reason}' if reason else ''})" if kept else " (there is none)"
    raise UserError(f"{unfinished}{told}: mend that and call mskray tune again with the same out")


def pareto(description: Description, records: Iterable[TrialRecord]) -> set[str]:
    """Ids of the finished trials whose row no other row is better than in one metric and as good in all others.

    Rows that are equal in every metric are all there; a row that lacks one of the metrics is not.
    """
    return {trial.id for row in pareto_rows(description, ranked(description, records)) for trial in row.judged}


def pareto_rows(description: Description, rows: Sequence[Row]) -> list[Row]:
    """The rows of the Pareto front, in the order given."""
    metrics = description.metrics
    able = [row for row in rows if row.state == "finished" and all(metric in row.figures for metric in metrics)]
    points = [tuple(sign(metric) * row.figures[metric].mean for metric in metrics) for row in able]
    return [row for row, mine in zip(able, points, strict=True) if not any(_dominates(other, mine) for other in points)]


def check_reported(description: Description, records: Iterable[TrialRecord]) -> None:
    """Raise UserError for a metric that no finished trial reported, where one has finished."""
    finished = [record for record in records if record.state == "finished"]
    reported = sorted({name for record in finished for name in record.figures})
    for metric in description.metrics:
        if finished and metric not in reported:
            there = ", ".join(reported) or "no figure at all"
            raise UserError(
                f"metric {metric} was never reported: {did_you_mean(metric, reported)}"
                f"the finished trials of {description.family} on {description.cohort} reported {there}"
            )


def counted(records: Iterable[TrialRecord]) -> str:
    """ "20 finished, 3 stopped, 1 failed"."""
    states = [record.state for record in records]
    return ", ".join(f"{states.count(state)} {state}" for state in _ORDER if state in states)


def _row(trials: Sequence[TrialRecord]) -> Row:
    state = min((trial.state for trial in trials), key=_ORDER.index)
    judged = [trial for trial in trials if trial.state == state]
    names = dict.fromkeys(name for trial in judged for name in trial.figures)
    return Row(
        rank=0,
        parameters=trials[0].parameters,
        trials=tuple(sorted(trials, key=lambda each: (each.seed, each.number))),
        state=state,
        figures={name: _summary(name, judged) for name in names},
        seeds=len(judged),
        folds=max(1, *(len(trial.folds) for trial in judged)),
    )


def _summary(name: str, trials: Sequence[TrialRecord]) -> Summary:
    having = [trial for trial in trials if name in trial.figures]
    values = [trial.figures[name] for trial in having]
    mean = math.fsum(values) / len(values)
    if len(values) > 1:
        sd = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
        return Summary(mean, sd, "seeds", len(values))
    folds = len(having[0].folds)
    if folds > 1 and name in having[0].spread:
        return Summary(mean, having[0].spread[name], "folds", folds)
    return Summary(mean)


def _dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    pairs = list(zip(one, other, strict=True))
    return all(mine >= theirs for mine, theirs in pairs) and any(mine > theirs for mine, theirs in pairs)
