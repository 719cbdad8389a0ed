"""Bags of visual words from a cohort of pairs to a bundle; what is kept between jobs; pairs without key points."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_pairs import fitted, picture
from small_run import run

from mskray.bundles import Fitted, load_bundle
from mskray.cohorts import open_cohort
from mskray.cohorts.change import CHANGE
from mskray.cohorts.ingest import ingest
from mskray.errors import UserError
from mskray.estimators.pair_softmax import PairSoftmax
from mskray.families import Images, family, load_predictor
from mskray.families.pair_bovw import check_left
from mskray.progress import Progress
from mskray.storage import locate
from mskray.training.validation import validation_metrics


def test_a_pair_without_key_points_gets_an_error_and_the_others_an_answer() -> None:
    predictor = family("pair_bovw").predictor(fitted())
    flat, some = np.zeros((96, 96), np.uint8), picture(0)
    found = predictor(Images([np.stack(each) for each in ([some, picture(1)], [flat, some], [flat, flat])]))
    np.testing.assert_allclose(found.probabilities[0].sum(), 1, atol=1e-6)
    assert np.isnan(found.probabilities[1:]).all()
    assert found.errors[1] == "before: the image is flat: no key point"
    assert found.errors[2] == "before: the image is flat: no key point; after: the image is flat: no key point"
    assert set(found.errors) == {1, 2}


def test_all_pairs_may_be_without_key_points() -> None:
    found = family("pair_bovw").predictor(fitted())(Images([np.zeros((2, 96, 96), np.uint8)]))
    assert found.probabilities.shape == (1, 3)
    assert set(found.errors) == {0}


@pytest.mark.parametrize(
    "wrong",
    [
        {"estimator": None},
        {"estimator": {"name": "gaussian_nb"}},
        {"estimator": PairSoftmax(np.arange(2), np.ones((1, 2)), np.zeros(1), np.arange(2), 3)},
        {"state": {}},
        {"state": {"words": torch.zeros(6)}},
    ],
    ids=["none", "plain", "another family's", "no words", "words of no width"],
)
def test_a_bundle_without_its_classifier_or_words_is_refused(wrong: dict[str, Any]) -> None:
    broken = Fitted(**{**vars(fitted()), **wrong})
    with pytest.raises(UserError, match=r"without its estimator\.skops or words"):
        family("pair_bovw").predictor(broken)


@pytest.mark.parametrize(("labels", "left"), [([], "none is left"), ([2, 2], "all are improved")])
def test_what_is_left_of_validation_has_two_classes(labels: list[int], left: str) -> None:
    check_left(np.array([0, 2]), CHANGE, "here")
    with pytest.raises(UserError, match=f"here: of its pairs with key points in both images {left} "):
        check_left(np.array(labels, np.int64), CHANGE, "here")


@pytest.mark.long
@pytest.mark.slow
def test_from_pairs_to_a_bundle(ray_cluster: str, tmp_path: Path) -> None:
    """The bundle says what was validated; another vocabulary finds no key point anew; too large a one is refused."""
    options = {"patients": 30, "image_size": 96, "noise": 0.02}
    settings = {"size": 96, "split_fractions": [0.6, 0.4, 0.0], "shard_rows": 16}
    ingest("phantom-pairs", None, tmp_path / "cohort", options, settings, key=b"a key for tests only")
    cohort = open_cohort(tmp_path / "cohort")
    job: dict[str, Any] = {
        "family": "pair_bovw",
        "cohort": str(cohort.location),
        "out": str(locate(tmp_path / "svm")),
        "keypoints": {"descriptor": "sift", "most": 40},
        "vocabulary": 12,
    }
    said: list[Progress] = []
    bundle = run(job, said.append)
    assert any(each.stage == "SIFT key points of train" for each in said)
    assert any("12 words of" in each.stage and "converged" in each.stage for each in said)
    _, predictor = load_predictor(str(tmp_path / "svm"))
    rows = cohort.metadata("validation", ["instance_id", "label_change"]).to_pydict()
    images = cohort.images("validation", rows["instance_id"])
    found = predictor(Images([images[name] for name in rows["instance_id"]]))
    assert not found.errors
    figures = validation_metrics(found.probabilities, np.array(rows["label_change"]))
    assert figures == pytest.approx({name: bundle.best[name] for name in figures}, abs=1e-5)

    said.clear()
    other = {**job, "out": str(locate(tmp_path / "nb")), "vocabulary": 8, "task": "improved"}
    run({**other, "classifier": {"name": "multinomial_nb"}}, said.append)
    assert not any("key points" in each.stage for each in said), "key points were found again"
    assert load_bundle(str(tmp_path / "nb"))[1].state["words"].shape == (8, 128)
    with pytest.raises(UserError, match="a vocabulary of 90,000 words needs as many descriptors"):
        run({**job, "out": str(locate(tmp_path / "large")), "vocabulary": 90_000})
