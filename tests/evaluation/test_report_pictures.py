"""The report's pictures: which are shown, what is drawn on them, what lies over them."""

import base64
import io

import numpy as np
import pytest
from PIL import Image
from report_page import Page

from mskray.evaluation.report import PICTURE_SIDE, Box, Picture, write_report
from mskray.evaluation.result import evaluate, right_calls, worst_errors

CLASSES = ["normal", "abnormal"]


def test_pictures_carry_truth_probability_and_boxes(predictions):
    evaluation = evaluate(predictions(), CLASSES, resamples=100)
    name = worst_errors(evaluation, 1)[0]
    image = np.zeros((600, 900), np.uint8)
    image[100:200, 300:400] = 255
    boxes = [Box(300, 100, 100, 100, "fracture"), Box(1, 2, 3, 4, "flag")]
    html = write_report(evaluation, {}, [Picture(name, image, boxes)])
    page = Page(html)
    samples = evaluation.image.samples
    score = samples.prob[samples.ids == name][0, 1]
    assert f"Probability of abnormal: {score:.3f}" in page.text
    assert "Missed abnormal" in page.text
    assert "Outlined: fracture, flag" in page.text
    assert {("rect", "x", "300"), ("rect", "width", "100")} <= set(page.attributes)
    source = next(value for tag, key, value in page.attributes if tag == "img" and key == "src")
    shown = Image.open(io.BytesIO(base64.b64decode(source.split(",", 1)[1])))
    assert shown.size == (PICTURE_SIDE, PICTURE_SIDE * 600 // 900)
    x, y = 350 * PICTURE_SIDE // 900, 150 * PICTURE_SIDE // 900
    assert shown.getpixel((x, y)) == 255
    assert all(value for tag, key, value in page.attributes if tag == "img" and key == "alt")


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (Picture("nobody", np.zeros((4, 4), np.uint8)), "nobody is not among the predictions"),
        (Picture("i0000-0", np.zeros((4, 4), np.uint16)), "must be uint8, not uint16"),
    ],
)
def test_a_wrong_picture_is_refused(predictions, picture, message):
    evaluation = evaluate(predictions(), CLASSES, resamples=100)
    with pytest.raises(ValueError, match=message):
        write_report(evaluation, {}, [picture])


def test_what_the_model_looked_at_lies_over_errors_and_right_calls(predictions) -> None:
    evaluation = evaluate(predictions(), CLASSES, resamples=100)
    heats = dict.fromkeys(("grad_cam", "saliency"), np.zeros((8, 8, 4), np.uint8))
    image = np.zeros((40, 30), np.uint8)
    worst = [
        Picture(name, image, [Box(1, 2, 3, 4, "fracture")], [Box(5, 6, 7, 8, "key_area")], heats)
        for name in worst_errors(evaluation, 3)
    ]
    right = [Picture(name, image, heats=heats) for name in right_calls(evaluation, 2)]
    page = Page(write_report(evaluation, {}, worst, right=right))
    layers = [value for tag, name, value in page.attributes if tag == "img" and name == "class"]
    assert layers == ["heat grad_cam", "heat saliency"] * 5
    chosen = [value for tag, name, value in page.attributes if tag == "input" and name == "class"]
    assert chosen == ["choose grad_cam", "choose saliency", "choose"] * 2
    boxes = [
        value
        for tag, name, value in page.attributes
        if tag == "rect" and name == "class" and value in ("truth", "looked")
    ]
    assert boxes == ["truth", "looked"] * 3
    assert "Looked at: key_area" in page.text
    assert page.text.count("Rightly called abnormal") == 2
    assert page.text.count("where the model holds reasons about abnormal") == 2
    assert len(write_report(evaluation, {}, worst)) - len(write_report(evaluation, {}, worst[:2])) < 10_000


def test_right_calls_are_the_most_confident_of_the_finding(predictions) -> None:
    evaluation = evaluate(predictions(), CLASSES, resamples=100)
    samples = evaluation.image.samples
    rows = [int(np.flatnonzero(samples.ids == name)[0]) for name in right_calls(evaluation, 5)]
    right = np.flatnonzero((samples.label == 1) & (samples.prob[:, 1] >= 0.5))
    assert len(rows) == 5
    assert set(rows) == set(right[np.argsort(-samples.prob[right, 1])][:5])


def test_right_calls_of_several_classes_take_turns(predictions) -> None:
    classes = ("hand", "foot", "knee")
    evaluation = evaluate(predictions(classes=classes), list(classes), resamples=100)
    samples = evaluation.image.samples
    rows = np.array([int(np.flatnonzero(samples.ids == name)[0]) for name in right_calls(evaluation, 6)])
    called = samples.prob[rows].argmax(axis=1)
    assert (called == samples.label[rows]).all()
    assert sorted(called[:3]) == sorted(called[3:]) == [0, 1, 2]
