"""The command line, thin: it reads words, calls `mskray.verbs`, prints what came out.

    mskray --help

A user's mistake is one line on stderr and exit code 2. Modules that import torch or Ray are imported by the command
that needs them, so that `--help` and mistakes answer at once.
"""

import os
import re
import signal
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import typer

from mskray.errors import UserError
from mskray.progress import Display

app = typer.Typer(
    name="mskray",
    help="Train, evaluate and serve musculoskeletal imaging models on Ray.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
cohort_app = typer.Typer(help="Look at cohorts.", no_args_is_help=True)
app.add_typer(cohort_app, name="cohort")

_INTERRUPTED = 130
_GOES_ON = ("ingest", "train", "reproduce", "remove-flags")
"""Commands that an interruption does not set back."""
_OPTION = re.compile(r"[a-z_]+(\.[a-z0-9_]+)*=")

Workers = Annotated[int, typer.Option(min=1, help="Actors that predict, each with one CPU.")]
Gpu = Annotated[bool, typer.Option("--gpu", help="Give each worker a GPU.")]


def main(words: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 for success, 2 for a user's mistake, 130 after Ctrl-C."""
    quiet_ray()
    signal.signal(signal.SIGTERM, _terminate)
    given = list(sys.argv[1:] if words is None else words)
    try:
        # Standalone, Typer would draw a box around each mistake; here a mistake is one line.
        code = app(args=given, standalone_mode=False) or 0
    except typer.TyperException as error:
        print(f"error: {error.format_message() or 'a command is missing'} (see mskray --help)", file=sys.stderr)
        code = error.exit_code
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    if code == _INTERRUPTED:
        hint = "; the same command goes on where this one was" if given[0] in _GOES_ON else ""
        print(f"\nstopped{hint}", file=sys.stderr)
    sys.exit(code)


def quiet_ray() -> None:
    """Ray reads its variables when it is first imported."""
    # It would have each worker build the environment anew when the driver runs under `uv run`.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    # Ending Serve in order makes Ray report its own controller as failed.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "graceful_shutdown failed")


def _terminate(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


@app.command()
def ingest(
    source: Annotated[str, typer.Argument(help="mura, knee-oa, grazpedwri, manifest, dicom or phantom.")],
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[IN] [key=value]…", help="Folder, file or URI, none for phantom; a source's options."),
    ] = None,
    out: Annotated[str, typer.Option(help="URI of the cohort to make.")] = ...,  # type: ignore[assignment]
    size: Annotated[int, typer.Option(help="Side of the stored square images, px.")] = 224,
    bits: Annotated[int, typer.Option(help="8 or 16 bits a stored pixel.")] = 8,
    fit: Annotated[str, typer.Option(help="pad keeps the aspect ratio, stretch does not.")] = "pad",
    split_fractions: Annotated[
        str | None, typer.Option(help="Cut patients anew: train,validation,test, such as 0.7,0.15,0.15.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the split.")] = 0,
) -> None:
    """Turn images of a foreign layout into a cohort. Run again, it continues or changes nothing."""
    from mskray.cohorts import ingest as run
    from mskray.config import apply_overrides
    from mskray.verbs.cohort import ingest_lines

    options = [word for word in words or [] if _is_option(word)]
    places = [word for word in words or [] if not _is_option(word)]
    if len(places) > 1:
        raise UserError(f"ingest takes one IN, not {len(places)}: {', '.join(places)}")
    settings: dict[str, Any] = {"size": size, "bits": bits, "fit": fit, "seed": seed}
    if split_fractions is not None:
        settings["split_fractions"] = _fractions(split_fractions)
    display = Display()
    summary = run(source, places[0] if places else None, out, apply_overrides({}, options), settings, display)
    display.end()
    print(ingest_lines(summary))


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


@app.command("families")
def list_families(
    name: Annotated[str | None, typer.Argument(help="Print this family's config.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the model families, or one family's config: type, bounds, default, unit, source."""
    from mskray.verbs.families import families_table, family_table

    print(family_table(name, as_json) if name else families_table(as_json))


@app.command()
def train(
    config: Annotated[str, typer.Argument(metavar="CONFIG.yaml")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[section.key=value]…")] = None,
) -> None:
    """Train a bundle. The same command goes on after an interruption, and does nothing when it is done."""
    from mskray.config import apply_overrides, read_yaml

    data = apply_overrides(read_yaml(config), overrides or [])
    from mskray.verbs.train import parse_job
    from mskray.verbs.train import train as run

    display = Display()
    job, chosen, settings = parse_job(data, config)
    bundle = run(job, chosen, settings, report=display)
    display.end()
    best = "  ".join(
        f"{key.removeprefix('val_')} {value:.3f}" for key, value in bundle.best.items() if key.startswith("val_")
    )
    print(f"best epoch {bundle.best['epoch']} of {bundle.epochs}  {best}")
    print(f"bundle: {job.out}")


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(metavar="BUNDLE|ENSEMBLE")],
    cohort: Annotated[str, typer.Option(help="URI of the cohort.")],
    split: Annotated[str, typer.Option(help="Held-out split.")] = "test",
    out: Annotated[str | None, typer.Option(help="Folder of the report; beside the model if not given.")] = None,
    resamples: Annotated[int, typer.Option(help="Bootstrap resamples of the patients.")] = 1000,
    workers: Workers = 1,
    gpu: Gpu = False,
) -> None:
    """Evaluate on held-out studies: figures with intervals, curves, the worst errors, as report.html."""
    from mskray.verbs.detection import detection_lines, evaluate_detector, is_detector
    from mskray.verbs.evaluate import REPORT, evaluate_model, figure_lines

    display = Display()
    more: Any = {"workers": workers, "gpu": gpu, "resamples": resamples, "report": display}
    if is_detector(model):
        figures, folder = evaluate_detector(model, cohort, split, out, **more)
        display.end()
        print(f"{detection_lines(figures)}\n{folder}")
        return
    result, folder = evaluate_model(model, cohort, split, out, **more)
    display.end()
    print(figure_lines(result))
    print(f"report: {folder.join(REPORT)}")


@app.command()
def ensemble(
    bundles: Annotated[list[str], typer.Argument(metavar="BUNDLE…")],
    out: Annotated[str, typer.Option(help="URI of the ensemble to write.")],
    weight: Annotated[list[float] | None, typer.Option(help="One for each bundle; equal if not given.")] = None,
    calibrate: Annotated[
        str | None, typer.Option(metavar="COHORT", help="Set temperature and threshold on its validation split.")
    ] = None,
    remove_flags: Annotated[
        str | None, typer.Option(metavar="BUNDLE", help="A flag_detector: L/R markers are removed before each vote.")
    ] = None,
) -> None:
    """Join bundles in a soft-voting ensemble."""
    from mskray.verbs.ensemble import make_ensemble

    display = Display()
    made = make_ensemble(bundles, out, weights=weight, calibrate=calibrate, remove_flags=remove_flags, report=display)
    display.end()
    print(
        f"ensemble {made.name}: {len(made.members)} members, temperature {made.calibration.temperature:.2f}, "
        f"threshold {made.threshold:.2f}"
    )


@app.command()
def predict(
    model: Annotated[str, typer.Argument(metavar="BUNDLE|ENSEMBLE")],
    source: Annotated[str, typer.Argument(metavar="IN", help="Image, folder, prefix or cohort.")],
    out: Annotated[str, typer.Option(help="Parquet file to write.")] = "predictions.parquet",
    split: Annotated[str | None, typer.Option(help="Of a cohort, this split only.")] = None,
    workers: Workers = 1,
    gpu: Gpu = False,
) -> None:
    """Predict images in bulk."""
    from mskray.verbs.predict import predict as run

    display = Display()
    table = run(model, source, out, split=split, workers=workers, gpu=gpu, report=display)
    display.end()
    failed = len(table) - table["error"].null_count
    print(f"{len(table):,} images: {len(table) - failed:,} predicted, {failed:,} not readable (column error): {out}")


@app.command()
def explain(
    model: Annotated[str, typer.Argument(metavar="BUNDLE|ENSEMBLE")],
    source: Annotated[str, typer.Argument(metavar="IN", help="Image, folder or prefix of images.")],
    out: Annotated[str, typer.Option(help="Folder; each image gets one of its own in it.")] = ...,  # type: ignore[assignment]
    method: Annotated[
        list[str] | None, typer.Option(help="grad_cam, guided_backprop or saliency; all if not given.")
    ] = None,
    target: Annotated[
        str | None, typer.Option("--class", help="Class to explain; the one called of each image if not given.")
    ] = None,
) -> None:
    """Show where in images a model holds reasons for a class: overlays, maps and boxes."""
    from mskray.verbs.explain import explain as run

    display = Display()
    done = run(model, source, out, methods=method, target=target, report=display)
    display.end()
    for note in done.notes:
        print(f"left out: {note}", file=sys.stderr)
    for path, reason in done.unreadable.items():
        print(f"not readable: {path}: {reason}", file=sys.stderr)
    print(f"{done.images:,} images explained, {len(done.unreadable):,} not readable: {out}")


@app.command()
def serve(
    model: Annotated[str, typer.Argument(metavar="ENSEMBLE|BUNDLE")],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
) -> None:
    """Serve a model over HTTP until Ctrl-C."""
    from mskray.serving.run import serve_forever

    display = Display()
    serve_forever(model, host, port, report=display)
    display.end()


@app.command()
def report(
    results: Annotated[str, typer.Option(help="Folder of bundles, each named after its preset, with evaluations.")],
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


def _is_option(word: str) -> bool:
    """Tell `key=value` from an IN such as `date=2026/images.csv`, which exists."""
    return _OPTION.match(word) is not None and not os.path.exists(word)


def _fractions(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"--split-fractions {text}: give three numbers such as 0.7,0.15,0.15") from None


if __name__ == "__main__":
    main()
