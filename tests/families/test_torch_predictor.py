"""An image becomes the network's input as ingest would have stored it, whatever else is in its batch."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mskray.bundles import Fitted
from mskray.errors import UserError
from mskray.explain.methods import to_boxes
from mskray.families import Images
from mskray.families.torch_predictor import TorchPredictor
from mskray.imaging.regions import fit_to_canvas, fit_to_format
from mskray.models.backbones import Backbone
from mskray.training.config import TorchConfig
from mskray.training.recipe import Answer, Batch, Recipe


class Levels(Recipe):
    """A recipe that answers with what it was given: the mean grey level, and the rest to 1."""

    config = TorchConfig.model_validate({"data": {"image_size": 32}})
    classes = 2

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def build(self) -> nn.Module:
        return nn.Identity()

    def loss(self, network: nn.Module, batch: Batch, class_weights: Tensor | None) -> Tensor:
        raise AssertionError("a predictor does not train")

    def answer(self, network: nn.Module, batch: Batch) -> Answer:
        self.seen.append(batch["image"])
        mean = batch["image"].mean(dim=(1, 2, 3))
        middle = torch.tensor([[8.0, 8, 16, 16]] * len(mean))
        return Answer(torch.stack([1 - mean, mean], dim=1), boxes={"middle": middle})


def predictor(recipe: Levels, dtype: str) -> TorchPredictor:
    image = {"size": 48, "dtype": dtype, "fit": "pad"}
    fitted = Fitted("levels", {}, "t", ("a", "b"), "radiograph", (), image, {}, [], {}, {}, {})
    return TorchPredictor(recipe, fitted)


def grey(dtype: type, share: float) -> np.ndarray:
    return np.full((60, 60), round(np.iinfo(dtype).max * share), dtype)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_a_batch_of_mixed_depths_answers_as_each_image_alone(dtype: str) -> None:
    predict = predictor(Levels(), dtype)
    pixels = [grey(np.uint8, 0.6), grey(np.uint16, 0.6), grey(np.uint8, 0.2)]
    together = predict(Images(pixels)).probabilities
    alone = np.concatenate([predict(Images([each])).probabilities for each in pixels])
    np.testing.assert_allclose(together, alone, atol=1e-6)
    np.testing.assert_allclose(together[:, 1], [0.6, 0.6, 0.2], atol=0.003)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("source", [np.uint8, np.uint16])
def test_the_input_is_what_ingest_would_have_stored(dtype: str, source: type) -> None:
    pixels = np.random.default_rng(0).integers(0, np.iinfo(source).max, (90, 70), dtype=source, endpoint=True)
    recipe = Levels()
    predictor(recipe, dtype)(Images([pixels]))
    stored = fit_to_format(pixels, 48, "pad", dtype)[0]
    expected = fit_to_canvas(stored, 32)[0].astype(np.float32) / np.iinfo(dtype).max
    np.testing.assert_array_equal(recipe.seen[0][0, 0].numpy(), expected)


def test_boxes_are_in_pixels_of_the_canvas() -> None:
    found = predictor(Levels(), "uint8")(Images([grey(np.uint8, 0.5)])).boxes["middle"]
    np.testing.assert_allclose(found, [[12, 12, 24, 24]])


class Looks(Levels):
    """Maps of a real backbone, and a box of the family's own."""

    config = TorchConfig.model_validate({"data": {"image_size": 96}})

    def build(self) -> nn.Module:
        torch.manual_seed(0)
        return Backbone("resnet18", 2)


def looking(size: int = 48) -> TorchPredictor:
    recipe = Looks()
    image = {"size": size, "dtype": "uint8", "fit": "pad"}
    return TorchPredictor(
        recipe,
        Fitted("looks", {}, "t", ("a", "b"), "radiograph", (), image, recipe.build().state_dict(), [], {}, {}, {}),
    )


def test_an_explanation_has_maps_and_boxes_of_the_canvas() -> None:
    rng = np.random.default_rng(0)
    pixels = [rng.integers(0, 255, shape, np.uint8) for shape in ((60, 60), (90, 40), (30, 80))]
    found = looking().explain(Images(pixels), ["saliency", "grad_cam"])
    assert found.target.tolist() == found.prediction.probabilities.argmax(axis=1).tolist()
    assert {name: maps.shape for name, maps in found.maps.items()} == dict.fromkeys(
        ("saliency", "grad_cam"), (3, 48, 48)
    )
    np.testing.assert_allclose(found.boxes["middle"], [[4, 4, 8, 8]] * 3)
    np.testing.assert_array_equal(found.boxes["saliency"], to_boxes(found.maps["saliency"]))
    # each alone as together, whatever its shape
    alone = looking().explain(Images(pixels[1:2]), ["saliency"], np.array([found.target[1]]))
    np.testing.assert_allclose(alone.maps["saliency"][0], found.maps["saliency"][1], atol=1e-4)


def test_without_methods_an_explanation_is_what_the_family_says_itself() -> None:
    said = predictor(Levels(), "uint8")
    images = Images([grey(np.uint8, 0.2)])
    found = said.explain(images, [], prediction=said(images))
    assert not found.maps
    assert list(found.boxes) == ["middle"]


def test_a_network_without_a_part_for_whole_images_is_refused() -> None:
    with pytest.raises(UserError, match="Identity cannot be explained by maps"):
        predictor(Levels(), "uint8").explain(Images([grey(np.uint8, 0.2)]), ["saliency"])
