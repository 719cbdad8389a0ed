"""Where an evaluation lies: files in a folder of the model's, one for each cohort and split."""

from mskray.cohorts import Cohort
from mskray.storage import Location

EVALUATION, REPORT, METRICS, PREDICTIONS = "evaluation", "report.html", "metrics.json", "predictions.parquet"


def evaluation_folder(model: Location, cohort: Cohort, split: str) -> Location:
    """Where the evaluation of a model on a cohort's split is kept."""
    return model.join(EVALUATION, f"{split}-{cohort.content_hash[:8]}")
