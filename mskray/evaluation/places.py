"""Where an evaluation lies: files in a folder of the model's, one for each cohort and split."""

from mskray.cohorts import Cohort
from mskray.storage import Location

COMPARISON, COMPARED, COMPARED_PAGE = "comparison", "compare.json", "compare.html"
EVALUATION, REPORT, METRICS, PREDICTIONS = "evaluation", "report.html", "metrics.json", "predictions.parquet"


def evaluation_folder(model: Location, cohort: Cohort, split: str) -> Location:
    """Where the evaluation of a model on a cohort's split is kept."""
    return model.join(EVALUATION, f"{split}-{cohort.content_hash[:8]}")


def comparison_folder(new: Location, old: Location, cohort: Cohort, split: str) -> Location:
    """Where the comparison of a model with an older one on a cohort's split is kept."""
    return new.join(COMPARISON, f"{old.name}-{split}-{cohort.content_hash[:8]}")
