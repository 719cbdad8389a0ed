"""From a predictions table to samples: which rows count, and how the views of a study become one answer.

Every row is either used or counted under a reason: without a label, without a prediction. A study's probability is
the mean over its views, as in MURA (Rajpurkar et al. 2018, section 3); its label is the images' common label.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from mskray.errors import UserError

TOLERANCE = 1e-3
"""By how much the probabilities of a row may miss a sum of 1: float16 rounding, not a mistake."""

IDENTITY = ("instance_id", "study_id", "patient_id")
UNKNOWN_PART = "UNKNOWN"


@dataclass(frozen=True)
class Samples:
    """Labelled predictions at one level, n of them in a fixed order (by id).

    level: "image" or "study". ids, study, patient, part: (n,) strings. label: (n,) class index.
    prob: (n, C) float64. views: (n,) images behind each sample (1 at image level).
    """

    level: str
    ids: NDArray[np.object_]
    study: NDArray[np.object_]
    patient: NDArray[np.object_]
    part: NDArray[np.object_]
    label: NDArray[np.int64]
    prob: NDArray[np.float64]
    views: NDArray[np.int64]

    def __len__(self) -> int:
        return int(self.label.size)

    def select(self, keep: NDArray[np.bool_]) -> "Samples":
        """The samples where `keep` (n,) is true."""
        return Samples(
            level=self.level,
            ids=self.ids[keep],
            study=self.study[keep],
            patient=self.patient[keep],
            part=self.part[keep],
            label=self.label[keep],
            prob=self.prob[keep],
            views=self.views[keep],
        )


def read_predictions(predictions: pa.Table | pd.DataFrame, classes: list[str]) -> tuple[Samples, dict[str, int]]:
    """Image-level samples of a predictions table, and what became of its rows.

    Args:
        predictions: columns instance_id, study_id, patient_id, label, prob_<class> for each class; optional
            body_part and error. A null label or prediction, or an error, excludes the row.
        classes: class names in the order of the label's index.

    Returns:
        The samples, and counts: rows, unlabelled, failed (no prediction), images (used), studies_lost
        (studies of which no image was left).

    Raises:
        UserError: a column is missing, nothing is left, an id is null or repeated, a label is no class index, or
            a row's probabilities are no distribution.
    """
    if len(classes) < 2:
        raise UserError(f"an evaluation needs at least two classes, got {classes}")
    columns = [f"prob_{name}" for name in classes]
    wanted = [*IDENTITY, "label", *columns]
    names = predictions.column_names if isinstance(predictions, pa.Table) else list(predictions.columns)
    missing = [name for name in wanted if name not in names]
    if missing:
        raise UserError(
            f"the predictions lack the column(s) {', '.join(missing)}: evaluate needs {', '.join(wanted)}; "
            "predict over a labelled cohort, not a plain folder"
        )
    wanted += [name for name in ("body_part", "error") if name in names]
    if isinstance(predictions, pa.Table):
        frame = predictions.select(wanted).to_pandas()
    else:
        frame = predictions[wanted].reset_index(drop=True)

    prob = np.column_stack([_numbers(frame, name) for name in columns])
    label = _numbers(frame, "label")
    failed = ~np.isfinite(prob).all(axis=1)
    if "error" in frame:
        failed |= frame["error"].notna().to_numpy()
    unlabelled = np.isnan(label) & ~failed
    keep = ~failed & ~unlabelled
    counts = {"rows": len(frame), "unlabelled": int(unlabelled.sum()), "failed": int(failed.sum())}
    if not keep.any():
        raise UserError(
            f"nothing to evaluate: of {counts['rows']} predictions {counts['unlabelled']} have no label and "
            f"{counts['failed']} failed; choose a split with labelled images"
        )
    every_study = _study_keys(frame)
    used = frame[keep].reset_index(drop=True)
    _check_identity(used)
    samples = _image_samples(used, label[keep], prob[keep], classes)
    counts["images"] = len(samples)
    counts["studies_lost"] = every_study.nunique() - every_study[keep].nunique()
    return samples, counts


def part_names(predictions: pa.Table | pd.DataFrame, classes: list[str]) -> list[str]:
    """Names of the model's parts that a predictions table has answers of: `<part>:prob_<class>` for every class."""
    names = predictions.column_names if isinstance(predictions, pa.Table) else list(predictions.columns)
    first = f":prob_{classes[0]}"
    parts = [name.removesuffix(first) for name in names if name.endswith(first)]
    return [part for part in parts if all(f"{part}:prob_{name}" in names for name in classes)]


