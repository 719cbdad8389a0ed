"""Verbs as jobs of a cluster.

mskray submit --address http://HEAD:8265 train CONFIG.yaml out=s3://…
mskray jobs list
mskray jobs follow ID
mskray jobs stop ID
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from mskray.cli.app import app
from mskray.cli.submitted import read_command
from mskray.errors import Fault
from mskray.progress import Display

jobs_app = typer.Typer(help="Jobs of a cluster: list, follow, stop.", no_args_is_help=True)
app.add_typer(jobs_app, name="jobs")

Address = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="The cluster's dashboard; RAY_API_SERVER_ADDRESS or RAY_ADDRESS, then this machine's, if not given.",
    ),
]
Name = Annotated[str, typer.Argument(metavar="ID", help="As `mskray jobs list` names it.")]


@app.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def submit(
    verb: Annotated[str, typer.Argument(metavar="VERB", help="Such as train, ingest or tune.")],
    words: Annotated[list[str] | None, typer.Argument(metavar="ARGS…", help="As behind `mskray VERB`.")] = None,
    address: Address = None,
    detach: Annotated[bool, typer.Option("--detach", help="Do not follow the job.")] = False,
    send_code: Annotated[
        bool, typer.Option("--send-code", help="Run this installation's package, not that of the cluster's nodes.")
    ] = False,
) -> None:
    """Run a verb as a job of a cluster and follow it; exits as the job does. Submitted again, the same is followed."""
    command = read_command(app, verb, words or [])
    from mskray.verbs.submit import Submission, follow, rejoining
    from mskray.verbs.submit import submit as run
    from mskray.verbs.submit_client import connect
    from mskray.verbs.submit_words import read_words

    submission = Submission(verb, read_words(verb, command.words, command.params), send_code)
    display = Display()
    with _trying_again():
        jobs = connect(address, display)
        name = run(jobs, submission, display)
        rejoin = rejoining(address, name)
        display.end()
        if detach:
            print(f"{name}\nfollow it with: {rejoin}")
            return
        code = follow(jobs, name, rejoin, display)
    display.end()
    raise typer.Exit(code)


@jobs_app.command("list")
def list_jobs(address: Address = None) -> None:
    """Print the cluster's jobs: verb, state, when they began, exit code."""
    from mskray.verbs.submit import jobs_table
    from mskray.verbs.submit_client import connect

    display = Display()
    with _trying_again():
        print(jobs_table(connect(address, display), display))


@jobs_app.command("follow")
def follow_job(name: Name, address: Address = None) -> None:
    """Print what a job prints, from its beginning, until it ends; exits as the job does."""
    from mskray.verbs.submit import follow, rejoining
    from mskray.verbs.submit_client import connect

    display = Display()
    with _trying_again():
        code = follow(connect(address, display), name, rejoining(address, name), display)
    display.end()
    raise typer.Exit(code)


@jobs_app.command("stop")
def stop_job(name: Name, address: Address = None) -> None:
    """Stop a job. What it has stored stays, and the same command goes on from there."""
    from mskray.verbs.submit import stop
    from mskray.verbs.submit_client import connect

    display = Display()
    with _trying_again():
        print(stop(connect(address, display), name, display))


@contextmanager
def _trying_again() -> Iterator[None]:
    """A cluster that does not answer is exit code 75: what was asked may work later, as it is."""
    import sys

    try:
        yield
    except Fault as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(75) from None
