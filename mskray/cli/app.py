"""The Typer application, and options that several commands share."""

from typing import Annotated

import typer

app = typer.Typer(
    name="mskray",
    help="Train, tune, evaluate and serve musculoskeletal imaging models on Ray.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
cohort_app = typer.Typer(help="Look at cohorts.", no_args_is_help=True)
app.add_typer(cohort_app, name="cohort")


Workers = Annotated[int, typer.Option(min=1, help="Actors that predict, each with one CPU.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Gpu = Annotated[bool, typer.Option("--gpu", help="Give each worker a GPU.")]
