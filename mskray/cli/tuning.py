"""Searching a family's config, looking at a search, and making models of it.

mskray tune CONFIG.yaml [section.key=value]…
mskray tune show SEARCH
mskray tune promote SEARCH… --out BUNDLE
"""

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from mskray.cli.app import app
from mskray.progress import Display

_RUN = "run"


class _RunsConfigs(TyperGroup):
    """A first word that is no command is the config of a search."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        return super().resolve_command(ctx, args if args[0] in self.commands else [_RUN, *args])


tune_app = typer.Typer(
    cls=_RunsConfigs,
    no_args_is_help=True,
    subcommand_metavar="CONFIG.yaml [section.key=value]… | show SEARCH | promote SEARCH… --out BUNDLE",
    help="Search a family's config: CONFIG.yaml is a training job with a space. Run again, it continues.",
)
app.add_typer(tune_app, name="tune")


@tune_app.command(_RUN, hidden=True)
def run(
    config: Annotated[str, typer.Argument(metavar="CONFIG.yaml")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[section.key=value]…")] = None,
) -> None:
    """Search. The same command goes on after an interruption or with a larger budget, and repeats no finished trial."""
    from mskray.config import apply_overrides, read_yaml

    data = apply_overrides(read_yaml(config), overrides or [])
    where = f"{config} and the command line" if overrides else config
    from mskray.tuning.page import PAGE
    from mskray.verbs.tune import parse_search, tune
    from mskray.verbs.tune_show import show as shown

    display = Display()
    ledger = tune(*parse_search(data, where), where, report=display)
    display.end()
    print(f"{shown(str(ledger.folder))}\n{ledger.folder.join(PAGE)}")


@tune_app.command()
def show(search: Annotated[str, typer.Argument(metavar="SEARCH", help="URI of a search's folder.")]) -> None:
    """Print the leaderboard of a search, also while it runs."""
    from mskray.verbs.tune_show import show as shown

    print(shown(search))


@tune_app.command()
def promote(
    searches: Annotated[list[str], typer.Argument(metavar="SEARCH…", help="URIs of searches' folders.")],
    out: Annotated[str, typer.Option(help="URI of the bundle or ensemble to write.")],
    ensemble: Annotated[
        int, typer.Option(help="Members of an ensemble of the best trials, chosen greedily; 0 for the winner alone.")
    ] = 0,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Workers of each training; the search's if not given.")
    ] = None,
    gpu: Annotated[bool | None, typer.Option(help="Give each worker a GPU; as in the search if not given.")] = None,
) -> None:
    """Train the winner anew on train and validation, or the members of an ensemble. Run again, it continues."""
    from mskray.ensemble import Ensemble
    from mskray.verbs.promote import promote as make

    display = Display()
    given = {name: value for name, value in (("workers", workers), ("gpu", gpu)) if value is not None}
    made = make(searches, out, ensemble=ensemble, resources=given, report=display)
    display.end()
    print(f"{'ensemble' if isinstance(made, Ensemble) else 'bundle'}: {out}  ({made.name})")
