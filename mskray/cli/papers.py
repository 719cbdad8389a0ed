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


@app.command("spine-table")
def spine_table(
    config: Annotated[str, typer.Argument(metavar="CONFIG.yaml", help="A training job; its `out` is a folder.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[section.key=value]…")] = None,
    branch: Annotated[
        list[str] | None,
        typer.Option(help="Branch points to train: none, conv3, conv4, conv5, fc6, fc7; all if not given."),
    ] = None,
) -> None:
    """Train SpineNet at every branch point, twice, and print its Table 2 beside ours. Run again, it continues."""
    from mskray.config import apply_overrides, read_yaml

    data = apply_overrides(read_yaml(config), overrides or [])
    from mskray.models.vgg_m import BRANCHES
    from mskray.verbs.spine_table import MARKDOWN
    from mskray.verbs.spine_table import spine_table as run

    display = Display()
    text, folder = run(data, f"{config} and the command line" if overrides else config, branch or BRANCHES, display)
    display.end()
    print(f"{text}\n{folder.join(MARKDOWN)}")