def read_part(predictions: pa.Table | pd.DataFrame, part: str, classes: list[str]) -> Samples:
    """Image-level samples as a part of the model answers them; otherwise as `read_predictions`."""
    answers = {f"prob_{name}": predictions[f"{part}:prob_{name}"] for name in classes}
    if isinstance(predictions, pa.Table):
        swapped = predictions.drop_columns(list(answers))
        for name, values in answers.items():
            swapped = swapped.append_column(name, values)
    else:
        swapped = predictions.assign(**answers)
    return read_predictions(swapped, classes)[0]


def to_studies(images: Samples) -> tuple[Samples, int]:
    """One sample a study: the mean of its views' probabilities.

    Its label is the common label of its images; where they differ, the highest (any view abnormal makes the study
    abnormal; the worst grade counts). Its body part is the common one, or all of them joined by "+".
    Studies are told apart by patient and study, for a study's name may be unique within its patient only.

    Returns:
        The studies, and how many of them hold images of different labels.
    """
    keys = pd.MultiIndex.from_arrays([images.patient, images.study])
    code, unique = pd.factorize(keys, sort=True)
    n = len(unique)
    views = np.bincount(code, minlength=n)
    prob = np.column_stack([np.bincount(code, column, minlength=n) for column in images.prob.T]) / views[:, None]
    highest = np.zeros(n, np.int64)
    np.maximum.at(highest, code, images.label)
    lowest = np.full(n, images.prob.shape[1], np.int64)
    np.minimum.at(lowest, code, images.label)
    part = pd.Series(images.part).groupby(code).agg(lambda parts: "+".join(sorted(set(parts))))
    patient, study = (unique.get_level_values(level).to_numpy(object) for level in (0, 1))
    studies = Samples("study", study, study, patient, part.to_numpy(object), highest, prob, views.astype(np.int64))
    return studies, int((highest != lowest).sum())


def _image_samples(
    frame: pd.DataFrame, label: NDArray[np.float64], prob: NDArray[np.float64], classes: list[str]
) -> Samples:
    ids = frame["instance_id"].astype(str).to_numpy(object)
    wrong = (label != np.floor(label)) | (label < 0) | (label >= len(classes))
    if wrong.any():
        first = int(np.flatnonzero(wrong)[0])
        raise UserError(
            f"label {label[first]:g} of image {ids[first]} is no class: the classes {', '.join(classes)} "
            f"are 0 to {len(classes) - 1}"
        )
    wrong = (prob < -TOLERANCE).any(axis=1) | (np.abs(prob.sum(axis=1) - 1) > TOLERANCE)
    if wrong.any():
        first = int(np.flatnonzero(wrong)[0])
        raise UserError(
            f"the probabilities of image {ids[first]} are {prob[first].round(4).tolist()}: they must lie in 0 to 1 "
            f"and sum to 1 over {', '.join(classes)}"
        )
    if "body_part" in frame:
        named = frame["body_part"].astype(object)
        part = named.where(named.notna() & (named != ""), UNKNOWN_PART).astype(str).to_numpy(object)
    else:
        part = np.full(len(frame), UNKNOWN_PART, object)
    # One order whatever the order of the rows, so that parallel prediction gives the same figures to the last bit.
    order = np.argsort(ids, kind="stable")
    study, patient = (frame[name].astype(str).to_numpy(object)[order] for name in ("study_id", "patient_id"))
    clean = np.clip(prob[order], 0.0, 1.0)
    ones = np.ones(len(frame), np.int64)
    return Samples("image", ids[order], study, patient, part[order], label[order].astype(np.int64), clean, ones)


def _study_keys(frame: pd.DataFrame) -> "pd.Series[Any]":
    return frame["patient_id"].astype(str) + "\0" + frame["study_id"].astype(str)


def _check_identity(frame: pd.DataFrame) -> None:
    for name in IDENTITY:
        absent = int(frame[name].isna().sum())
        if absent:
            raise UserError(
                f"{absent} labelled predictions have no {name}: intervals by patient and answers by study need it"
            )
    repeated = frame["instance_id"][frame["instance_id"].duplicated()]
    if len(repeated):
        raise UserError(
            f"image {repeated.iloc[0]} appears more than once among the predictions ({len(repeated)} repeats): "
            "each image must be predicted once"
        )


def _numbers(frame: pd.DataFrame, name: str) -> NDArray[np.float64]:
    try:
        return pd.to_numeric(frame[name]).to_numpy(dtype=np.float64, na_value=np.nan)
    except (ValueError, TypeError):
        raise UserError(f"the column {name} of the predictions holds something that is not a number") from None
