"""`mskray evaluate BUNDLE|ENSEMBLE --cohort URI --split NAME`: held-out studies become a report."""

import platform
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import mskray
from mskray import cluster, ensemble
from mskray.bundles import Bundle, read_description
from mskray.cohorts import Cohort, Task, open_cohort
from mskray.cohorts.reach import check_everywhere
from mskray.ensemble import Ensemble
from mskray.evaluation.bootstrap import Figure
from mskray.evaluation.places import METRICS, PREDICTIONS, REPORT, evaluation_folder
from mskray.evaluation.published import published_figures
from mskray.evaluation.report import Context, write_report
from mskray.evaluation.result import Evaluation, check_resamples, evaluate, right_calls, worst_errors
from mskray.prediction.batch import Predicting
from mskray.progress import Progress, Report, silent
from mskray.storage import Location, check_access, locate
from mskray.storage.tables import parquet_bytes
from mskray.unseen import check_held_out
from mskray.verbs.pictures import explained_pictures


def evaluate_model(
    model: str,
    cohort_uri: str,
    split: str,
    out: str | None = None,
    *,
    workers: int = 1,
    gpu: bool = False,
    resamples: int = 1000,
    report: Report = silent,
) -> tuple[Evaluation, Location]:
    """Predict a split, compute every figure with its interval, and write report, metrics and predictions.

    Args:
        model: URI of a bundle or ensemble.
        out: folder of the report; `evaluation/<split>-<first 8 digits of the cohort's hash>` in the model's when None.
    Returns:
        The evaluation and the report's folder.
    Raises:
        UserError: before any work, when model, cohort, split or `out` does not do.
    """
    location = locate(model)
    check_resamples(resamples)
    for place in (location, locate(cohort_uri)):
        check_access(place)
    described, cohort = ensemble.describe(location), open_cohort(cohort_uri)
    bundles, task = held_out(described, cohort, split, check_held_out)
    target = locate(out) if out else evaluation_folder(location, cohort, split)
    check_access(target, write=True)
    predicting = Predicting(str(location), described, workers, gpu, report)
    with cluster.session():
        check_everywhere([location, cohort.location])
        table = predicted(predicting, cohort, split)
    judged = pc.is_null(table["error"])
    report(Progress("computing figures and intervals"))
    result = evaluate(
        table.filter(judged),
        described.classes,
        ordinal=task.ordinal,
        threshold=described.threshold,
        resamples=resamples,
    )
    history = bundles[0].history if len(bundles) == 1 else []
    context: Context = {
        "bundle": described.name,
        "family": " + ".join(sorted({bundle.family for bundle in bundles})),
        "cohort": str(cohort.location),
        "cohort_hash": cohort.content_hash,
        "split": split,
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "published": published_figures(cohort.manifest.source, task.name),
        "versions": {"mskray": mskray.__version__, "Python": platform.python_version(), **bundles[0].versions},
    }
    worst, right = worst_errors(result), right_calls(result)
    pictures = explained_pictures(described, str(location), cohort, split, [*worst, *right], report)
    page = write_report(result, context, pictures[: len(worst)], history, pictures[len(worst) :])
    target.join(PREDICTIONS).write_bytes(parquet_bytes(table))
    where = {"uri": str(cohort.location), "content_hash": cohort.content_hash, "source": cohort.manifest.source}
    target.join(METRICS).write_json({"model": str(location), "cohort": where, "split": split, **result.to_dict()})
    target.join(REPORT).write_bytes(page.encode())
    return result, target


def held_out(
    described: Ensemble, cohort: Cohort, split: str, check: Callable[[Bundle, Cohort, str], None]
) -> tuple[list[Bundle], Task]:
    """Return the members of a model and what it tells apart. Raises UserError where it cannot be judged by the split.

    Args:
        check: raises UserError where a member has seen the split.
    """
    cohort.shards(split)  # an unknown split is refused here, before anything is loaded
    bundles = [read_description(member.uri) for member in described.members]
    for bundle in bundles:
        check(bundle, cohort, split)
    return bundles, ensemble.matching_task(described, cohort)


def predicted(predicting: Predicting, cohort: Cohort, split: str) -> pa.Table:
    """Predict a split, and say what of it could not be judged, and whether all was judged alike."""
    table = predicting.cohort(cohort, [split])
    if cohort.manifest.kind == "disc":  # graded each for itself, whatever volume it is of
        table = table.set_column(table.column_names.index("study_id"), "study_id", table["instance_id"])
    judged = pc.is_null(table["error"])
    if not pc.all(judged).as_py():
        failed = len(table) - pc.sum(judged).as_py()
        predicting.report(
            Progress(f"{failed} of {len(table)} could not be judged and are in no figure: see column error")
        )
    shares = np.stack([table.filter(judged)[f"prob_{name}"].to_numpy() for name in predicting.ensemble.classes])
    if shares.shape[1] > 1 and not np.ptp(shares, axis=1).any():
        predicting.report(Progress("all have the same probabilities: the model tells nothing apart"))
    return table


def figure_lines(result: Evaluation) -> str:
    """Return the headline figures as text, one line a level and below it one for each part of the model."""
    lines = []
    for name, level in (("study", result.study), ("image", result.image)):
        rows = {f"{name}, n = {level.overall.n:,}": level.overall}
        rows |= {f"  {part}": group for part, group in level.model_parts.items()}
        width = max(map(len, rows))
        lines += [f"{label:{width}}  {_words(group.figures, result.headlines)}" for label, group in rows.items()]
    return "\n".join(lines)


def _words(figures: Mapping[str, Figure], names: Sequence[str]) -> str:
    shown = {name: figures[name] for name in names if figures[name].value is not None}
    if not shown:
        return next((f"no figures ({each.reason})" for each in map(figures.get, names) if each and each.reason), "")
    return "  ".join(f"{name} {each.value:.3f} ({each.low:.3f} to {each.high:.3f})" for name, each in shown.items())
