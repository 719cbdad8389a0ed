"""How good are predictions: figures with intervals by patient, for images, studies and body parts, and the report.

    from mskray.evaluation.report import write_report
    from mskray.evaluation.result import evaluate

    evaluation = evaluate(predictions, ["normal", "abnormal"])
    html = write_report(evaluation, {"bundle": "knee", "split": "test"}, pictures, history)

Neither torch nor Ray is needed: the input is a predictions table, whatever made it. Import the module that you need:
a server that scales probabilities has no use for the report's templates.
"""
