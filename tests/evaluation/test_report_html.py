"""The report: well-formed, self-contained, safe against hostile text, and with the figures of metrics.json."""

import re

import numpy as np
import pandas as pd
import pytest
from report_page import Page

from mskray.evaluation.published import published_figures
from mskray.evaluation.report import Box, Picture, write_report
from mskray.evaluation.result import evaluate, worst_errors
from mskray.evaluation.wording import NOT_A_DEVICE

CLASSES = ["normal", "abnormal"]
GRADES = ["KL0", "KL1", "KL2", "KL3", "KL4"]
HISTORY = [
    {"epoch": 1, "train_loss": 0.7, "val_loss": 0.72, "val_auroc": 0.6, "images_per_s": 99.0},
    {"epoch": 2, "train_loss": 0.5, "val_loss": float("nan"), "val_auroc": 0.8},
]


def report(frame: pd.DataFrame, classes=CLASSES, *, context=None, history=(), boxes=(), **arguments) -> tuple:
    evaluation = evaluate(frame, classes, resamples=100, **arguments)
    rng = np.random.default_rng(0)
    pictures = [
        Picture(name, rng.integers(256, size=(40, 30), dtype=np.uint8), boxes) for name in worst_errors(evaluation, 4)
    ]
    return evaluation, write_report(evaluation, context or {}, pictures, history)


CASES = {
    "binary": ({}, CLASSES, {}),
    "grades": ({"classes": tuple(GRADES)}, GRADES, {"ordinal": True}),
    "nominal": ({"classes": ("hand", "foot", "knee")}, ["hand", "foot", "knee"], {}),
    "one part": ({"parts": ("KNEE",)}, CLASSES, {"threshold": 0.35}),
    "few patients": ({"patients": 3}, CLASSES, {}),
}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_page_is_well_formed_and_loads_nothing(predictions, case):
    simulation, classes, arguments = CASES[case]
    context = {"published": published_figures("mura", "abnormality") + published_figures("knee-oa", "kl_grade")}
    _, html = report(predictions(**simulation), classes, context=context, history=HISTORY, **arguments)
    page = Page(html)
    assert html.startswith("<!doctype html>")
    assert not {"script", "link", "iframe", "object", "embed"} & set(page.tags)
    assert not re.search(r"https?:|//[a-z]|@import|url\(", html)
    for tag, name, value in page.attributes:
        assert not name.startswith("on"), (tag, name)
        if name in ("src", "href", "xlink:href", "action", "data"):
            assert value.startswith("data:image/png;base64,")
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    labels = [value for _, name, value in page.attributes if name == "aria-labelledby"]
    assert set(labels) <= set(ids)
    assert ("meta", "content", "default-src 'none'; img-src data:; style-src 'unsafe-inline'") in page.attributes
    assert not re.search(r"\b(nan|None|inf)\b", page.text)
    assert page.text.count(NOT_A_DEVICE) == 2


@pytest.mark.parametrize("case", ["binary", "grades", "nominal", "one part"])
def test_the_page_shows_the_figures_of_metrics_json(predictions, case):
    simulation, classes, arguments = CASES[case]
    evaluation, html = report(predictions(**simulation), classes, **arguments)
    text = Page(html).text
    drawn = {"auroc", "quadratic_kappa" if arguments.get("ordinal") else "kappa"}
    drawn |= {"sensitivity", "specificity"} if len(classes) == 2 else {"accuracy", "balanced_accuracy"}
    for level in evaluation.to_dict()["levels"].values():
        groups = [(level["overall"], set(level["overall"]["figures"]))]
        groups += [(group, drawn) for group in level["body_parts"].values()]
        for group, names in groups:
            for name in names:
                figure = group["figures"][name]
                if figure["value"] is None:
                    assert figure["reason"] in text
                else:
                    assert f"{figure['value']:.3f} ({figure['low']:.3f}–{figure['high']:.3f})" in text, name


