"""The pictures of a report carry what the model looked at, in pixels of the cohort's images, or nothing at all."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from small_discs import disc_cohort, disc_job, untrained
from small_pairs import fitted, pair_cohort
from small_run import untrained_bundle
from torch import nn

from mskray.bundles import save_bundle
from mskray.cohorts import Cohort
from mskray.cohorts.schema import ABNORMALITY
from mskray.ensemble import describe, join
from mskray.errors import UserError
from mskray.evaluation import wording
from mskray.explain.methods import METHODS
from mskray.families import Images, Prediction
from mskray.families.classifier import ClassifierRecipe
from mskray.families.torch_predictor import TorchPredictor
from mskray.models.backbones import Backbone
from mskray.storage import locate
from mskray.training.recipe import Recipe
from mskray.verbs.pictures import explained_pictures

LABELS = [{"abnormality": number % 2} for number in range(10)]
NAMES = [f"i{number}" for number in (7, 0, 3, 9, 1, 2, 4, 5, 6)]


def test_pictures_are_in_the_order_asked_for_and_have_a_map(tmp_path: Path, tiny_cohort: Callable[..., Cohort]) -> None:
    cohort = tiny_cohort((ABNORMALITY,), LABELS)
    uris = [untrained_bundle(tmp_path / "a"), untrained_bundle(tmp_path / "b", "densenet121", seed=1)]
    pictures = explained_pictures(join(uris, "both"), "both", cohort, "test", NAMES)
    assert [picture.instance_id for picture in pictures] == NAMES
    images = cohort.images("test", NAMES)
    for picture in pictures:
        np.testing.assert_array_equal(picture.image, images[picture.instance_id])
        assert list(picture.heats) == list(METHODS)
        assert {heat.shape[2] for heat in picture.heats.values()} == {4}
        assert not picture.looked


def test_a_familys_box_is_in_pixels_of_the_cohort(
    tmp_path: Path, tiny_cohort: Callable[..., Cohort], monkeypatch: pytest.MonkeyPatch
) -> None:
    def known(self: TorchPredictor, images: Images) -> Prediction:
        n = len(images)
        return Prediction(np.full((n, 2), 0.5, np.float32), boxes={"key_area": np.tile([24.0, 48, 96, 12], (n, 1))})

    monkeypatch.setattr(TorchPredictor, "__call__", known)
    cohort = tiny_cohort((ABNORMALITY,), LABELS)  # 32 px; the bundle's canvas has 96
    uri = untrained_bundle(tmp_path / "a")
    (picture,) = explained_pictures(describe(uri), uri, cohort, "test", ["i1"])
    assert [tuple(box) for box in picture.looked] == [(8, 16, 24, 4, "key_area")]


def test_a_method_that_the_model_does_not_allow_is_left_out(tmp_path: Path, tiny_cohort: Callable[..., Cohort]) -> None:
    cohort = tiny_cohort((ABNORMALITY,), LABELS)
    uri = untrained_bundle(tmp_path / "a", image_size=32)  # its last map is one cell
    pictures = explained_pictures(describe(uri), uri, cohort, "test", NAMES[:2])
    assert [list(picture.heats) for picture in pictures] == [["guided_backprop", "saliency"]] * 2


def test_a_model_that_cannot_be_explained_leaves_plain_pictures(
    tmp_path: Path, tiny_cohort: Callable[..., Cohort], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(self: Recipe, network: nn.Module) -> Backbone:
        raise UserError("no part of it takes one whole image")

    monkeypatch.setattr(ClassifierRecipe, "explained", refuses)
    cohort = tiny_cohort((ABNORMALITY,), LABELS)
    uri = untrained_bundle(tmp_path / "a")
    pictures = explained_pictures(describe(uri), uri, cohort, "test", NAMES[:2])
    assert [(picture.looked, picture.heats) for picture in pictures] == [([], {})] * 2


def test_every_method_is_worded() -> None:
    assert set(wording.METHODS) == set(METHODS)


def test_of_a_pair_both_images_are_shown_and_of_a_stack_its_middle(tmp_path: Path) -> None:
    cohort = pair_cohort(tmp_path / "pairs", {"test": [0, 1, 2]})
    save_bundle(fitted(), locate(tmp_path / "bovw"), "f00")
    names = cohort.metadata("test", ["instance_id"])["instance_id"].to_pylist()
    pictures = explained_pictures(describe(tmp_path / "bovw"), "bovw", cohort, "test", names)
    for name, image in cohort.images("test", names).items():
        np.testing.assert_array_equal(pictures[names.index(name)].image, np.hstack([image[0], image[1]]))

    cohort = disc_cohort(tmp_path / "discs")
    untrained(disc_job(cohort, tmp_path / "spinenet"))
    (name,) = cohort.metadata("test", ["instance_id"])["instance_id"].to_pylist()[:1]
    (one,) = explained_pictures(describe(tmp_path / "spinenet"), "spinenet", cohort, "test", [name])
    np.testing.assert_array_equal(one.image, cohort.images("test", [name])[name][2])
    assert not one.heats
