"""Ours beside the papers'."""

from typing import Annotated, Literal

import typer

from mskray.cli.app import app
from mskray.progress import Display


@app.command()
def report(
    results: Annotated[
        str | None, typer.Option(help="Folder of bundles, each named after its preset, with evaluations.")
    ] = None,
    against: Annotated[Literal["papers"], typer.Option(help="What ours is held against.")] = "papers",
    table: Annotated[str | None, typer.Option(help="One of the tables; all if not given.")] = None,
) -> None:
    """Print the papers' tables with our figures below theirs, and "not run" where there are none."""
    from mskray.verbs.papers import against_papers, find_tables

    print(against_papers(find_tables(table), results))


@app.command()
def reproduce(
    table: Annotated[str, typer.Argument(help="A paper's table; `mskray report` names them.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[section.key=value]…")] = None,
    cohort: Annotated[str, typer.Option(help="URI of a MURA cohort.")] = ...,  # type: ignore[assignment]
    results: Annotated[str, typer.Option(help="Folder of the bundles to make.")] = ...,  # type: ignore[assignment]
    configs: Annotated[str, typer.Option(help="Folder of the presets.")] = "jobs/configs",
) -> None:
    """Train and evaluate all models of a paper's table, and print it beside ours. Run again, it continues."""
    from mskray.verbs.papers import reproduce as run

    display = Display()
    text = run(table, cohort, results, configs, overrides or [], display)
    display.end()
    print(text)
