"""What a trained model is worth on the validation split: one pass, every figure, no intervals.

Intervals are for what is reported in the end (`mskray evaluate`); a search compares hundreds of models on the same
patients, and a bootstrap each would take longer than many of the trainings.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import skops.io

from mskray.bundles import Fitted
from mskray.cohorts import Cohort, Task
from mskray.cohorts.schema import MISSING
from mskray.errors import UserError, did_you_mean
from mskray.evaluation.metrics import FIGURES, weighted_figures
from mskray.evaluation.studies import Samples, read_predictions, to_studies
from mskray.families import Family, Images, Prediction, Predictor
from mskray.prediction.batch import study_cuts
from mskray.training.validation import HIGHER_IS_BETTER
from mskray.tuning.figures import LATENCY, SIZE, SPLIT
from mskray.tuning.subject import Subject

_BATCH = 32
_TIMED, _AT_ONCE = 8, 2
"""Images by which a finished model is timed, and how many at a time: the first, that take longest, do not decide."""
_THRESHOLD = 0.5
_IDENTITY = ("instance_id", "study_id", "patient_id", "body_part", "view_index")


@dataclass(frozen=True)
class Judged:
    """Figures by name ("validation.study.kappa"), and what was said of each image (None: no class probabilities)."""

    figures: dict[str, float]
    predictions: pa.Table | None


def judge(family: Family, fitted: Fitted, cohort: Cohort, task: Task, device: str = "cpu") -> Judged:
    """Predict the validation split and count.

    All models of a search are judged on the same images: one of which a model says nothing (no key point is in it)
    counts as one of equal probabilities. A family whose answers are boxes or corners is judged by the figures of its
    best epoch.
    """
    size = {SIZE: _bytes(fitted) / 1e6}
    if not family.tells_classes:
        best = {key.removeprefix("val_"): value for key, value in fitted.best.items() if key.startswith("val_")}
        return Judged({**{f"{SPLIT}.image.{key}": float(value) for key, value in best.items()}, **size}, None)
    if fitted.validated is None:
        rows, answers = _predict(family, fitted, cohort, task, device)
    else:
        rows, answers = _validated(fitted.validated, cohort, task)
    known = {LATENCY: _latency(family, fitted, cohort, device), **size}
    if fitted.tasks:
        return Judged({**_of_tasks(rows, answers, fitted, cohort), **known}, None)
    said = np.array(answers[""], np.float64)
    said[np.isnan(said).any(axis=1)] = 1 / len(fitted.classes)
    labels = rows[task.column]
    table = pa.table(
        {
            **{name: pa.array(rows[name]) for name in _IDENTITY},
            "label": pa.array(labels, mask=labels == MISSING),
            **{f"prob_{name}": said[:, place] for place, name in enumerate(fitted.classes)},
        }
    )
    return Judged({**figures_by_level(table, fitted.classes, cohort.manifest.kind, task.ordinal), **known}, table)


def figures_by_level(table: pa.Table, classes: Sequence[str], kind: str, ordinal: bool) -> dict[str, float]:
    """Every figure of what was said of the labelled images, of studies and of images.

    Args:
        table: as `mskray predict` writes it.
        kind: of the cohort; discs are graded each for itself.
        ordinal: whether the classes are grades.
    """
    images, _ = read_predictions(table, list(classes))
    studies = images if kind == "disc" else to_studies(images)[0]
    return {
        f"{SPLIT}.{level}.{name}": value
        for level, samples in (("study", studies), ("image", images))
        for name, value in figures_of(samples, ordinal and len(classes) > 2).items()
    }


def cost(family: Family, fitted: Fitted, cohort: Cohort, device: str = "cpu") -> dict[str, float]:
    """What a model takes: ms an image, of the split's first ones, and MB of weights."""
    return {LATENCY: _latency(family, fitted, cohort, device), SIZE: _bytes(fitted) / 1e6}


def _latency(family: Family, fitted: Fitted, cohort: Cohort, device: str) -> float:
    read = cohort.read_shard(cohort.shards(SPLIT)[0], ["image", "study_id", "body_part"])
    few = {name: values[:_TIMED] for name, values in read.items()}
    said = _said(family.predictor(fitted, device), few, _AT_ONCE)
    return 1000 * float(np.median([seconds for _, seconds in said]))


def _validated(said: np.ndarray, cohort: Cohort, task: Task) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """What the family said of the labelled images while it was fitted; as `_predict` returns it."""
    rows = cohort.columns(SPLIT, [*_IDENTITY, task.column])
    labelled = rows[task.column] != MISSING
    return {name: values[labelled] for name, values in rows.items()}, {"": said}


