"""`mskray evaluate BUNDLE --cohort URI --split NAME` of a bundle that answers several tasks: every task's grading."""

import platform
from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

import mskray
from mskray import cluster
from mskray.bundles import Bundle, read_description
from mskray.cohorts import Cohort, Task, open_cohort
from mskray.cohorts.reach import check_everywhere
from mskray.cohorts.schema import MISSING
from mskray.errors import UserError
from mskray.evaluation.grading import MAIN, Grading, figures_of, grade
from mskray.evaluation.places import PREDICTIONS, evaluation_folder
from mskray.evaluation.report import Context, write_report
from mskray.evaluation.result import check_resamples, evaluate
from mskray.prediction.tasks import predict_tasks, shared_tasks
from mskray.progress import Progress, Report, silent
from mskray.storage import Location, check_access, locate
from mskray.storage.tables import parquet_bytes
from mskray.unseen import check_held_out
from mskray.verbs.tables import table as draw

GRADING = "grading.json"
SCHEMA_VERSION = 1
NAMES = {
    MAIN: "average per class",
    "accuracy": "accuracy",
    "kappa": "κ",
    "quadratic_kappa": "quadratic κ",
    "within_one": "within one grade",
    "normal_abnormal": "normal or not",
}


def evaluate_tasks(
    model: str,
    cohort: str | Cohort,
    split: str,
    out: str | None = None,
    *,
    workers: int = 1,
    gpu: bool = False,
    resamples: int = 1000,
    report: Report = silent,
) -> tuple[list[Grading], Location]:
    """Predict a split and write `grading.json`, `predictions.parquet` and a page a task, `report-<task>.html`.

    Args:
        model: URI of a bundle that answers several tasks.
        cohort: URI of the cohort, or an opened one.
        out: folder of all; `evaluation/<split>-<first 8 digits of the cohort's hash>` in the bundle's when None.
    Returns:
        The grading of each task that has labels in the split, and the folder.
    Raises:
        UserError: before any work, when bundle, cohort, split or `out` does not do.
    """
    location = locate(model)
    check_resamples(resamples)
    check_access(location)
    if not isinstance(cohort, Cohort):
        check_access(locate(cohort))
        cohort = open_cohort(cohort)
    bundle = read_description(location)
    check_held_out(bundle, cohort, split)
    tasks = _labelled(bundle, cohort, split, str(location))
    target = evaluation_folder(location, cohort, split) if out is None else locate(out)
    check_access(target, write=True)
    with cluster.session():
        check_everywhere([location, cohort.location])
        table = _predicted(str(location), cohort, split, workers, gpu, report)
    report(Progress("computing figures and intervals"))
    gradings = [_graded(table, task, resamples) for task in tasks]
    context: Context = {
        "family": bundle.family,
        "cohort": str(cohort.location),
        "cohort_hash": cohort.content_hash,
        "split": split,
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "versions": {"mskray": mskray.__version__, "Python": platform.python_version(), **bundle.versions},
    }
    for task in tasks:
        page = write_report(
            evaluate(_of_task(table, task, bundle.kind), task.classes, ordinal=task.ordinal, resamples=resamples),
            {**context, "bundle": f"{bundle.name}: {task.name}"},
            history=bundle.history,
        )
        target.join(f"report-{task.name}.html").write_bytes(page.encode())
    target.join(PREDICTIONS).write_bytes(parquet_bytes(table))
    target.join(GRADING).write_json(
        {
            "schema_version": SCHEMA_VERSION,
            "model": str(location),
            "bundle_hash": bundle.hash,
            "cohort": {
                "uri": str(cohort.location),
                "content_hash": cohort.content_hash,
                "source": cohort.manifest.source,
                "exchanged": cohort.exchanged,
            },
            "split": split,
            "resamples": resamples,
            "tasks": {each.task: each.to_dict() for each in gradings},
        }
    )
    return gradings, target


def grading_lines(gradings: Sequence[Grading]) -> str:
    """Return the figures as text: a line a task, a line with their mean, and each class's accuracy below."""
    figures = [name for name in NAMES if any(name in each.figures for each in gradings)]
    rows = [[each.task, f"{each.n:,}", *(_words(each, name) for name in figures)] for each in gradings]
    mean = np.mean([figures_of(each.confusion, ordinal=each.ordinal)[MAIN] for each in gradings])
    rows.append(["mean", "", f"{mean:.3f}", *[""] * (len(figures) - 1)])
    lines = [draw(["task", "n", *(NAMES[name] for name in figures)], rows), ""]
    width = max(len(each.task) for each in gradings)
    for each in gradings:
        shares = [
            f"{name} {'–' if figure.value is None else f'{figure.value:.3f}'} of {figure.n:,}"
            for name, figure in each.per_class.items()
        ]
        lines.append(f"{each.task:{width}}  {', '.join(shares)}")
    return "\n".join(lines)


def _words(grading: Grading, name: str) -> str:
    figure = grading.figures.get(name)
    if figure is None:
        return ""
    if figure.value is None:
        return "–"
    return f"{figure.value:.3f} ({figure.low:.3f} to {figure.high:.3f})"


def _labelled(bundle: Bundle, cohort: Cohort, split: str, model: str) -> list[Task]:
    """The bundle's tasks of which the split has labels. Raises UserError where the classes differ or none has."""
    cohort.shards(split)  # an unknown split is refused here
    labels = cohort.manifest.counts.splits[split].labels
    shared = shared_tasks(bundle.tasks, cohort, model)
    found = [task for task in shared if any(labels.get(task.name, {}).get(each) for each in task.classes)]
    if not found:
        raise UserError(
            f"cohort {cohort.location}, split {split}, has no label of {', '.join(task.name for task in shared)}: "
            "evaluate another split"
        )
    return found


def _predicted(model: str, cohort: Cohort, split: str, workers: int, gpu: bool, report: Report) -> pa.Table:
    """One row an image, ordered by instance: identity and place, `label_<task>`, `<task>:prob_<class>`."""
    table = predict_tasks(model, cohort, [split], workers=workers, gpu=gpu, report=report).sort_by("instance_id")
    names = ["instance_id", "body_part", "view"]
    places = cohort.metadata(split, names).sort_by("instance_id")
    for name in names[1:]:
        table = table.append_column(name, places[name])
    return table


def _graded(table: pa.Table, task: Task, resamples: int) -> Grading:
    truth = table[task.column].fill_null(MISSING).to_numpy()
    called = np.column_stack([table[f"{task.name}:prob_{name}"].to_numpy() for name in task.classes]).argmax(axis=1)
    patients = table["patient_id"].to_numpy()
    return grade(task.name, task.classes, truth, called, patients, ordinal=task.ordinal, resamples=resamples)


def _of_task(table: pa.Table, task: Task, kind: str) -> pa.Table:
    """One task's predictions as `evaluate` takes them; of discs each is a study of its own, its level the body part."""
    of_disc = {"study_id": "instance_id", "body_part": "view"} if kind == "disc" else {}
    names = ("instance_id", "study_id", "patient_id", "body_part")
    columns = {name: table[of_disc.get(name, name)] for name in names} | {"label": table[task.column]}
    return pa.table(columns | {f"prob_{name}": table[f"{task.name}:prob_{name}"] for name in task.classes})
