"""`mskray tune show URI`: the leaderboard of a search as text; nothing is written and nothing is started."""

from collections.abc import Sequence

from mskray.progress import duration
from mskray.storage import Location, locate
from mskray.tuning.leaderboard import Row, counted, pareto_rows, ranked
from mskray.tuning.ledger import Description, Ledger
from mskray.tuning.wording import figure_text, keys_of, metric_name, parameters_text, short_names, spread_text
from mskray.verbs.tables import table


def show(uri: str | Location) -> str:
    """The trials of a search, the best first, those of the Pareto front marked, and how to go on.

    Raises:
        UserError: there is no search, it cannot be read, or one of its metrics was never reported.
    """
    folder = locate(uri)
    ledger = Ledger(folder)
    description, records = ledger.describe(), ledger.trials()
    rows = ranked(description, records)
    lines = [
        f"search of {description.family} on {description.cohort}, by {', '.join(description.metrics)}",
        f"{len(records)} trials: {counted(records)}" if records else "no trial has been suggested yet",
    ]
    if rows:
        names = short_names(keys_of(description, records))
        several = len(description.metrics) > 1
        front = {row.id for row in pareto_rows(description, rows)} if several else set()
        lines += ["", _table(description, rows, names, front), ""]
        if several:
            lines.append("*: on the Pareto front: no other is better in one figure and as good in the others")
        lines.append(_next(description, rows, folder))
    return "\n".join(lines)


def _table(description: Description, rows: Sequence[Row], names: dict[str, str], front: set[str]) -> str:
    figures = [metric_name(metric) for metric in description.metrics]
    body = [
        [
            f"{row.rank or '–'}{'*' if row.id in front else ''}",
            row.id,
            *(figure_text(row.figures.get(metric)) for metric in description.metrics),
            spread_text(row.figures.get(description.metrics[0])),
            duration(row.seconds),
            parameters_text(row.parameters, names),
            f"{row.state}: {row.reason}" if row.reason else row.state,
        ]
        for row in rows
    ]
    return table(["rank", "trial", *figures, "± over", "time", "parameters", "state"], body)


def _next(description: Description, rows: Sequence[Row], folder: Location) -> str:
    if not rows[0].rank:
        return "nothing to promote: no trial has finished"
    if description.of_votes:
        return f"mskray tune promote {folder} writes the ensemble of {rows[0].id}"
    text = f"mskray tune promote {folder} retrains {rows[0].id} on train + validation and writes its bundle"
    finished = sum(row.rank > 0 for row in rows)
    return text + (
        f"; --ensemble N writes those of the {finished} that vote best together, N at most" if finished > 1 else ""
    )
