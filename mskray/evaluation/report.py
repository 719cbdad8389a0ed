"""`report.html`: one self-contained page that a radiologist can read, print and pass on.

    html = write_report(evaluate(predictions, classes), context, pictures, history)

Style, charts and pictures are inside the file; it loads nothing, and its content security policy forbids it to.
Everything that comes from data (body parts, ids, names) is escaped by the template engine or the XML writer.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypedDict

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mskray.evaluation import plots, wording
from mskray.evaluation.bootstrap import CONFIDENCE, Figure
from mskray.evaluation.calibration import decision
from mskray.evaluation.page import render
from mskray.evaluation.published import Published
from mskray.evaluation.result import PART_THRESHOLD, Evaluation, Group, Level

PICTURE_SIDE = 384
"""Longest side of an embedded picture in pixels: sharp at the size shown, and the file stays a few MB."""

HEADLINE_FIGURES = ("sensitivity", "specificity", "auroc", "kappa")
GRADE_FIGURES = ("accuracy", "balanced_accuracy", "auroc", "kappa")
SCALES = {"auroc": (0.5, 1.0), "kappa": (0.0, 1.0), "quadratic_kappa": (0.0, 1.0), "accuracy": (0.0, 1.0)}


class Context(TypedDict, total=False):
    """What the report says about itself; what is absent is not shown.

    versions: package -> version. published: see `published.published_figures`. date: as it shall be read.
    """

    bundle: str
    family: str
    cohort: str
    cohort_hash: str
    split: str
    date: str
    versions: Mapping[str, str]
    published: Sequence[Published]


class Box(NamedTuple):
    """A marked area in pixels of its picture: x = column, y = row of the top left corner; `kind` says what it is."""

    x: float
    y: float
    w: float
    h: float
    kind: str = "finding"


@dataclass(frozen=True)
class Picture:
    """The image of one prediction: (rows, columns) or (rows, columns, 3) uint8, and what to draw on it.

    boxes: what is known to be there. looked: where the model looked. heats: by method (a name of `wording.METHODS`),
    (height, width, 4) uint8, colour and opacity of what the model holds for reasons, over the whole image at any
    resolution.
    """

    instance_id: str
    image: NDArray[np.uint8]
    boxes: Sequence[Box] = ()
    looked: Sequence[Box] = ()
    heats: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)


def write_report(
    evaluation: Evaluation,
    context: Context,
    worst: Sequence[Picture] = (),
    history: Sequence[Mapping[str, Any]] = (),
    right: Sequence[Picture] = (),
) -> str:
    """The report as HTML.

    Args:
        evaluation: from `evaluate`.
        context: what was evaluated, with what.
        worst: images of `worst_errors`, in that order; truth and probability come from the evaluation.
        history: one mapping an epoch of the training, see `plots.training_curves`.
        right: images of `right_calls`.

    Raises:
        ValueError: a picture is not uint8, or is not among the predictions.
    """
    split = context.get("split", "")
    tiles = HEADLINE_FIGURES if evaluation.binary else GRADE_FIGURES
    if evaluation.ordinal:
        tiles = (*tiles[:3], "quadratic_kappa")
    return render(
        "report.html",
        evaluation=evaluation,
        group=evaluation.study.overall,
        levels=[("study", evaluation.study), ("image", evaluation.image)],
        names=wording.NAMES,
        count=wording.count,
        interval=wording.interval,
        percent=wording.percent,
        confidence=wording.percent(CONFIDENCE),
        title=context.get("bundle") or "Model",
        headline=wording.headline(evaluation),
        lede=wording.lede(evaluation, context.get("bundle", ""), split),
        meanings=wording.meanings(evaluation),
        cautions=wording.cautions(evaluation, split),
        methods=wording.METHODS,
        definitions=wording.definitions(evaluation.classes, evaluation.ordinal),
        tiles=tiles,
        sides=[("study", _sides(evaluation.study)), ("image", _sides(evaluation.image))],
        part_threshold=PART_THRESHOLD if evaluation.binary else None,
        parts=[("study", _parts(evaluation, evaluation.study)), ("image", _parts(evaluation, evaluation.image))],
        curves=plots.curves(evaluation),
        training=plots.training_curves(history),
        pictures=[_picture(evaluation, picture) for picture in worst],
        right=[_picture(evaluation, picture) for picture in right],
        published=[_compared(evaluation, figure) for figure in context.get("published", [])],
        facts=_facts(evaluation, context),
        date=context.get("date", ""),
    )


def _sides(level: Level) -> list[tuple[str, Group]]:
    """Rows of the table of the whole and its parts; none where the model is of one piece."""
    return [("Whole model", level.overall), *level.model_parts.items()] if level.model_parts else []


def _parts(evaluation: Evaluation, level: Level) -> dict[str, Any] | None:
    """Rows of the table by body part; None where there is one part only."""
    if len(level.parts) < 2:
        return None
    kappa = "quadratic_kappa" if evaluation.ordinal else "kappa"
    drawn = ("auroc", kappa)
    listed = ("sensitivity", "specificity") if evaluation.binary else ("accuracy", "balanced_accuracy")

    def row(name: str, group: Any, overall: bool = False) -> dict[str, Any]:
        reasons = {group.figures[figure].reason for figure in (*drawn, *listed)}
        marks = [
            (
                group.figures[figure],
                plots.interval_mark(group.figures[figure], level.overall.figures[figure].value, *SCALES[figure]),
            )
            for figure in drawn
        ]
        return {
            "name": name,
            "group": group,
            "marks": marks,
            "figures": [group.figures[figure] for figure in listed],
            "overall": overall,
            "reason": reasons.pop() if len(reasons) == 1 else None,
        }

    rows = [row(name, group) for name, group in level.parts.items()]
    rows.append(row("All", level.overall, overall=True))
    return {"drawn": [(figure, SCALES[figure]) for figure in drawn], "listed": listed, "rows": rows}


def _picture(evaluation: Evaluation, picture: Picture) -> dict[str, Any]:
    samples = evaluation.image.samples
    found = np.flatnonzero(samples.ids == picture.instance_id)
    if not found.size:
        raise ValueError(f"picture {picture.instance_id} is not among the predictions")
    index = int(found[0])
    prob = samples.prob[index]
    called = int(decision(prob[None], evaluation.threshold if evaluation.threshold is not None else 0.5)[0])
    truth = int(samples.label[index])
    names = evaluation.classes
    if not evaluation.binary:
        kind = f"{names[truth]} called {names[called]}"
    elif called == truth:
        kind = f"Rightly called {names[called]}"
    else:
        kind = f"Missed {names[1]}" if truth == 1 else "False alarm"
    shown = 1 if evaluation.binary else called
    rows, columns = picture.image.shape[:2]
    return {
        "kind": kind,
        "missed": evaluation.binary and truth == 1 and called == 0,
        "part": samples.part[index],
        "probability": f"{prob[shown]:.3f}",
        "class_name": names[shown],
        "truth": names[truth],
        "called": names[called],
        "id": picture.instance_id,
        "study": samples.study[index],
        "source": _data_uri(picture.image),
        "rows": rows,
        "columns": columns,
        "boxes": picture.boxes,
        "looked": picture.looked,
        "heats": {method: _data_uri(heat) for method, heat in picture.heats.items()},
    }


def _data_uri(image: NDArray[np.uint8]) -> str:
    """A PNG data URI of at most `PICTURE_SIDE` pixels a side."""
    if image.dtype != np.uint8:
        raise ValueError(f"a picture must be uint8, not {image.dtype}")
    picture = Image.fromarray(image)
    picture.thumbnail((PICTURE_SIDE, PICTURE_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _compared(evaluation: Evaluation, published: Published) -> dict[str, Any]:
    """A published figure, ours beside it, and whether the two may be compared."""
    level = evaluation.study if published.level == "study" else evaluation.image
    group = level.overall if published.body_part is None else level.parts.get(published.body_part)
    ours: Figure | None = group.figures.get(published.metric) if group else None
    same = published.samples is not None and published.samples == level.overall.n
    if same:
        note = "Comparable: the same public set, whole."
    elif published.samples is None:
        note = f"Not comparable: {published.obstacle}"
    else:
        note = f"Not comparable: ours rests on {wording.count(level.overall.n, published.level)}."
    return {"published": published, "ours": ours, "same": same, "note": note}


def _facts(evaluation: Evaluation, context: Context) -> list[tuple[str, str]]:
    """Rows of the table of data and versions."""
    counts = evaluation.counts
    facts = [
        ("Bundle", context.get("bundle", "")),
        ("Family", context.get("family", "")),
        ("Cohort", context.get("cohort", "")),
        ("Cohort content hash", context.get("cohort_hash", "")),
        ("Split", context.get("split", "")),
        ("Evaluated on", context.get("date", "")),
        ("Classes", ", ".join(evaluation.classes)),
        ("Threshold", "the most probable class" if evaluation.threshold is None else f"{evaluation.threshold:.6g}"),
        (
            "Predictions",
            f"{counts['rows']:,}: {counts['images']:,} used, {counts['unlabelled']:,} without a label, "
            f"{counts['failed']:,} failed",
        ),
        (
            "Intervals",
            f"{evaluation.resamples:,} resamples of the patients, seed {evaluation.seed}, percentile method",
        ),
        ("Versions", ", ".join(f"{name} {version}" for name, version in context.get("versions", {}).items())),
    ]
    return [(name, value) for name, value in facts if value]
