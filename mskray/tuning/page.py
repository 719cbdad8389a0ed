"""`tune.html` and `leaderboard.json`: what a search found, for people and for programs.

write_page(Ledger(locate("runs/search")))          # into the search's own folder; returns the page's place

The page is self-contained like the evaluation report: no script, nothing loaded, everything from data escaped.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from math import fsum
from typing import Any

from mskray.evaluation import wording
from mskray.evaluation.page import render
from mskray.progress import duration
from mskray.storage import Location
from mskray.tuning.figures import SPLIT
from mskray.tuning.importance import Importance, importance
from mskray.tuning.leaderboard import Row, counted, pareto_rows, ranked
from mskray.tuning.ledger import SCHEMA_VERSION, Description, Ledger, TrialRecord
from mskray.tuning.papers import paper_plots, paper_tables
from mskray.tuning.parallel import FIFTHS, MOST_AXES, parallel_coordinates
from mskray.tuning.plots import against_parameters, fronts, learning_curves
from mskray.tuning.wording import (
    figure_text,
    keys_of,
    metric_name,
    number,
    parameters_text,
    short_names,
    spread_text,
    value_text,
)

PAGE, BOARD = "tune.html", "leaderboard.json"
SHOWN = 25
"""Rows of the leaderboard that are open; the others are folded away."""
MOST_CHARTS = 12
"""Parameters that have a chart of their own: the most important ones."""


def write_page(ledger: Ledger) -> Location:
    """Write both files beside the ledger, and return the page's place.

    Raises:
        UserError: the ledger cannot be read, or a metric was never reported.
    """
    description, records = ledger.describe(), ledger.trials()
    rows = ranked(description, records)
    found = importance(description, rows, keys_of(description, records))
    place = ledger.folder.join(PAGE)
    place.write_bytes(page(description, records, rows, found).encode())
    ledger.folder.join(BOARD).write_json(board(description, rows, found))
    return place


def board(description: Description, rows: Sequence[Row], found: Importance) -> dict[str, Any]:
    """The leaderboard as plain values."""
    front = {row.id for row in pareto_rows(description, rows)}
    return {
        "schema_version": SCHEMA_VERSION,
        "family": description.family,
        "cohort": description.cohort,
        "cohort_hash": description.cohort_hash,
        "metrics": list(description.metrics),
        "fingerprint": description.fingerprint,
        "rows": [
            {
                "rank": row.rank or None,
                "state": row.state,
                "reason": row.reason,
                "pareto": row.id in front,
                "parameters": dict(row.parameters),
                "trials": [{"id": each.id, "seed": each.seed, "state": each.state} for each in row.trials],
                "seeds": row.seeds,
                "folds": row.folds,
                "figures": {
                    name: {"mean": each.mean, "sd": each.sd, "over": each.over, "n": each.n}
                    for name, each in row.figures.items()
                },
                "epochs": row.epochs,
                "seconds": row.seconds,
            }
            for row in rows
        ],
        "importance": {"shares": dict(found.shares), "reasons": dict(found.reasons)},
    }


def page(description: Description, records: Sequence[TrialRecord], rows: Sequence[Row], found: Importance) -> str:
    """The page as HTML.

    Args:
        records, rows: of the ledger, and as `ranked` gives them.
        found: of `importance`.
    """
    keys = sorted(keys_of(description, records), key=lambda key: -found.shares.get(key, 0.0))
    names = short_names(keys)
    judged = [row for row in rows if row.rank]
    drawn = _drawn(judged, names)
    beside = dict(list(drawn.items())[: max(1, MOST_AXES - len(description.metrics))])
    several = len(description.metrics) > 1
    spread = any(row.figures[name].over for row in rows for name in description.metrics if name in row.figures)
    return render(
        "tune.html",
        title=f"{description.family} on {description.cohort}",
        description=description,
        headline=_headline(description, judged),
        lede=_lede(description, records),
        tiles=_tiles(description, records, judged),
        cautions=_cautions(rows, judged),
        rows=rows,
        shown=SHOWN,
        front={row.id for row in pareto_rows(description, rows)} if several else set(),
        metrics=description.metrics,
        names=names,
        spread=spread,
        trained=any(row.epochs for row in rows),
        bars=[(key, share, found.counted[key]) for key, share in found.shares.items()],
        unjudged=found.reasons if judged else {},
        parallel=_parallel(description, judged, beside),
        fifths=_fifths(len(judged)),
        left_out=f" The {len(beside)} that matter most of {len(drawn)} are drawn." if len(beside) < len(drawn) else "",
        tables=paper_tables(description, rows),
        paper_plots=paper_plots(description, rows),
        fronts=fronts(description, rows, names),
        curves=learning_curves(description.metrics[0], rows),
        against=against_parameters(description, judged, dict(list(drawn.items())[:MOST_CHARTS])),
        facts=_facts(description),
        metric_name=metric_name,
        figure_text=figure_text,
        spread_text=spread_text,
        value_text=value_text,
        duration=duration,
        percent=wording.percent,
    )


def _drawn(judged: Sequence[Row], names: Mapping[str, str]) -> dict[str, str]:
    """Parameters to draw: those that differ between ranked rows."""
    return {
        key: name
        for key, name in names.items()
        if len({json.dumps(row.parameters.get(key), sort_keys=True) for row in judged}) > 1
    }


def _parallel(description: Description, judged: Sequence[Row], drawn: Mapping[str, str]) -> Any:
    if len(judged) < 2 or not drawn:
        return ""
    alt = (
        f"Parallel coordinates of {len(judged)} sets of parameters over {', '.join(drawn.values())} and "
        f"{', '.join(metric_name(metric) for metric in description.metrics)}. "
        f"The best: {parameters_text(judged[0].parameters, drawn)}"
    )
    return parallel_coordinates(description, judged, drawn, alt)


def _fifths(judged: int) -> list[tuple[str, str]]:
    words = ("best fifth", "second", "third", "fourth", "last fifth")
    return [(f"q{index}", words[index]) for index in range(FIFTHS)] if judged >= FIFTHS else []


def _headline(description: Description, judged: Sequence[Row]) -> str:
    if not judged:
        return f"No trial of {description.family} has finished yet"
    metric = description.metrics[0]
    return f"{metric_name(metric)} on {SPLIT}: {figure_text(judged[0].figures[metric])}, the best of {len(judged)}"


def _lede(description: Description, records: Sequence[TrialRecord]) -> str:
    counts = f": {counted(records)}" if records else ""
    return f"{wording.count(len(records), 'trial')} of {description.family} on {description.cohort}{counts}."


def _tiles(
    description: Description, records: Sequence[TrialRecord], judged: Sequence[Row]
) -> list[tuple[str, str, str]]:
    tiles = []
    if judged:
        for metric in description.metrics:
            summary = judged[0].figures.get(metric)
            if summary is not None:
                over = spread_text(summary)
                spread = f"± {number(summary.sd)} over {over}" if summary.sd is not None else "one seed, one fold"
                tiles.append((metric_name(metric), number(summary.mean), f"trial {judged[0].id}, {spread}"))
    tiles.append(("Trials", f"{len(records):,}", counted(records) or "none"))
    total = fsum(record.seconds for record in records)
    longest = max((record.seconds for record in records), default=0.0)
    tiles.append(("Time in trials", duration(total), f"the longest {duration(longest)}"))
    gpu = fsum(record.gpu_seconds for record in records) / 3600
    tiles.append(("GPU hours", f"{gpu:,.2f}" if gpu else "0", "held by trials" if gpu else "no GPU was used"))
    return tiles


def _cautions(rows: Sequence[Row], judged: Sequence[Row]) -> list[str]:
    lines = [wording.SPLIT_NOTES[SPLIT]] if judged else []
    if judged and judged[0].seeds == 1 and len(judged) > 1:
        lines.append(
            f"No set of parameters was repeated with another seed: part of the lead over the {len(judged) - 1} others "
            "is luck."
        )
    failed = [row for row in rows if row.state == "failed"]
    if failed:
        lines.append(f"{wording.count(len(failed), 'set')} of parameters failed; the first: {failed[0].reason or '–'}")
    return lines


def _facts(description: Description) -> list[tuple[str, str]]:
    facts = [
        ("Family", description.family),
        ("Cohort", description.cohort),
        ("Cohort content hash", description.cohort_hash),
        ("Task", description.task or "the cohort's first, or all"),
        ("Figures optimised", ", ".join(description.metrics)),
        ("Space", "; ".join(f"{key}: {_settings(value)}" for key, value in description.space.items())),
        ("Search", _settings(description.search)),
        ("Scheduler", _settings(description.scheduler)),
        ("Folds", _settings(description.folds)),
        ("Repeats", _settings(description.repeats)),
        ("Config otherwise", _settings(description.base)),
        ("Begun", description.created),
        ("Page written", datetime.now(UTC).isoformat(timespec="seconds")),
        ("Versions", ", ".join(f"{name} {version}" for name, version in description.versions.items())),
    ]
    return [(name, value) for name, value in facts if value]


def _settings(values: Any) -> str:
    """Nested settings in one line: "method tpe, trials 24"."""
    if not isinstance(values, Mapping):
        return value_text(values, 400)
    return ", ".join(
        f"{key} ({_settings(value)})" if isinstance(value, Mapping) else f"{key} {value_text(value, 400)}"
        for key, value in values.items()
        if value not in (None, {}, [], "")
    )
