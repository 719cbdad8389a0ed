"""The view_fusion family: what its recipe makes of a batch, how studies are predicted, and one run end to end."""

from pathlib import Path

import numpy as np
import pytest
import torch
from small_run import run, small_job

from mskray.bundles import Fitted
from mskray.ensemble import describe
from mskray.errors import UserError
from mskray.families import Images, family, load_predictor
from mskray.families.view_fusion import ViewFusionConfig, ViewFusionRecipe
from mskray.models.backbones import Backbone
from mskray.prediction.batch import Predicting
from mskray.storage import locate

SIDE = 48
NETWORK = {"weights": "none", "views": 3, "pooling": "attention"}
NO_CHANGE = dict.fromkeys(("flip", "rotation", "translation", "scale", "brightness", "contrast"), 0.0)


def config(fusion: str, **augment: float) -> ViewFusionConfig:
    return ViewFusionConfig.model_validate(
        {
            "network": {**NETWORK, "backbone": "resnet18", "fusion": fusion},
            "data": {"image_size": SIDE},
            "augment": {**NO_CHANGE, **augment},
        }
    )


def predictor(fusion: str):
    recipe = ViewFusionRecipe(config(fusion), 2)
    image = {"size": SIDE, "dtype": "uint8", "fit": "pad"}
    settings = recipe.config.model_dump(mode="json")
    state = recipe.initial_state()
    return family("view_fusion").predictor(
        Fitted("view_fusion", settings, "t", ("a", "b"), "radiograph", (), image, state, [], {}, {}, {})
    )


def pictures(count: int) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (count, SIDE, SIDE), dtype=np.uint8))


@pytest.mark.parametrize("fusion", ["early", "late"])
def test_each_image_gets_its_study_s_answer_whatever_else_is_asked(fusion: str) -> None:
    predict, views = predictor(fusion), pictures(8)
    names = ["a", "a", "b", "c", "c", "c", "c", "c"]
    answers = predict(Images(views, (), names)).probabilities
    for study, rows in (("a", slice(0, 2)), ("b", slice(2, 3)), ("c", slice(3, 8))):
        alone = predict(Images(views[rows], (), [study] * (rows.stop - rows.start))).probabilities
        np.testing.assert_allclose(answers[rows], alone, atol=1e-5)
        np.testing.assert_array_equal(answers[rows], answers[rows][:1].repeat(len(alone), axis=0))
    np.testing.assert_allclose(answers.sum(axis=1), 1, atol=1e-5)
    assert not np.allclose(answers[0], answers[2], atol=1e-6)


def test_without_studies_each_image_is_one() -> None:
    predict, views = predictor("late"), pictures(2)
    together = predict(Images(views)).probabilities
    np.testing.assert_allclose(together[1:], predict(Images(views[1:])).probabilities, atol=1e-5)


def test_late_fusion_looks_at_more_views_than_it_trained_with_and_early_fusion_drops_them() -> None:
    views = pictures(5)
    for fusion, differs in (("late", True), ("early", False)):
        predict = predictor(fusion)
        whole = predict(Images(views, (), ["s"] * 5)).probabilities[0]
        first = predict(Images(views[:3], (), ["s"] * 3)).probabilities[0]
        assert (not np.allclose(whole, first, atol=1e-7)) == differs


def test_views_are_changed_independently_and_padding_not_at_all() -> None:
    recipe = ViewFusionRecipe(config("late", flip=0.5, brightness=0.3), 2)
    torch.manual_seed(0)
    view = torch.rand(SIDE, SIDE)
    batch = {"image": view.expand(4, 3, -1, -1).clone(), "views": torch.tensor([3, 3, 3, 2])}
    batch["image"][3, 2] = 0
    changed = recipe.augment(batch)["image"]
    pairs = [(changed[study, 0] - changed[study, 1]).abs().max() for study in range(4)]
    assert min(float(each) for each in pairs) > 0.001
    assert not changed[3, 2].any()
    assert torch.equal(batch["image"][0, 0], view), "the given batch was changed"


def test_early_fusion_changes_its_repeats_too() -> None:
    recipe = ViewFusionRecipe(config("early", brightness=0.3), 2)
    torch.manual_seed(0)
    batch = {"image": torch.rand(1, 3, SIDE, SIDE), "views": torch.tensor([1])}
    made = recipe.augment(batch)
    assert made["views"].tolist() == [3]
    means = made["image"].mean(dim=(2, 3))[0]
    assert len(set(means.tolist())) == 3


def test_late_fusion_is_explained_view_by_view() -> None:
    predict, views = predictor("late"), pictures(3)
    explained = predict.explain(Images(views, (), ["a", "a", "b"]), ["saliency"])
    assert explained.maps["saliency"].shape == (3, SIDE, SIDE)
    assert explained.maps["saliency"].max(axis=(1, 2)).tolist() == [1.0, 1.0, 1.0]


def test_only_late_fusion_can_be_explained() -> None:
    recipe = ViewFusionRecipe(config("late"), 2)
    assert isinstance(recipe.explained(recipe.build()), Backbone)
    recipe = ViewFusionRecipe(config("early"), 2)
    with pytest.raises(UserError, match=r"early fusion .* use network\.fusion=late"):
        recipe.explained(recipe.build())


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_studies_are_learned_from_and_predicted(phantom_cohort, tmp_path: Path) -> None:
    network = {**NETWORK, "backbone": "mobilenet_v3_small", "fusion": "late"}
    job = small_job(phantom_cohort, locate(tmp_path / "bundle"), family="view_fusion", network=network)
    job["data"] = {"image_size": 64, "batch_size": 4, "shuffle_window": 64}
    bundle = run({**job, "loop": {"epochs": 1}})
    studies = set(phantom_cohort.metadata("train", ["study_id"])["study_id"].to_pylist())
    assert sum(bundle.labels.values()) == len(studies) < phantom_cohort.count("train")
    assert f"training studies: {len(studies)}" in (tmp_path / "bundle" / "card.md").read_text()

    location = str(tmp_path / "bundle")
    table = Predicting(location, describe(location)).cohort(phantom_cohort, ["validation"])
    assert len(table) == phantom_cohort.count("validation")
    names, found = table["study_id"].to_pylist(), table["prob_abnormal"].to_numpy()
    assert len(dict(zip(names, found, strict=True))) == len(set(zip(names, found.tolist(), strict=True)))

    images = phantom_cohort.images("validation", table["instance_id"].to_pylist())
    _, predict = load_predictor(location)
    served = predict(Images([images[name] for name in table["instance_id"].to_pylist()], (), names)).probabilities
    np.testing.assert_allclose(served[:, 1], found, atol=1e-4)
