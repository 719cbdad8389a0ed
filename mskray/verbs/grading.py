"""`mskray evaluate BUNDLE --cohort URI --split NAME` of a bundle that answers several tasks: every task's grading."""

import json
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

import mskray
from mskray import cluster
from mskray.bundles import DESCRIPTION, Bundle, read_description
from mskray.cohorts import Cohort, Task, open_cohort
from mskray.cohorts.schema import MISSING, Shard
from mskray.errors import UserError
from mskray.evaluation.grading import MAIN, Grading, figures_of, grade
from mskray.evaluation.report import Context, write_report
from mskray.evaluation.result import check_resamples, evaluate
from mskray.families import Images, load_predictor
from mskray.prediction.shards import over_shards, use_threads
from mskray.progress import Progress, Report, silent
from mskray.storage import Location, check_access, locate
from mskray.verbs.evaluate import EVALUATION, PREDICTIONS, parquet_bytes
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
_BATCH = 32


def answers_several(model: str) -> bool:
    """Whether a URI is that of a bundle which answers several tasks at once."""
    location = locate(model)
    return location.join(DESCRIPTION).is_file() and bool(read_description(location).tasks)


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
    tasks = _shared(bundle, cohort, split)
    target = evaluation_folder(location, cohort, split) if out is None else locate(out)
    check_access(target, write=True)
    with cluster.session():
        table = _predicted(bundle, location, cohort, split, tasks, workers, gpu, report)
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


def evaluation_folder(model: Location, cohort: Cohort, split: str) -> Location:
    """Where the evaluation of a model on a cohort's split is kept."""
    return model.join(EVALUATION, f"{split}-{cohort.content_hash[:8]}")


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


def _shared(bundle: Bundle, cohort: Cohort, split: str) -> list[Task]:
    """The bundle's tasks of which the split has labels. Raises UserError where the classes differ or none has."""
    cohort.shards(split)  # an unknown split is refused here
    known = {task.name: task for task in cohort.tasks}
    labels = cohort.manifest.counts.splits[split].labels
    found = []
    for name, classes in bundle.tasks.items():
        if name not in known:
            continue
        if known[name].classes != tuple(classes):
            raise UserError(
                f"task {name}: {bundle.name} tells {', '.join(classes)}, cohort {cohort.location} has "
                f"{', '.join(known[name].classes)}: evaluate it on a cohort with the same classes"
            )
        if any(labels.get(name, {}).get(each) for each in classes):
            found.append(known[name])
    if not found:
        raise UserError(
            f"cohort {cohort.location}, split {split}, has no label of {', '.join(bundle.tasks)}, which "
            f"{bundle.name} answers: evaluate it on a cohort that has"
        )
    return found


def _predicted(
    bundle: Bundle,
    location: Location,
    cohort: Cohort,
    split: str,
    tasks: Sequence[Task],
    workers: int,
    gpu: bool,
    report: Report,
) -> pa.Table:
    """One row an image, by instance: identity, `label_<task>` (null where missing) and `<task>:prob_<class>`."""
    report(Progress("loading the model"))
    arguments, count = (str(location), cohort, split, workers, gpu), len(cohort.shards(split))
    said: dict[str, list[Any]] = {"instance_id": []}
    for row in over_shards("grading", _Grader, arguments, count, workers, gpu):
        for name, values in json.loads(row["columns"]).items():
            said.setdefault(name, []).extend(values)
        report(Progress("grade", len(said["instance_id"]), cohort.count(split)))
    names = ["instance_id", "study_id", "patient_id", "body_part", "view", *(task.column for task in tasks)]
    return cohort.metadata(split, names).join(pa.table(said), "instance_id").sort_by("instance_id")


class _Grader:
    """One loaded model in a Ray Data actor."""

    def __init__(self, model: str, cohort: Cohort, split: str, workers: int, gpu: bool) -> None:
        use_threads(workers)
        self._cohort, self._split = cohort, split
        self._bundle, self._predictor = load_predictor(model, "cuda" if gpu else "cpu")

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, list[str]]:
        shards = self._cohort.shards(self._split)
        return {"columns": [json.dumps(self._columns(shards[int(place)])) for place in batch["place"]]}

    def _columns(self, shard: Shard) -> dict[str, list[Any]]:
        data = self._cohort.read_shard(shard, ["image", "instance_id", "body_part"])
        parts = []
        for start in range(0, shard.rows, _BATCH):
            some = slice(start, start + _BATCH)
            parts.append(self._predictor(Images(list(data["image"][some]), data["body_part"][some].tolist())).parts)
        columns: dict[str, list[Any]] = {"instance_id": data["instance_id"].tolist()}
        for task, classes in self._bundle.tasks.items():
            whole = np.concatenate([part[task] for part in parts])
            columns |= {f"{task}:prob_{name}": whole[:, index].tolist() for index, name in enumerate(classes)}
        return columns


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
