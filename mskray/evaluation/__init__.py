"""How good are predictions: figures with intervals by patient, for images, studies and body parts, and the report.

    evaluation = evaluate(predictions, ["normal", "abnormal"])
    metrics = evaluation.to_dict()
    html = write_report(evaluation, {"bundle": "knee", "split": "test"}, pictures, history)

Neither torch nor Ray is needed: the input is a predictions table, whatever made it.
"""

from mskray.evaluation.published import Published, published_figures
from mskray.evaluation.report import Box, Context, Picture, write_report
from mskray.evaluation.result import Evaluation, evaluate, worst_errors

__all__ = [
    "Box",
    "Context",
    "Evaluation",
    "Picture",
    "Published",
    "evaluate",
    "published_figures",
    "worst_errors",
    "write_report",
]
