"""The served ensemble, and who may ask it.

mskray serve ENSEMBLE --tokens tokens.json --audit audit --store store
mskray serve OTHER --roll-out http://127.0.0.1:8000
mskray dicomweb http://HOST:8042/dicom-web --server http://127.0.0.1:8000 --ledger ledger
mskray tokens add tokens.json ward-3 --scope predict --days 90
mskray tokens list tokens.json
mskray tokens remove tokens.json ward-3
"""

from typing import Annotated

import typer

from mskray.cli.app import app
from mskray.errors import UserError
from mskray.progress import Display

tokens_app = typer.Typer(
    help="Who may ask a server: a file of hashed tokens, local or in a bucket.", no_args_is_help=True
)
app.add_typer(tokens_app, name="tokens")

File = Annotated[str, typer.Argument(metavar="FILE", help="URI of the file.")]


@app.command()
def serve(
    model: Annotated[str, typer.Argument(metavar="[ENSEMBLE|BUNDLE]", help="Answers studies of radiographs.")] = "",
    pairs: Annotated[str, typer.Option(help="URI of an ensemble or bundle that judges pairs.")] = "",
    spines: Annotated[str, typer.Option(help="URI of a spinenet that grades discs; with --vertebrae.")] = "",
    vertebrae: Annotated[str, typer.Option(help="URI of the vertebra_detector that finds these discs.")] = "",
    apart: Annotated[
        int, typer.Option(min=0, max=64, help="Deployments to spread the members over; 0 for all in one.")
    ] = 0,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    tokens: Annotated[str | None, typer.Option(help="URI of a file that `mskray tokens add` makes.")] = None,
    audit: Annotated[str | None, typer.Option(help="URI of a folder for the table of who asked what.")] = None,
    store: Annotated[str | None, typer.Option(help="URI of a folder for feedback, jobs and overlays.")] = None,
    tls: Annotated[
        tuple[str, str] | None, typer.Option(metavar="CERTIFICATE KEY", help="PEM files: answer over TLS.")
    ] = None,
    roll_out: Annotated[
        str, typer.Option(metavar="URL", help="Have the server that runs there answer by this ensemble, and end.")
    ] = "",
) -> None:
    """Serve models over HTTP until Ctrl-C: studies, pairs, spines."""
    from mskray.serving.settings import Certificate, Offer, choose_proxy

    display = Display()
    certificate = Certificate(*tls) if tls else None
    if roll_out:
        from mskray.verbs.roll_out import roll_out as change

        if not model or any((pairs, spines, vertebrae, tokens, audit, store, apart, tls)):
            raise UserError("--roll-out takes an ensemble alone: all else is the server's that runs")
        before, now = change(model, roll_out, report=display)
        display.end()
        print(f"answers by {now} (before: {before})")
        return
    choose_proxy(host, certificate)
    from mskray.serving.run import Place, serve_forever

    offer = Offer(ensemble=model, apart=apart, pairs=pairs, spines=spines, vertebrae=vertebrae)
    serve_forever(offer, Place(host, port, tokens, audit, store, certificate), report=display)
    display.end()


@app.command()
def dicomweb(
    archive: Annotated[str, typer.Argument(metavar="ARCHIVE", help="URL of a DICOMweb service.")],
    server: Annotated[str, typer.Option(metavar="URL", help="Server that predicts; its token in MSKRAY_TOKEN.")],
    ledger: Annotated[str, typer.Option(help="URI of a folder: what was done is remembered there.")],
    user: Annotated[str | None, typer.Option(help="Of the archive; the password in MSKRAY_ARCHIVE_PASSWORD.")] = None,
    only: Annotated[
        list[str] | None, typer.Option("--filter", help="KEYWORD=VALUE of studies, as ModalitiesInStudy=DX.")
    ] = None,
    every: Annotated[float, typer.Option(min=1.0, help="Seconds between two looks.")] = 10.0,
    once: Annotated[bool, typer.Option("--once", help="Answer what is there, and end.")] = False,
    pairs: Annotated[
        bool, typer.Option("--pairs", help="Judge pictures beside the patient's latest earlier ones, too.")
    ] = False,
) -> None:
    """Answer each new study of an archive with DICOM results beside it, until Ctrl-C: radiographs, spines, pairs."""
    from mskray.verbs.dicomweb import watch

    filters = dict(each.split("=", 1) for each in only or [] if "=" in each)
    if len(filters) != len(only or []):
        raise UserError("--filter takes KEYWORD=VALUE, each keyword once, as in --filter ModalitiesInStudy=DX")
    display = Display()
    stored = watch(
        archive, server, ledger, user=user, filters=filters, every_s=every, once=once, pairs=pairs, report=display
    )
    display.end()
    print(f"{stored:,} studies answered")


@tokens_app.command()
def add(
    file: File,
    name: Annotated[str, typer.Argument(help="Whose token it is: the audit's word for them.")],
    scope: Annotated[
        list[str] | None, typer.Option(help="predict, feedback or admin; more than once for more.")
    ] = None,
    days: Annotated[int | None, typer.Option(min=1, help="How long it holds; for ever if not given.")] = None,
) -> None:
    """Add a token and print it: it is told this once, the file keeps its hash."""
    from mskray.serving.tokens import add_token

    print(add_token(file, name, scope or ["predict"], days))


@tokens_app.command("list")
def show(file: File) -> None:
    """Print names, scopes and dates."""
    from mskray.serving.tokens import read_tokens
    from mskray.verbs.tables import table

    rows = [
        [
            token.name,
            ", ".join(token.scopes),
            f"{token.created:%Y-%m-%d}",
            "never" if token.expires is None else f"{token.expires:%Y-%m-%d}",
        ]
        for token in read_tokens(file)
    ]
    print(table(["name", "may", "created", "expires"], rows))


@tokens_app.command()
def remove(
    file: File,
    name: Annotated[str, typer.Argument(help="Whose token it is.")],
    older: Annotated[bool, typer.Option("--older", help="Of two of this name only the older one.")] = False,
) -> None:
    """Take a token out; servers that run notice within seconds."""
    from mskray.serving.tokens import remove_token

    remove_token(file, name, older)
    print(f"{name}{', the older one' if older else ''} removed")
