"""AP50 by hand and against COCO's own implementation; precision, recall and intervals by patient."""

import contextlib
import io
import math

import numpy as np
import pytest

from mskray.evaluation.detection import ImageBoxes, average_precision, detection_figures, hit_boxes

coco = pytest.importorskip("pycocotools.coco")
cocoeval = pytest.importorskip("pycocotools.cocoeval")


def boxes(*rows):
    return np.array(rows, float).reshape(-1, 4)


def test_average_precision_by_hand():
    """Hits 1, 0, 1 of 4 boxes: precision 1 up to recall 1/4, 2/3 up to 1/2, then 0: (26 + 25 × 2/3) / 101."""
    value = average_precision(np.array([True, False, True]), np.ones(3), 4)
    assert value == pytest.approx((26 + 25 * 2 / 3) / 101)


@pytest.mark.parametrize(("hits", "total", "value"), [([], 2, 0.0), ([True], 1, 1.0), ([False], 1, 0.0)])
def test_average_precision_at_its_ends(hits, total, value):
    assert average_precision(np.array(hits, bool), np.ones(len(hits)), total) == pytest.approx(value)


def test_no_true_box_has_no_average_precision():
    assert math.isnan(average_precision(np.zeros(1, bool), np.ones(1), 0))


def test_a_true_box_is_taken_once_and_by_the_surest():
    true = boxes((0, 0, 10, 10))
    assert hit_boxes(boxes((0, 0, 10, 8), (0, 0, 10, 10)), true).tolist() == [True, False]
    assert hit_boxes(boxes((0, 0, 10, 4)), true).tolist() == [False]
    assert hit_boxes(boxes((0, 0, 10, 5)), true).tolist() == [True], "an overlap of exactly one half counts"


def scene(seed: int, images: int = 60) -> list[ImageBoxes]:
    rng = np.random.default_rng(seed)
    made = []
    for number in range(images):
        true = np.column_stack([rng.uniform(0, 80, (3, 2)), rng.uniform(8, 30, (3, 2))])[: rng.integers(4)]
        near = true + rng.normal(0, 2.5, true.shape)
        stray = np.column_stack([rng.uniform(0, 80, (2, 2)), rng.uniform(8, 30, (2, 2))])[: rng.integers(3)]
        found = np.concatenate([near, stray])
        made.append(ImageBoxes(f"p{number // 2}", found, rng.uniform(0, 1, len(found)).round(3), true))
    return made


@pytest.mark.parametrize("seed", range(4))
def test_it_is_cocos(seed):
    images = scene(seed)
    truth = coco.COCO()
    annotations, found = [], []
    for number, image in enumerate(images):
        for box in image.true.tolist():
            key = {"id": len(annotations) + 1, "image_id": number, "category_id": 1, "iscrowd": 0}
            annotations.append({**key, "bbox": box, "area": box[2] * box[3]})
        for box, score in zip(image.found.tolist(), image.scores.tolist(), strict=True):
            found.append({"image_id": number, "category_id": 1, "bbox": box, "score": score})
    images_of = [{"id": number} for number in range(len(images))]
    truth.dataset = {"images": images_of, "annotations": annotations, "categories": [{"id": 1}], "info": {}}
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        judge = cocoeval.COCOeval(truth, truth.loadRes(found), "bbox")
        judge.evaluate()
        judge.accumulate()
    expected = judge.eval["precision"][0, :, 0, 0, 2].mean()
    assert 0.2 < expected < 0.98
    figure = detection_figures(images, "flag", 0.5, resamples=50).figures["ap50"]
    assert figure.value == pytest.approx(expected, abs=1e-6)
    assert figure.low < figure.value < figure.high


def test_precision_and_recall_at_the_threshold():
    images = [
        ImageBoxes(f"p{number}", boxes((0, 0, 10, 10), (50, 50, 9, 9)), np.array([0.9, 0.6]), boxes((0, 0, 10, 10)))
        for number in range(6)
    ]
    images.append(ImageBoxes("p6", boxes((0, 0, 10, 10)), np.array([0.4]), boxes((0, 0, 10, 10))))
    made = detection_figures(images, "flag", 0.5, resamples=100)
    assert made.figures["precision"].value == pytest.approx(0.5)
    assert made.figures["recall"].value == pytest.approx(6 / 7, abs=1e-6)
    assert made.figures["recall"].n == 7
    assert made.figures["recall"].low < 6 / 7


def test_too_few_patients_have_a_reason_and_no_figure():
    figure = detection_figures([ImageBoxes("p", boxes(), np.empty(0), boxes())], "flag", 0.5).figures["ap50"]
    assert figure.value is None
    assert "0 true boxes of 1 patients" in figure.reason