@pytest.mark.parametrize("case", ["binary", "grades", "nominal"])
def test_the_whole_and_its_parts_stand_side_by_side(predictions, case):
    simulation, classes, arguments = CASES[case]
    frame = predictions(**simulation)
    assert "Answered by" not in Page(report(frame, classes, **arguments)[1]).text
    # The local part answers with the classes turned round, so that its figures are others than the whole's.
    frame = frame.assign(**{f"global:prob_{name}": frame[f"prob_{name}"] for name in classes})
    turned = dict(zip(classes, classes[::-1], strict=True))
    frame = frame.assign(**{f"local:prob_{name}": frame[f"prob_{turned[name]}"] for name in classes})
    evaluation, html = report(frame, classes, **arguments)
    text = Page(html).text
    for level in (evaluation.study, evaluation.image):
        for name, group in (("Whole model", level.overall), *level.model_parts.items()):
            figures = [group.figures[figure] for figure in evaluation.headlines]
            row = " ".join(f"{each.value:.3f} ({each.low:.3f}–{each.high:.3f})" for each in figures)
            assert f"{name} {row}" in text
    assert ("0.5 upwards, the whole too." in text) == (len(classes) == 2)


def test_a_threshold_that_the_parts_do_not_share_is_said(predictions):
    frame = predictions()
    frame = frame.assign(**{f"local:prob_{name}": frame[f"prob_{name}"] for name in CLASSES})
    _, html = report(frame, threshold=0.35)
    assert "from a probability of 0.5 upwards, the whole from 0.35." in Page(html).text


HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>&"


def test_hostile_text_is_escaped_everywhere(predictions):
    classes = ["normal", HOSTILE]
    frame = predictions(classes=tuple(classes), parts=("HAND", HOSTILE))
    frame = frame.assign(**{f"{HOSTILE}:prob_{name}": frame[f"prob_{name}"] for name in classes})
    for column in ("instance_id", "study_id"):
        frame[column] = frame[column] + HOSTILE
    names = ("bundle", "family", "cohort", "cohort_hash", "split", "date")
    context = dict.fromkeys(names, HOSTILE) | {"versions": {HOSTILE: HOSTILE}}
    history = [{"epoch": 1, f"train_loss{HOSTILE}": 0.7}]
    _, html = report(frame, classes, context=context, history=history, boxes=[Box(1, 2, 3, 4, HOSTILE)])
    page = Page(html)
    assert "script" not in page.tags
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert HOSTILE in page.text
    assert [value for tag, name, value in page.attributes if tag == "img" and name == "src" and value == "x"] == []


@pytest.mark.parametrize(
    ("label", "score", "sentence"),
    [
        (
            [1, 1, 1, 0, 0, 0],
            [0.9, 0.8, 0.2, 0.1, 0.2, 0.7],
            "It found 2 of 3 abnormal studies and missed 1; it raised 1 false alarm among 3 normal ones.",
        ),
        ([1] * 6, [0.9] * 5 + [0.1], "It found 5 of 6 abnormal studies and missed 1."),
        ([0] * 6, [0.1] * 4 + [0.9] * 2, "It raised 2 false alarms among 6 normal studies."),
    ],
)
def test_the_headline_says_what_was_found_and_missed(label, score, sentence):
    ids = [f"i{index}" for index in range(len(label))]
    frame = pd.DataFrame({"instance_id": ids, "study_id": ids, "patient_id": ids, "label": label})
    frame = frame.assign(prob_abnormal=score, prob_normal=1 - np.array(score))
    _, html = report(frame, context={"bundle": "knee-mobilenet", "split": "test"})
    text = Page(html).text
    assert sentence in text
    assert "knee-mobilenet was tested on 6 held-out studies (6 images) of 6 patients." in text


def test_a_model_that_calls_everything_abnormal_is_not_called_certain():
    """Specificity 0 and kappa 0, which Landis and Koch call slight: poor is below 0."""
    label = [0, 1] * 10
    ids = [f"i{index}" for index in range(len(label))]
    frame = pd.DataFrame({"instance_id": ids, "study_id": ids, "patient_id": ids, "label": label})
    _, html = report(frame.assign(prob_abnormal=0.9, prob_normal=0.1))
    text = Page(html).text
    assert "10 normal studies, of 10 patients: every single one was called wrongly." in text
    assert "false alarm in about 100" not in text
    assert "is slight" in text
    assert "is poor" not in text