def check_known(
    chosen: Subject, base: Mapping[str, Any], cohort: Cohort, task: Task, metrics: Sequence[str], where: str
) -> None:
    """Raise UserError for a figure that no trial of the family would report.

    Args:
        base: its sections before a trial's parameters.
    """
    named = (base.get("tasks") or {}).get("names")
    tasks = [cohort.task(name) for name in named] if named else cohort.tasks
    for metric in metrics:
        known = _known(chosen, tasks, task)
        if metric not in known:
            raise UserError(
                f"{where}: metric {metric} is never reported by {chosen.name}: {did_you_mean(metric, known)}it reports "
                f"{', '.join(known)}"
            )


def _known(chosen: Subject, tasks: Sequence[Task], task: Task) -> list[str]:
    of_model = [LATENCY, SIZE] if chosen.tells_classes else [SIZE]
    if not chosen.tells_classes:
        return [*(f"{SPLIT}.image.{name}" for name in HIGHER_IS_BETTER), *of_model]
    if chosen.judged_by.startswith("tasks."):
        levels = {"tasks": any(map(_graded, tasks)), **{each.name: _graded(each) for each in tasks}}
    else:
        levels = {"study": _graded(task), "image": _graded(task)}
    told = [
        f"{SPLIT}.{level}.{name}"
        for level, graded in levels.items()
        for name in FIGURES
        if graded or name != "quadratic_kappa"
    ]
    return [*told, *of_model]


def _graded(task: Task) -> bool:
    return task.ordinal and len(task.classes) > 2


def figures_of(samples: Samples, ordinal: bool) -> dict[str, float]:
    """Every figure of one set of samples that can be told of it."""
    ones = np.ones((1, len(samples)))
    found = weighted_figures(samples.label, samples.prob, ones, threshold=_THRESHOLD, ordinal=ordinal)
    return {name: float(value[0]) for name, value in found.items() if np.isfinite(value[0])}


def _predict(
    family: Family, fitted: Fitted, cohort: Cohort, task: Task, device: str
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return the rows of the split, and what was said of them ("" or task → (n, classes))."""
    predictor = family.predictor(fitted, device)
    columns = [*_IDENTITY, *(cohort.task(name).column for name in (fitted.tasks or {task.name: ()}))]
    rows: list[dict[str, np.ndarray]] = []
    answers: dict[str, list[np.ndarray]] = {}
    for shard in cohort.shards(SPLIT):
        read = cohort.read_shard(shard, ["image", *columns])
        rows.append({name: read[name] for name in columns})
        for said, _ in _said(predictor, read, _BATCH):
            parts = {name: said.parts[name] for name in fitted.tasks} or {"": said.probabilities}
            for name, values in parts.items():
                answers.setdefault(name, []).append(values)
    whole = {name: np.concatenate([each[name] for each in rows]) for name in columns}
    return whole, {name: np.concatenate(each) for name, each in answers.items()}


def _said(predictor: Predictor, read: Mapping[str, np.ndarray], batch: int) -> Iterator[tuple[Prediction, float]]:
    """Yield what is said of each batch of a shard, and seconds an image."""
    studies = read["study_id"].tolist()
    for start, end in pairwise(study_cuts(studies, batch)):
        given = Images(list(read["image"][start:end]), read["body_part"][start:end].tolist(), studies[start:end])
        began = time.monotonic()
        said = predictor(given)
        yield said, (time.monotonic() - began) / (end - start)


def _of_tasks(
    rows: Mapping[str, np.ndarray], answers: Mapping[str, np.ndarray], fitted: Fitted, cohort: Cohort
) -> dict[str, float]:
    """Figures of each task and, by the level "tasks", their means."""
    found: dict[str, list[float]] = {}
    result: dict[str, float] = {}
    for name in fitted.tasks:
        task = cohort.task(name)
        labels = rows[task.column].astype(np.int64)
        known = labels != MISSING
        if not known.any():
            continue
        samples = (labels[known], answers[name][known].astype(np.float64))
        ones = np.ones((1, int(known.sum())))
        for figure, value in weighted_figures(*samples, ones, threshold=_THRESHOLD, ordinal=_graded(task)).items():
            if np.isfinite(value[0]):
                result[f"{SPLIT}.{name}.{figure}"] = float(value[0])
                found.setdefault(figure, []).append(float(value[0]))
    means = {f"{SPLIT}.tasks.{figure}": float(np.mean(values)) for figure, values in found.items()}
    return {**means, **result}


def _bytes(fitted: Fitted) -> int:
    weights = sum(value.nbytes for value in fitted.state.values())
    return weights + (0 if fitted.estimator is None else len(skops.io.dumps(fitted.estimator)))
