"""Two models on the same studies: paired differences, changed calls, what counts for neither."""

import json
from collections.abc import Callable

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from scipy.stats import binom

from mskray.errors import UserError
from mskray.evaluation.comparison import Comparison, Side, compare, comparison_page, comparison_tables
from mskray.evaluation.metrics import FIGURES

CLASSES = ("normal", "abnormal")
Predictions = Callable[..., pd.DataFrame]


def side(name: str, frame: pd.DataFrame, threshold: float = 0.5) -> Side:
    return Side(name, pa.Table.from_pandas(frame, preserve_index=False), threshold)


def table(labels: list[int | None], called: list[int], errors: list[str | None] | None = None) -> pd.DataFrame:
    """One image a study a patient, called as said with a probability of 0.9."""
    names = [f"{number:02}" for number in range(len(labels))]
    abnormal = np.where(np.array(called) == 1, 0.9, 0.1)
    columns = {"instance_id": names, "study_id": names, "patient_id": names, "body_part": "KNEE"}
    columns |= {"label": pd.array(labels, "Int32"), "prob_normal": 1 - abnormal, "prob_abnormal": abnormal}
    return pd.DataFrame({**columns, "error": pd.array(errors or [None] * len(labels), "string")})


def test_a_model_is_as_good_as_itself(predictions: Predictions) -> None:
    one = predictions()
    found = compare(side("a", one), side("b", one), CLASSES, resamples=200)
    for figure in found.difference.values():
        assert (figure.value, figure.low, figure.high) == (0, 0, 0)
    assert (found.changes.wrong_to_right, found.changes.right_to_wrong, found.changes.p) == (0, 0, 1.0)
    assert found.changes.called == {}


def test_order_of_rows_does_not_matter(predictions: Predictions) -> None:
    old, new = predictions(seed=0), predictions(seed=0, shared=0.2)
    new["label"] = old["label"]
    shuffled = new.sample(frac=1, random_state=0)
    results = [compare(side("a", old), side("b", each), CLASSES, resamples=100) for each in (new, shuffled)]
    assert results[0] == results[1]


def test_pairs_tell_more_than_two_intervals(predictions: Predictions) -> None:
    """A model that is a little better on the very same studies: that is sure, though the intervals overlap."""
    old = predictions(patients=200, views=1)
    new = old.copy()
    right = np.where(new["label"] == 1, new["prob_abnormal"], new["prob_normal"])
    better = np.clip(right + 0.04, 0, 1)
    new["prob_abnormal"] = np.where(new["label"] == 1, better, 1 - better)
    new["prob_normal"] = 1 - new["prob_abnormal"]
    found = compare(side("a", old), side("b", new), CLASSES, resamples=500)
    before, after, difference = (each["auroc"] for each in (found.old, found.new, found.difference))
    assert difference.value == pytest.approx(after.value - before.value, abs=2e-6)
    assert difference.low is not None
    assert difference.low > 0
    assert before.high is not None
    assert after.low is not None
    assert before.high > after.low, "unpaired, nobody could tell"
    assert found.changes.right_to_wrong == 0


def test_changes_are_counted_by_direction() -> None:
    labels = [0] * 10 + [1] * 10
    old = [0] * 8 + [1] * 2 + [1] * 4 + [0] * 6
    new = [0] * 7 + [1] + [0] * 2 + [1] * 9 + [0]
    found = compare(side("a", table(labels, old)), side("b", table(labels, new)), CLASSES, resamples=100)
    changes = found.changes
    assert (changes.both_right, changes.both_wrong) == (11, 1)
    assert (changes.wrong_to_right, changes.right_to_wrong) == (7, 1)
    assert changes.called == {"normal → abnormal": 6, "abnormal → normal": 2}
    assert changes.p == pytest.approx(2 * binom.cdf(1, 8, 0.5))
    assert found.difference["accuracy"].value == pytest.approx(0.3)


def test_each_model_has_its_threshold() -> None:
    labels = [0] * 6 + [1] * 6
    one = table(labels, labels)
    found = compare(side("a", one, 0.95), side("b", one, 0.5), CLASSES, resamples=100)
    assert found.old["sensitivity"].value == 0
    assert found.new["sensitivity"].value == 1
    assert found.difference["auroc"].value == 0
    assert found.thresholds == (0.95, 0.5)


def test_what_one_could_not_judge_counts_for_neither() -> None:
    labels: list[int | None] = [0, 1] * 6
    labels[0] = None
    calls = [0, 1] * 6
    old = table(labels, calls, [None, "too dark", *[None] * 10])
    new = table(labels, calls, [*[None] * 11, "too dark"])
    found = compare(side("a", old), side("b", new), CLASSES, resamples=100)
    assert (found.images, found.left_out, found.studies, found.patients) == (9, 3, 9, 9)
    with pytest.raises(UserError, match="did not predict the same images"):
        compare(side("a", old), side("b", new[1:]), CLASSES)
    with pytest.raises(UserError, match="judged by both"):
        compare(side("a", table([None] * 3, [0] * 3)), side("b", table([None] * 3, [0] * 3)), CLASSES)


@pytest.mark.parametrize("patients", [3, 40])
def test_what_is_written(predictions: Predictions, patients: int) -> None:
    names = ("mild", "bad", "worst")
    old, new = (predictions(patients=patients, classes=names, seed=1, shared=shared) for shared in (0.5, 0.1))
    found: Comparison = compare(side("<old>", old), side("new", new), names, ordinal=True, resamples=100)
    content = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert set(content["figures"]["difference"]) == set(FIGURES)
    assert content["counts"]["patients"] == patients
    few = content["figures"]["difference"]["auroc"]["reason"] if patients == 3 else None
    assert (few is not None) == (patients == 3)
    page = comparison_page(found, "on test", ["a note"])
    assert "&lt;old&gt;" in page
    assert "<old>" not in page
    assert "a note" in page
    assert all(cell for each in comparison_tables(found) for row in each.rows for cell in row)
