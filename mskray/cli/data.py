"""From images to cohorts."""

import os
import re
from typing import Annotated, Any

import typer

from mskray.cli.app import AsJson, Gpu, Workers, app, cohort_app
from mskray.errors import UserError
from mskray.progress import Display

_OPTION = re.compile(r"[a-z_]+(\.[a-z0-9_]+)*=")


@app.command("sources")
def list_sources(
    name: Annotated[str | None, typer.Argument(help="Print this source's options.")] = None,
    as_json: AsJson = False,
) -> None:
    """List what can be ingested, or one source's options: type, bounds, default."""
    from mskray.verbs.sources import source_table, sources_table

    print(source_table(name, as_json) if name else sources_table(as_json))


@app.command()
def ingest(
    source: Annotated[str, typer.Argument(help="One of `mskray sources`, such as mura or manifest.")],
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[IN] [key=value]…",
            help="Folder, file or URI; options (`mskray sources SOURCE`).",
        ),
    ] = None,
    out: Annotated[str, typer.Option(help="URI of the cohort to make.")] = ...,  # type: ignore[assignment]
    size: Annotated[
        int | None, typer.Option(help="Side of the stored images, px; the source's own if not given, mostly 224.")
    ] = None,
    bits: Annotated[int, typer.Option(help="8 or 16 bits a stored pixel.")] = 8,
    fit: Annotated[str, typer.Option(help="pad keeps the aspect ratio, stretch does not.")] = "pad",
    split_fractions: Annotated[
        str | None, typer.Option(help="Cut patients anew: train,validation,test, such as 0.7,0.15,0.15.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the split.")] = 0,
    names: Annotated[
        str | None, typer.Option(help="CSV to write of which path has which hashed identifiers; keep it to yourself.")
    ] = None,
) -> None:
    """Turn images of a foreign layout into a cohort. Run again, it continues or changes nothing."""
    from mskray.cohorts.ingest import ingest as run
    from mskray.config import apply_overrides
    from mskray.verbs.cohort import ingest_lines

    options = [word for word in words or [] if _is_option(word)]
    places = [word for word in words or [] if not _is_option(word)]
    if len(places) > 1:
        raise UserError(f"ingest takes one IN, not {len(places)}: {', '.join(places)}")
    settings: dict[str, Any] = {"bits": bits, "fit": fit, "seed": seed}
    if size is not None:
        settings["size"] = size
    if split_fractions is not None:
        settings["split_fractions"] = _fractions(split_fractions)
    display = Display()
    place = places[0] if places else None
    summary = run(source, place, out, apply_overrides({}, options), settings, display, names=names)
    display.end()
    print(ingest_lines(summary))


@app.command()
def montage(
    source: Annotated[
        str, typer.Argument(metavar="IN", help="File, folder or prefix of DICOM series, NIfTI or MetaImage.")
    ],
    out: Annotated[str, typer.Option(help="PNG to write.")] = "montage.png",
) -> None:
    """Print the geometry of volumes and draw their slices: what was read, before anything is learned from it."""
    from mskray.verbs.montage import montage as run

    print(run(source, out))


@app.command("remove-flags")
def remove_flags(
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE", help="A trained flag_detector.")],
    cohort: Annotated[str, typer.Argument(metavar="COHORT")],
    out: Annotated[str, typer.Option(help="URI of the cohort to make.")] = ...,  # type: ignore[assignment]
    workers: Workers = 1,
    gpu: Gpu = False,
) -> None:
    """Make a cohort without L/R markers: same splits, labels and identifiers. Run again, it continues."""
    from mskray.verbs.remove_flags import remove_flags as run

    display = Display()
    done = run(bundle, cohort, out, workers=workers, gpu=gpu, report=display)
    display.end()
    print(done.lines())


@cohort_app.command("show")
def cohort_show(
    uri: str,
    sheet: Annotated[
        str | None, typer.Option(help="Where the contact sheet goes; beside the cohort if not given.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split of the contact sheet; the first if not given.")] = None,
    seed: Annotated[int, typer.Option(help="Which images are drawn.")] = 0,
) -> None:
    """Print counts by split, part and label, the quarantine, and draw a contact sheet as PNG."""
    from mskray.verbs.cohort import show

    print(show(uri, sheet, split, seed))


def _is_option(word: str) -> bool:
    """Tell `key=value` from an IN such as `date=2026/images.csv`, which exists."""
    return _OPTION.match(word) is not None and not os.path.exists(word)


def _fractions(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"--split-fractions {text}: give three numbers such as 0.7,0.15,0.15") from None
