"""The lines that `mskray evaluate` prints: the whole, and below it each part of the model."""

import numpy as np
import pandas as pd

from mskray.evaluation.result import evaluate
from mskray.verbs.evaluate import figure_lines


def test_parts_are_printed_below_the_whole_at_each_level() -> None:
    names = [f"i{number:02d}" for number in range(40)]
    label = np.arange(40) // 2 % 2
    frame = pd.DataFrame({"instance_id": names, "label": label})
    frame = frame.assign(patient_id=names, study_id=names, prob_abnormal=0.1 + 0.8 * label)
    frame = frame.assign(prob_normal=1 - frame["prob_abnormal"])
    frame["local:prob_abnormal"], frame["local:prob_normal"] = frame["prob_normal"], frame["prob_abnormal"]
    lines = figure_lines(evaluate(frame, ["normal", "abnormal"], resamples=100)).splitlines()
    assert [line.split("  accuracy")[0].rstrip() for line in lines] == [
        "study, n = 40",
        "  local",
        "image, n = 40",
        "  local",
    ]
    assert "accuracy 1.000 (1.000 to 1.000)  auroc 1.000" in lines[0]
    assert "accuracy 0.000 (0.000 to 0.000)  auroc 0.000" in lines[1]
    assert len({line.index("accuracy") for line in lines[:2]}) == 1, "columns stand below each other"