def test_the_headline_of_grades_counts_near_misses(predictions):
    frame = predictions(patients=30, classes=tuple(GRADES))
    evaluation, html = report(frame, GRADES, ordinal=True)
    confusion = np.array(evaluation.study.overall.confusion)
    near = int(sum(np.trace(confusion, offset) for offset in (-1, 0, 1)))
    sentence = (
        f"right one of 5 classes in {np.trace(confusion)} of 30 studies, and was at most one grade off in {near}."
    )
    assert sentence in Page(html).text


@pytest.mark.parametrize(
    ("change", "split", "caution"),
    [
        ({}, "train", "was trained on"),
        ({}, "validation", "flatter the model"),
        ({"label": 0}, "test", "No study is abnormal, so figures that compare the classes are missing."),
        ({"error": ["truncated PNG"] + [None] * 35}, "test", "1 image that got no prediction."),
        ({"label": [None, 1] + [0, 1, 1] * 11 + [0]}, "test", "1 image without a label"),
        ({"label": [0, 1] * 18}, "test", "Images of different labels in one study: 12 studies."),
    ],
)
def test_what_to_be_careful_about_is_said(predictions, change, split, caution):
    _, html = report(predictions(patients=12).assign(**change), context={"split": split})
    assert caution in Page(html).text


def test_nothing_unusual_needs_no_caution(predictions):
    _, html = report(predictions(), context={"split": "test"})
    assert "Read with care" not in html


def test_a_perfect_score_is_not_called_certain():
    ids = [f"i{index:02d}" for index in range(20)]
    frame = pd.DataFrame({"instance_id": ids, "study_id": ids, "patient_id": ids, "label": [0, 1] * 10})
    frame = frame.assign(prob_abnormal=[0.1, 0.9] * 10, prob_normal=[0.9, 0.1] * 10)
    text = Page(report(frame)[1]).text
    # 1 - 0.05 ** (1 / 10): with ten patients an error rate of 26 % stays unseen once in 20 times.
    assert "No error was seen among the 10 abnormal studies. From 10 patients alone, up to 26 errors in 100" in text


@pytest.mark.parametrize(
    ("history", "titles"),
    [
        (HISTORY, ["train loss", "val loss", "val auroc"]),
        ([{"loss": 0.5}, {"loss": 0.4}], ["loss"]),
        ([{"epoch": 0, "val_kappa": -0.1}], ["val kappa"]),
        ([{"epoch": 1, "lr": 1e-4}], []),
        ([{"global/epoch": 1, "global/train_loss": 0.5}, {"epoch": 1, "train_loss": 0.4}], ["Loss, global training"]),
        ([], []),
    ],
)
def test_training_curves_show_losses_and_figures_only(predictions, history, titles):
    text = Page(report(predictions(), history=history)[1]).text
    assert ("Figures while training" in text) == any("auroc" in title or "kappa" in title for title in titles)
    for title in titles:
        assert title in text
    assert "images per s" not in text


def test_a_published_figure_is_comparable_only_on_the_same_studies(predictions):
    context = {"published": published_figures("mura", "abnormality")}
    text = Page(report(predictions(), context=context)[1]).text
    assert "Not comparable: ours rests on 60 studies." in text
    assert "Not comparable: those studies are not public." in text
    assert "Comparable: the same public set" not in text
    whole = Page(report(predictions(patients=1199, views=1), context=context)[1]).text
    assert whole.count("Comparable: the same public set") == 3
    assert "not in this cohort" in whole  # the shoulder, say, when the cohort has none


def test_without_maps_nothing_is_said_of_them(predictions) -> None:
    _, html = report(predictions())
    assert "Grad-CAM" not in Page(html).text
    assert "Rightly called" not in Page(html).text
