"""`mskray ensemble BUNDLE BUNDLE … --out URI`: bundles become a soft-voting ensemble."""

from collections.abc import Sequence

import numpy as np

from mskray import cluster, ensemble
from mskray.cohorts import open_cohort
from mskray.ensemble import Calibration, Ensemble
from mskray.errors import UserError
from mskray.evaluation.calibration import apply_temperature, fit_temperature, youden_threshold
from mskray.prediction.batch import Predicting
from mskray.progress import Report, silent
from mskray.storage import check_access, locate

_SPLIT = "validation"


def make_ensemble(
    bundles: Sequence[str],
    out: str,
    *,
    weights: Sequence[float] | None = None,
    calibrate: str | None = None,
    report: Report = silent,
) -> Ensemble:
    """Join bundles and write `ensemble.json`.

    Args:
        weights: one for each bundle; equal when None.
        calibrate: URI of a cohort; its `validation` split then sets the temperature and, with two classes, the
            threshold of the largest Youden index.
    Raises:
        UserError: the bundles do not go together, or the cohort cannot calibrate them.
    """
    target = locate(out)
    for uri in bundles:
        check_access(locate(uri))
    check_access(target, write=True)
    joined = ensemble.join(bundles, target.name, weights)
    ensemble.save_ensemble(joined, target)
    if calibrate is None:
        return joined
    cohort = open_cohort(calibrate)
    cohort.shards(_SPLIT)  # refused here, before anything is loaded
    with cluster.session():
        table = Predicting(str(target), joined, report=report).cohort(cohort, _SPLIT)
    labelled = table.filter(table["label"].is_valid())
    labels = labelled["label"].to_numpy()
    if len(np.unique(labels)) < 2:
        raise UserError(f"cohort {cohort.location}, split {_SPLIT}: calibration needs labelled images of two classes")
    probabilities = np.stack([labelled[f"prob_{name}"].to_numpy() for name in joined.classes], axis=1)
    temperature = fit_temperature(probabilities, labels)
    threshold = joined.threshold
    if len(joined.classes) == 2:
        threshold = youden_threshold(labels, apply_temperature(probabilities, temperature)[:, 1])
    fitted_on = f"{cohort.location} {_SPLIT} {cohort.content_hash[:16]}"
    calibrated = joined.model_copy(
        update={"calibration": Calibration(temperature=temperature, fitted_on=fitted_on), "threshold": threshold}
    )
    ensemble.save_ensemble(calibrated, target)
    return calibrated
