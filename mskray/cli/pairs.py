"""Pairs of images: the table of every model and their votes."""

from typing import Annotated

import typer

from mskray.cli.app import app
from mskray.progress import Display


@app.command("pair-table")
def pair_table(
    cohort: Annotated[str, typer.Argument(help="URI of a pair cohort.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[section.key=value]…", help="Such as vocabularies=[50,500], descriptors=[sift], folds.count=5."
        ),
    ] = None,
    out: Annotated[str, typer.Option(help="Folder of the table and of its finished cells.")] = ...,  # type: ignore[assignment]
    weights: Annotated[
        str | None, typer.Option(help="Of the softmax's backbone: none, imagenet, or the URI of a state dict.")
    ] = None,
    bundle: Annotated[str | None, typer.Option(help="Bundle whose network's features the softmax is given.")] = None,
) -> None:
    """Cross-validate every model of pairs and their votes, as in CRMO's table. Run again, it continues."""
    from mskray.config import apply_overrides, validate
    from mskray.verbs.pair_table import PAGE, PairTableConfig
    from mskray.verbs.pair_table import pair_table as run

    network = {name: value for name, value in (("weights", weights), ("bundle", bundle)) if value is not None}
    given = apply_overrides({"network": network}, overrides or [])
    config = validate(PairTableConfig, given, "the command line")
    display = Display()
    found = run(cohort, out, config, display)
    display.end()
    print(f"{found.text()}\ntable: {out.rstrip('/')}/{PAGE}")
