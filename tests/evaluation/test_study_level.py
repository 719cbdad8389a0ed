"""What is read from a predictions table, what is refused, and how views become studies."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from mskray.errors import UserError
from mskray.evaluation.studies import read_predictions, to_studies

CLASSES = ["normal", "abnormal"]


def table(rows: list[tuple]) -> pd.DataFrame:
    """Rows of (instance, study, patient, part, label, probability of abnormal)."""
    names = ["instance_id", "study_id", "patient_id", "body_part", "label", "prob_abnormal"]
    frame = pd.DataFrame(rows, columns=names)
    frame["prob_normal"] = 1 - frame["prob_abnormal"]
    return frame


PLAIN = [("a", "s1", "p1", "HAND", 1, 0.8), ("b", "s1", "p1", "HAND", 1, 0.4), ("c", "s2", "p2", "ELBOW", 0, 0.1)]


@pytest.mark.parametrize(
    ("rows", "part", "label", "prob", "views", "disagreeing"),
    [
        (PLAIN, ["HAND", "ELBOW"], [1, 0], [0.6, 0.1], [2, 1], 0),
        # One abnormal view makes the study abnormal.
        ([*PLAIN, ("d", "s2", "p2", "ELBOW", 1, 0.5)], ["HAND", "ELBOW"], [1, 1], [0.6, 0.3], [2, 2], 1),
        # A study's name may be unique within its patient only, as in MURA.
        (
            [*PLAIN, ("d", "s1", "p2", "HAND", 0, 0.2)],
            ["HAND", "HAND", "ELBOW"],
            [1, 0, 0],
            [0.6, 0.2, 0.1],
            [2, 1, 1],
            0,
        ),
        ([*PLAIN, ("d", "s2", "p2", "WRIST", 0, 0.3)], ["HAND", "ELBOW+WRIST"], [1, 0], [0.6, 0.2], [2, 2], 0),
    ],
    ids=["mean of the views", "labels differ", "same name, other patient", "several parts"],
)
def test_views_become_studies(rows, part, label, prob, views, disagreeing):
    images, _ = read_predictions(table(rows), CLASSES)
    studies, differ = to_studies(images)
    assert studies.part.tolist() == part
    assert studies.label.tolist() == label
    assert studies.prob[:, 1] == pytest.approx(prob)
    assert studies.prob.sum(axis=1) == pytest.approx(1)
    assert studies.views.tolist() == views
    assert differ == disagreeing


def test_the_worst_grade_counts_where_views_differ(predictions):
    frame = predictions(patients=6, views=2, classes=("KL0", "KL1", "KL2"))
    frame["label"] = [0, 2, 1, 1, 2, 1, 0, 0, 0, 1, 2, 2]
    studies, differ = to_studies(read_predictions(frame, ["KL0", "KL1", "KL2"])[0])
    assert studies.label.tolist() == [2, 1, 2, 0, 1, 2]
    assert differ == 3


@pytest.mark.parametrize("as_arrow", [True, False])
def test_rows_without_label_or_prediction_are_counted_not_used(as_arrow):
    frame = table(
        [
            *PLAIN,
            ("d", "s3", "p3", None, None, 0.3),
            ("e", "s4", "p4", "", 1, np.nan),
            ("f", "s2", "p2", "ELBOW", 0, 0.2),
            ("g", "s5", "p5", "", 0, 0.2),
        ]
    )
    frame["error"] = [None, None, None, None, None, "truncated PNG", None]
    images, counts = read_predictions(pa.Table.from_pandas(frame) if as_arrow else frame, CLASSES)
    assert images.ids.tolist() == ["a", "b", "c", "g"]
    assert images.part.tolist() == ["HAND", "HAND", "ELBOW", "UNKNOWN"]
    assert counts == {"rows": 7, "unlabelled": 1, "failed": 2, "images": 4, "studies_lost": 2}


def test_a_table_without_body_parts_is_read():
    images, _ = read_predictions(table(PLAIN).drop(columns="body_part"), CLASSES)
    assert set(images.part) == {"UNKNOWN"}


def test_dictionary_encoded_columns_are_read():
    frame = table([*PLAIN, ("d", "s3", "p3", None, 0, 0.3)])
    encoded = pa.Table.from_pandas(frame)
    position = encoded.column_names.index("body_part")
    encoded = encoded.set_column(position, "body_part", encoded["body_part"].dictionary_encode())
    images, _ = read_predictions(encoded, CLASSES)
    assert images.part.tolist() == ["HAND", "HAND", "ELBOW", "UNKNOWN"]


def changed(**columns) -> pd.DataFrame:
    return table(PLAIN).assign(**columns)


@pytest.mark.parametrize(
    ("frame", "classes", "message"),
    [
        (table([]), CLASSES, "nothing to evaluate: of 0 predictions"),
        (changed(label=None), CLASSES, "of 3 predictions 3 have no label and 0 failed"),
        (changed(prob_normal=np.nan), CLASSES, "0 have no label and 3 failed"),
        (table(PLAIN).drop(columns=["label", "patient_id"]), CLASSES, r"lack the column\(s\) patient_id, label"),
        (table(PLAIN), ["normal", "fracture"], r"lack the column\(s\) prob_fracture"),
        (table(PLAIN), ["normal"], "at least two classes"),
        (changed(patient_id=["p1", None, "p2"]), CLASSES, "1 labelled predictions have no patient_id"),
        (changed(instance_id=["a", "a", "c"]), CLASSES, "image a appears more than once"),
        (changed(label=[0, 1, 2]), CLASSES, "label 2 of image c is no class"),
        (changed(label=[0, 0.5, 1]), CLASSES, "label 0.5 of image b is no class"),
        (changed(label=["x", "y", "z"]), CLASSES, "column label of the predictions holds something"),
        (changed(prob_abnormal=[0.8, 0.9, 0.1]), CLASSES, "probabilities of image b are"),
        (changed(prob_abnormal=[1.8, 0.4, 0.1], prob_normal=[-0.8, 0.6, 0.9]), CLASSES, "image a are"),
    ],
)
def test_what_cannot_be_evaluated_is_one_clear_line(frame, classes, message):
    with pytest.raises(UserError, match=message) as caught:
        read_predictions(frame, classes)
    assert "\n" not in str(caught.value)
