"""`mskray ensemble BUNDLE BUNDLE … --out URI`: bundles become a soft-voting ensemble."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mskray import cluster, ensemble
from mskray.bundles import DESCRIPTION
from mskray.cohorts import Cohort, open_cohort
from mskray.cohorts.reach import check_everywhere
from mskray.ensemble import Calibration, Ensemble
from mskray.errors import UserError
from mskray.evaluation.calibration import TEMPERATURES, apply_temperature, fit_temperature, youden_threshold
from mskray.prediction.batch import Predicting
from mskray.progress import Progress, Report, silent
from mskray.storage import Location, check_access, locate
from mskray.verbs.outliers import fit_outliers

_SPLIT = "validation"


def make_ensemble(
    bundles: Sequence[str],
    out: str,
    *,
    weights: Sequence[float] | None = None,
    calibrate: str | None = None,
    remove_flags: str | None = None,
    report: Report = silent,
) -> Ensemble:
    """Join bundles and write `ensemble.json`, once and at the end.

    Args:
        weights: one for each bundle; equal when None.
        calibrate: URI of a cohort; its `validation` split then sets the temperature and, with two classes, the
            threshold of the largest Youden index. With its train split it also says what images are usual.
        remove_flags: URI of a flag detector that takes flags out of every image before the members see it.
    Raises:
        UserError: the bundles do not go together, `out` holds a bundle, the flag remover is none, or the cohort cannot
            calibrate them.
    """
    target = locate(out)
    for uri in (*bundles, *([] if remove_flags is None else [remove_flags])):
        check_access(locate(uri))
    check_access(target, write=True)
    check_no_bundle(target)
    made = ensemble.join(bundles, target.name, weights, flag_remover=remove_flags)
    if calibrate is not None:
        cohort = open_cohort(calibrate)
        made = _calibrated(made, cohort, report)
        made = made.model_copy(update={"outliers": fit_outliers(made, cohort, target, report)})
    ensemble.save_ensemble(made, target)
    return made


def _calibrated(joined: Ensemble, cohort: Cohort, report: Report) -> Ensemble:
    cohort.shards(_SPLIT)  # refused here, before anything is loaded
    ensemble.matching_task(joined, cohort)
    predicting = Predicting(joined.name, joined, report=report)
    with cluster.session():
        check_everywhere([*(locate(each.uri) for each in joined.members), cohort.location])
        table = predicting.cohort(cohort, [_SPLIT])
    labelled = judged(table.filter(pc.is_valid(table["label"])), report)
    labels = labelled["label"].to_numpy()
    if len(np.unique(labels)) < 2:
        raise UserError(f"cohort {cohort.location}, split {_SPLIT}: calibration needs labelled images of two classes")
    probabilities = np.stack([labelled[f"prob_{name}"].to_numpy() for name in joined.classes], axis=1)
    fitted_on = f"{cohort.location} {_SPLIT} {cohort.content_hash[:16]}"
    return calibrated(joined, probabilities, labels, fitted_on, report)


def calibrated(
    joined: Ensemble, probabilities: np.ndarray, labels: np.ndarray, fitted_on: str, report: Report = silent
) -> Ensemble:
    """Return the ensemble with temperature and, for two classes, the threshold of the largest Youden index.

    Args:
        probabilities: (n, classes), its uncalibrated votes on images that none of those who voted had learned.
        labels: (n,) class indices, some of each of two classes at least.
        fitted_on: what images these are.
    """
    temperature = fit_temperature(probabilities, labels)
    least, most = TEMPERATURES
    if not 1.01 * least < temperature < most / 1.01:
        reason = "are far less sure than right" if temperature < 1 else f"hardly tell {' from '.join(joined.classes)}"
        where = f"temperature {temperature:.2f} is as far as is searched"
        report(Progress(f"{where}: on split {_SPLIT} the members {reason}"))
    threshold = joined.threshold
    if len(joined.classes) == 2:
        threshold = youden_threshold(labels, apply_temperature(probabilities, temperature)[:, 1])
    return joined.model_copy(
        update={"calibration": Calibration(temperature=temperature, fitted_on=fitted_on), "threshold": threshold}
    )


def check_no_bundle(out: Location) -> None:
    """Raise UserError where `out` holds a bundle."""
    if out.join(DESCRIPTION).is_file():
        raise UserError(f"{out} holds a bundle: give the ensemble a folder of its own")


def check_there(out: Location, uris: Sequence[str], weights: Sequence[float]) -> None:
    """Raise UserError where `out` holds an ensemble of other members or weights."""
    if not out.join(ensemble.DESCRIPTION).is_file():
        return
    there = ensemble.describe(out)
    if [(each.uri, each.weight) for each in there.members] != list(zip(uris, weights, strict=True)):
        raise UserError(
            f"{out} already holds another ensemble ({len(there.members)} members): give another out, or delete it"
        )


def judged(table: pa.Table, report: Report = silent) -> pa.Table:
    """Return the rows that have probabilities, and say how many have an error instead."""
    good = pc.is_null(table["error"])
    failed = len(table) - (pc.sum(good).as_py() or 0)
    if failed:
        report(Progress(f"{failed} of {len(table)} labelled images could not be judged: calibrated without them"))
    return table.filter(good)
