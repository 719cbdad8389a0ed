"""From cohorts to models and what they are worth."""

from typing import Annotated, Any

import typer

from mskray.cli.app import AsJson, Gpu, Workers, app
from mskray.progress import Display


@app.command("families")
def list_families(
    name: Annotated[str | None, typer.Argument(help="Print this family's config and search spaces.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the model families, or one family's config (type, bounds, default, unit, source) and search spaces."""
    from mskray.verbs.families import families_table, family_table

    print(family_table(name, as_json) if name else families_table(as_json))


@app.command()
def train(
    config: Annotated[str, typer.Argument(metavar="CONFIG.yaml")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[section.key=value]…")] = None,
    add: Annotated[
        list[str] | None,
        typer.Option(metavar="COHORT", help="Learn its train split too, such as what readers corrected; repeatable."),
    ] = None,
    local: Annotated[
        bool,
        typer.Option("--local", help="Train in this process, though RAY_ADDRESS names a cluster; one worker."),
    ] = False,
) -> None:
    """Train a bundle. The same command goes on after an interruption, and does nothing when it is done."""
    from mskray.config import apply_overrides, read_yaml

    data = apply_overrides(read_yaml(config), overrides or [])
    if add:
        given = data.get("add", [])
        data["add"] = [*(given if isinstance(given, list) else [given]), *add]
    from mskray.verbs.train import parse_job, stays_here
    from mskray.verbs.train import train as run

    display = Display()
    job, chosen, settings = parse_job(data, f"{config} and the command line" if overrides else config)
    local = local or stays_here(job, chosen)
    if local:
        from mskray.training.memory import keep_memory

        keep_memory()
    bundle = run(job, chosen, settings, report=display, local=local)
    display.end()
    best = "  ".join(
        f"{key.removeprefix('val_')} {value:.3f}" for key, value in bundle.best.items() if key.startswith("val_")
    )
    which = "last" if "validation" in bundle.learned else "best"
    epoch = f"{which} epoch {bundle.best['epoch']} of {bundle.epochs}" if bundle.history else "nothing was trained"
    print(f"{epoch}  {best}".rstrip())
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
    from mskray.prediction.tasks import answers_tasks
    from mskray.verbs.detection import detection_lines, evaluate_detector, is_detector
    from mskray.verbs.evaluate import REPORT, evaluate_model, figure_lines
    from mskray.verbs.grading import evaluate_tasks, grading_lines
    from mskray.verbs.vertebra_evaluation import evaluate_vertebrae, is_vertebra_detector, vertebra_lines

    display = Display()
    more: Any = {"workers": workers, "gpu": gpu, "resamples": resamples, "report": display}
    if is_detector(model):
        figures, folder = evaluate_detector(model, cohort, split, out, **more)
        display.end()
        print(f"{detection_lines(figures)}\n{folder}")
        return
    if answers_tasks(model):
        gradings, folder = evaluate_tasks(model, cohort, split, out, **more)
        display.end()
        print(f"{grading_lines(gradings)}\n{folder}")
        return
    if is_vertebra_detector(model):
        spines, folder = evaluate_vertebrae(model, cohort, split, out, **more)
        display.end()
        print(f"{vertebra_lines(spines)}\n{folder}")
        return
    result, folder = evaluate_model(model, cohort, split, out, **more)
    display.end()
    print(figure_lines(result))
    print(f"report: {folder.join(REPORT)}")


@app.command()
def compare(
    old: Annotated[str, typer.Argument(metavar="OLD", help="Bundle or ensemble.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="Bundle or ensemble that tells the same apart.")],
    cohort: Annotated[str, typer.Option(help="URI of the cohort.")],
    split: Annotated[str, typer.Option(help="Split that neither has seen.")] = "test",
    out: Annotated[str | None, typer.Option(help="Folder of the report; beside NEW if not given.")] = None,
    resamples: Annotated[int, typer.Option(help="Bootstrap resamples of the patients.")] = 1000,
    workers: Workers = 1,
    gpu: Gpu = False,
) -> None:
    """Compare two models on the same held-out studies: paired differences, and which calls change."""
    from mskray.evaluation.places import COMPARED_PAGE
    from mskray.verbs.compare import compare_models, comparison_lines

    display = Display()
    more: Any = {"workers": workers, "gpu": gpu, "resamples": resamples, "report": display}
    found, folder = compare_models(old, new, cohort, split, out, **more)
    display.end()
    print(f"{comparison_lines(found)}\n\nreport: {folder.join(COMPARED_PAGE)}")


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
