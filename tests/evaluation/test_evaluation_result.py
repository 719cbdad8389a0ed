"""`evaluate` as a whole: strict JSON, one answer whatever the order of the rows, parts, and the worst errors."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn import metrics as sk

from mskray.errors import UserError
from mskray.evaluation.result import evaluate, worst_errors

CLASSES = ["normal", "abnormal"]
GRADES = ["KL0", "KL1", "KL2", "KL3", "KL4"]


def plain(evaluation) -> str:
    return json.dumps(evaluation.to_dict(), allow_nan=False, sort_keys=True)


def test_neither_torch_nor_ray_is_imported():
    code = (
        "import sys, mskray.evaluation.report; print(sorted({'torch', 'ray', 'matplotlib.pyplot'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_study_figures_are_those_of_the_mean_of_the_views(predictions):
    frame = predictions(patients=80)
    evaluation = evaluate(frame, CLASSES, resamples=100)
    studies = frame.groupby("study_id").agg({"label": "first", "prob_abnormal": "mean"})
    label, score = studies["label"].to_numpy(int), studies["prob_abnormal"].to_numpy(float)
    figures = evaluation.study.overall.figures
    assert figures["auroc"].value == pytest.approx(sk.roc_auc_score(label, score))
    assert figures["kappa"].value == pytest.approx(sk.cohen_kappa_score(label, score >= 0.5))
    assert evaluation.study.overall.confusion == sk.confusion_matrix(label, score >= 0.5).tolist()
    assert evaluation.image.overall.n == 240
    assert evaluation.study.overall.n == evaluation.study.overall.patients == 80


def test_parts_are_evaluated_alone(predictions):
    frame = predictions(patients=80, parts=("HAND", "ELBOW", "WRIST"))
    evaluation = evaluate(frame, CLASSES, resamples=100)
    assert list(evaluation.image.parts) == ["ELBOW", "HAND", "WRIST"]
    alone = evaluate(frame[frame["body_part"] == "HAND"], CLASSES, resamples=100)
    assert evaluation.image.parts["HAND"].figures == alone.image.overall.figures
    assert sum(group.n for group in evaluation.image.parts.values()) == evaluation.image.overall.n


def test_the_order_and_kind_of_the_table_change_nothing(predictions):
    frame = predictions()
    expected = plain(evaluate(frame, CLASSES, resamples=100))
    shuffled = frame.sample(frac=1.0, random_state=3)
    assert plain(evaluate(shuffled, CLASSES, resamples=100)) == expected
    assert plain(evaluate(pa.Table.from_pandas(shuffled), CLASSES, resamples=100)) == expected


def test_the_threshold_moves_the_calls_but_not_the_ranking(predictions):
    frame = predictions()
    low, high = (evaluate(frame, CLASSES, threshold=value, resamples=100) for value in (0.2, 0.8))
    assert low.study.overall.figures["sensitivity"].value > high.study.overall.figures["sensitivity"].value
    assert low.study.overall.figures["specificity"].value < high.study.overall.figures["specificity"].value
    assert low.study.overall.figures["auroc"] == high.study.overall.figures["auroc"]


@pytest.mark.parametrize(
    ("classes", "ordinal", "graded"),
    [(CLASSES, False, False), (CLASSES, True, False), (GRADES, False, False), (GRADES, True, True)],
)
def test_quadratic_kappa_is_for_more_than_two_grades(predictions, classes, ordinal, graded):
    frame = predictions(classes=tuple(classes), patients=100)
    content = evaluate(frame, classes, ordinal=ordinal, resamples=100).to_dict()
    figures = content["levels"]["study"]["overall"]["figures"]
    assert ("quadratic_kappa" in figures) == graded
    assert list(figures) == list(content["definitions"])
    assert (content["threshold"] is None) == (len(classes) > 2)


@pytest.mark.parametrize(
    "change",
    [
        {"label": 0},
        {"label": 1},
        {"patient_id": "p1", "study_id": "s1"},
        {"patient_id": "p1"},
        {"prob_abnormal": 1.0, "prob_normal": 0.0},
        {"prob_abnormal": 0.5, "prob_normal": 0.5},
        {"body_part": None},
    ],
    ids=lambda change: ", ".join(change),
)
def test_degenerate_predictions_give_strict_json_with_reasons(predictions, change):
    content = json.loads(plain(evaluate(predictions(patients=12).assign(**change), CLASSES, resamples=100)))
    for level in content["levels"].values():
        for group in (level["overall"], *level["body_parts"].values()):
            for figure in group["figures"].values():
                assert {"value", "low", "high", "n", "patients"} <= set(figure)
                assert (figure["value"] is None) == ("reason" in figure)
                if figure["value"] is not None:
                    assert figure["low"] <= figure["value"] <= figure["high"]


def test_a_rare_part_is_null_while_the_others_stand(predictions):
    frame = predictions(patients=40)
    frame.loc[frame["patient_id"].isin(["p0000", "p0001"]), "body_part"] = "TOE"
    parts = evaluate(frame, CLASSES, resamples=100).study.parts
    assert {figure.value for figure in parts["TOE"].figures.values()} == {None}
    assert all(figure.value is not None for figure in parts["WRIST"].figures.values())


def test_counts_add_up(predictions):
    frame = predictions(patients=20)
    frame.loc[[0, 1, 2, 3], "label"] = pd.NA
    frame.loc[10, "error"] = "truncated PNG"
    counts = evaluate(frame, CLASSES, resamples=100).counts
    assert counts == {
        "rows": 60,
        "unlabelled": 4,
        "failed": 1,
        "images": 55,
        "studies": 19,
        "patients": 19,
        "studies_lost": 1,
        "studies_disagreeing": 0,
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threshold": 1.5}, "threshold 1.5 is no probability"),
        ({"threshold": float("nan")}, "threshold nan is no probability"),
        ({"resamples": 10}, "10 bootstrap resamples are too few"),
    ],
)
def test_arguments_out_of_range_are_refused(predictions, arguments, message):
    with pytest.raises(UserError, match=message):
        evaluate(predictions(), CLASSES, **arguments)


def errors_table(wrong: list[tuple[str, int, float]]) -> pd.DataFrame:
    """Twenty right calls and the given wrong ones: (id, label, probability of abnormal)."""
    right = [(f"right{index}", index % 2, 0.2 + 0.6 * (index % 2)) for index in range(20)]
    frame = pd.DataFrame([*wrong, *right], columns=["instance_id", "label", "prob_abnormal"])
    return frame.assign(
        study_id=frame["instance_id"], patient_id=frame["instance_id"], prob_normal=1 - frame["prob_abnormal"]
    )


MISSED = [("m1", 1, 0.01), ("m2", 1, 0.3), ("m3", 1, 0.1)]
ALARMS = [("f1", 0, 0.6), ("f2", 0, 0.99), ("f3", 0, 0.7), ("f4", 0, 0.95)]


@pytest.mark.parametrize(
    ("wrong", "k", "expected"),
    [
        (MISSED + ALARMS, 4, ["m1", "m3", "f2", "f4"]),
        (MISSED + ALARMS, 3, ["m1", "m3", "f2"]),
        (MISSED + ALARMS, 12, ["m1", "m3", "m2", "f2", "f4", "f3", "f1"]),
        (MISSED[:1] + ALARMS, 4, ["m1", "f2", "f4", "f3"]),  # alarms fill up
        (MISSED + ALARMS[:1], 4, ["m1", "m3", "m2", "f1"]),  # missed ones fill up
        ([], 12, []),
    ],
)
def test_worst_errors_are_the_most_confident_of_both_kinds(wrong, k, expected):
    assert worst_errors(evaluate(errors_table(wrong), CLASSES, resamples=100), k) == expected


def test_worst_errors_of_grades_are_the_most_confident(predictions):
    frame = predictions(patients=50, classes=tuple(GRADES))
    evaluation = evaluate(frame, GRADES, resamples=100)
    ids = worst_errors(evaluation, 5)
    prob = frame[[f"prob_{name}" for name in GRADES]].to_numpy()
    wrong = prob.argmax(axis=1) != frame["label"].to_numpy(int)
    top = frame["instance_id"].to_numpy()[wrong][np.argsort(-prob.max(axis=1)[wrong])[:5]]
    assert ids == top.tolist()


def with_parts(frame: pd.DataFrame, classes=CLASSES, seed: int = 1) -> pd.DataFrame:
    """Add a sharp part, which is always right, and a blind one, which answers at random."""
    rng = np.random.default_rng(seed)
    right = np.eye(len(classes))[frame["label"].to_numpy(int)]
    answers = {"sharp": 0.9 * right + 0.1 / len(classes), "blind": rng.dirichlet(np.ones(len(classes)), len(frame))}
    columns = {f"{part}:prob_{name}": prob[:, i] for part, prob in answers.items() for i, name in enumerate(classes)}
    return frame.assign(**columns)


@pytest.mark.parametrize(("classes", "ordinal"), [(CLASSES, False), (GRADES, True), (["a", "b", "c"], False)])
def test_parts_of_the_model_are_measured_as_if_alone(predictions, classes, ordinal):
    frame = with_parts(predictions(classes=tuple(classes), patients=80), classes)
    evaluation = evaluate(frame, classes, ordinal=ordinal, resamples=100)
    for level in (evaluation.study, evaluation.image):
        assert list(level.model_parts) == ["sharp", "blind"]
        assert level.model_parts["sharp"].figures["kappa"].value == 1.0
        low, high = (level.model_parts["blind"].figures["auroc"].low, level.model_parts["blind"].figures["auroc"].high)
        assert low < 0.5 < high
        assert set(evaluation.headlines) <= set(level.overall.figures)
    alone = frame.assign(**{f"prob_{name}": frame[f"blind:prob_{name}"] for name in classes})
    alone = evaluate(alone[[name for name in alone if ":" not in name]], classes, ordinal=ordinal, resamples=100)
    assert evaluation.study.model_parts["blind"] == alone.study.overall
    assert evaluation.image.model_parts["blind"] == alone.image.overall
    assert alone.study.model_parts == {}
    content = evaluation.to_dict()["levels"]["study"]["model_parts"]
    assert content["sharp"]["figures"]["accuracy"]["value"] == 1.0


def test_a_part_is_called_at_its_own_threshold_whatever_the_whole_s(predictions):
    frame = with_parts(predictions())
    first, second = (evaluate(frame, CLASSES, threshold=value, resamples=100) for value in (0.2, 0.8))
    assert first.study.overall.confusion != second.study.overall.confusion
    assert first.study.model_parts == second.study.model_parts


def test_an_image_without_an_answer_is_left_out_of_the_parts_too(predictions):
    frame = with_parts(predictions(patients=20))
    lost = [name for name in frame if "prob_" in name]
    frame.loc[frame["study_id"] == "s0003", lost] = np.nan
    evaluation = evaluate(pa.Table.from_pandas(frame), CLASSES, resamples=100)
    assert evaluation.image.overall.n == evaluation.image.model_parts["sharp"].n == 57
    assert evaluation.study.overall.n == evaluation.study.model_parts["blind"].n == 19
