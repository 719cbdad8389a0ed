"""Models at work."""

import sys
from typing import Annotated

import typer

from mskray.cli.app import Gpu, Workers, app
from mskray.errors import UserError
from mskray.progress import Display


@app.command()
def predict(
    model: Annotated[str, typer.Argument(metavar="BUNDLE|ENSEMBLE", help="Not with --server.")],
    source: Annotated[str, typer.Argument(metavar="IN", help="Image, folder, prefix or cohort.")] = "",
    out: Annotated[str, typer.Option(help="Parquet file to write.")] = "predictions.parquet",
    split: Annotated[str | None, typer.Option(help="Of a cohort, this split only.")] = None,
    workers: Workers = 1,
    gpu: Gpu = False,
    server: Annotated[
        str | None, typer.Option(metavar="URL", help="Ask this server, with the token in MSKRAY_TOKEN if it has any.")
    ] = None,
) -> None:
    """Predict images in bulk: with a model, or `mskray predict --server URL IN`."""
    display = Display()
    if server is not None:
        from mskray.verbs.predict_remote import predict_remote

        if source or split or gpu or workers > 1:
            raise UserError("--server takes the images alone: the server has its own model, workers and GPUs")
        table = predict_remote(server, model, out, report=display)
    else:
        from mskray.training.memory import keep_memory
        from mskray.verbs.predict import predict as run

        if not source:
            raise UserError("predict needs a model and images: mskray predict BUNDLE|ENSEMBLE IN, or --server URL IN")
        keep_memory()
        table = run(model, source, out, split=split, workers=workers, gpu=gpu, report=display)
    display.end()
    failed = len(table) - table["error"].null_count
    done = len(table) - failed
    print(f"{len(table):,} images: {done:,} predicted, {failed:,} not readable (why: in the column `error`): {out}")


@app.command()
def explain(
    model: Annotated[str, typer.Argument(metavar="BUNDLE|ENSEMBLE")],
    source: Annotated[str, typer.Argument(metavar="IN", help="Image, folder or prefix of images, cohort of discs.")],
    out: Annotated[str, typer.Option(help="Folder; each image gets one of its own in it.")] = ...,  # type: ignore[assignment]
    method: Annotated[
        list[str] | None,
        typer.Option(help="grad_cam, guided_backprop or saliency, of discs hotspots or saliency; all if not given."),
    ] = None,
    target: Annotated[
        str | None, typer.Option("--class", help="Class to explain; the one called of each image if not given.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="Of a cohort, the task whose grade is explained.")] = None,
    split: Annotated[str | None, typer.Option(help="Of a cohort, this split; test if not given.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Of a cohort, so many discs; all if not given.")] = None,
    copies: Annotated[
        int | None,
        typer.Option(min=1, max=10_000, help="Augmented ones that hotspots are the mean of; 64 if not given."),
    ] = None,
    gpu: Gpu = False,
) -> None:
    """Show where in images a model holds reasons for a class: overlays, maps and boxes."""
    from mskray.training.memory import keep_memory
    from mskray.verbs.explain import explain as run

    display = Display()
    keep_memory()
    done = run(
        model,
        source,
        out,
        methods=method,
        target=target,
        task=task,
        split=split,
        limit=limit,
        copies=copies,
        gpu=gpu,
        report=display,
    )
    display.end()
    for note in done.notes:
        print(f"left out: {note}", file=sys.stderr)
    for path, reason in done.unreadable.items():
        print(f"not readable: {path}: {reason}", file=sys.stderr)
    images = f"{done.images:,} image{'s' * (done.images != 1)}"
    print(f"{images} explained, {len(done.unreadable):,} not readable: {out}")


@app.command("find-vertebrae")
def find_vertebrae(
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE", help="A trained vertebra_detector.")],
    source: Annotated[str, typer.Argument(metavar="IN", help="NIfTI, MetaImage or DICOM: file, folder or prefix.")],
    out: Annotated[str, typer.Option(help="JSON file to write.")] = "corners.json",
    overlay: Annotated[str | None, typer.Option(help="Folder of a picture for each volume.")] = None,
    gpu: Gpu = False,
) -> None:
    """Find vertebral bodies in sagittal MR volumes: corners and names from S1 to T12."""
    from mskray.verbs.find_vertebrae import find_vertebrae as run

    display = Display()
    done = run(bundle, source, out, overlay, gpu=gpu, report=display)
    display.end()
    print(done.lines())
    kept = f", {done.kept:,} of them kept from before" if done.kept else ""
    print(f"{len(done.spines):,} volumes{kept}, {len(done.rejected):,} files or volumes left out: {out}")


@app.command()
def grade(
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE", help="A spinenet that learned from discs.")],
    source: Annotated[str, typer.Argument(metavar="IN", help="NIfTI, MetaImage or DICOM: file, folder or prefix.")],
    corners: Annotated[str, typer.Option(help="Bodies of these volumes, as find-vertebrae writes them.")] = (
        "corners.json"
    ),
    out: Annotated[str, typer.Option(help="CSV file to write.")] = "grades.csv",
    gpu: Gpu = False,
) -> None:
    """Grade the discs between the vertebral bodies of sagittal MR volumes: a CSV with a row a disc."""
    from mskray.verbs.grade import grade as run

    display = Display()
    done = run(bundle, source, corners, out, gpu=gpu, report=display)
    display.end()
    if lines := done.lines():
        print(lines, file=sys.stderr)
    kept = f", {done.kept:,} of them graded before" if done.kept else ""
    print(f"{done.called:,} discs graded{kept}, {len(done.rows) - done.called:,} not: {out}")
