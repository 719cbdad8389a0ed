"""Zoom: what a look sees, that it ends at the response, what both losses move, and what is refused before work."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from small_run import run, small_job, untrained_bundle
from torch import Tensor
from torch.nn import functional as F

from mskray.bundles import Fitted, load_bundle, read_description, save_bundle
from mskray.cohorts import Cohort, Task
from mskray.errors import UserError
from mskray.explain import guided_backprop
from mskray.families import Images, family, load_predictor
from mskray.families.classifier import ClassifierConfig, ClassifierRecipe, NetworkSection
from mskray.families.zoom import LookingConfig, ZoomConfig, ZoomRecipe
from mskray.models.backbones import Backbone
from mskray.models.sampling import shrink
from mskray.models.zoom import crop
from mskray.storage import locate
from mskray.training.config import DataSection
from mskray.training.run import Resources, Run

TASK = Task(name="abnormality", classes=("normal", "abnormal"))


def config(size: int = 64, **zoom: object) -> ZoomConfig:
    return ZoomConfig.model_validate({"data": {"image_size": size}, "zoom": {"bundle": "given", **zoom}})


def recipe(small: int = 32, size: int = 64, **zoom: object) -> ZoomRecipe:
    network = NetworkSection(backbone="resnet18", weights="none")
    return ZoomRecipe(LookingConfig(**dict(config(size, **zoom)), network=network, input_size=small), 2)


class Brightest(Backbone):
    """Sees nothing but what is far brighter than the rest of its image: class 1 is the sum of that."""

    def __init__(self) -> None:
        super().__init__("resnet18", 2)

    def forward(self, images: Tensor) -> Tensor:
        std, mean = torch.std_mean(images.detach(), dim=(1, 2, 3), keepdim=True)
        bright = (images - mean - 2 * std).clamp(min=0).square().sum(dim=(1, 2, 3))
        return torch.stack([torch.zeros_like(bright), bright], dim=1)


def spots(side: int, places: list[tuple[int, int]]) -> Tensor:
    """Dim images with one bright, rough spot of 6 px each, its middle at (x, y)."""
    torch.manual_seed(0)
    images = 0.3 * torch.rand(len(places), 1, side, side)
    for image, (x, y) in zip(images, places, strict=True):
        image[0, y - 3 : y + 3, x - 3 : x + 3] = 0.7 + 0.3 * torch.rand(6, 6)
    return images


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("passes", [1, 3])
def test_it_looks_again_where_the_response_is(passes: int, normalise: bool) -> None:
    places = [(20, 30), (100, 40), (64, 64), (122, 122)]
    images = spots(128, places)
    made = recipe(64, 128, passes=passes, normalise=normalise, neighbourhood=5)
    with torch.inference_mode():
        answer = made.answer(Brightest().eval(), {"image": images})
    x, y, w, h = answer.boxes["zoom"].T
    assert torch.equal(w, torch.full((4,), 64.0)), "a small region is extended to the input size"
    assert torch.equal(h, w)
    for number, (column, row) in enumerate(places):
        assert x[number] <= column - 3
        assert column + 3 <= x[number] + 64
        assert y[number] <= row - 3
        assert row + 3 <= y[number] + 64
        assert 0 <= x[number] <= 64
        assert 0 <= y[number] <= 64
    assert list(answer.parts) == ["first look", "second look", "third look", "fourth look"][: passes + 1]
    # The spot fills more of the crop than of the whole image, so that class 1 is surer there.
    assert (answer.parts["second look"][:, 1] > answer.parts["first look"][:, 1]).all()


def test_each_image_is_zoomed_by_itself_and_looks_are_fused_as_said() -> None:
    torch.manual_seed(0)
    network, images = Backbone("resnet18", 2).eval(), spots(64, [(10, 50), (40, 20), (32, 32)])
    with torch.inference_mode():
        together = recipe(passes=2).answer(network, {"image": images})
        alone = [recipe(passes=2).answer(network, {"image": image.unsqueeze(0)}) for image in images]
        mean = recipe(passes=2, answer="mean").answer(network, {"image": images})
    assert torch.equal(together.boxes["zoom"], torch.cat([each.boxes["zoom"] for each in alone]))
    assert torch.allclose(together.probabilities, torch.cat([each.probabilities for each in alone]), atol=1e-5)
    assert torch.equal(together.probabilities, together.parts["third look"])
    assert torch.allclose(mean.probabilities, torch.stack(list(mean.parts.values())).mean(dim=0))


def test_both_losses_move_the_network_and_looking_does_not() -> None:
    torch.manual_seed(0)
    made = recipe()
    network = made.build().train()
    batch = {"image": spots(64, [(10, 50), (40, 20), (32, 32), (50, 50)]), "label": torch.tensor([0, 1, 0, 1])}
    modes: list[bool] = []
    network.network.bn1.register_forward_pre_hook(lambda module, inputs: modes.append(module.training))
    made.loss(network, batch, None).backward()
    assert modes.count(True) == 1, "both losses come of one pass, the response of others in evaluation mode"
    assert network.network.bn1.num_batches_tracked == 1
    assert all(parameter.grad.abs().sum() > 0 for parameter in network.parameters())
    # In evaluation mode no image depends on another, so that the sum can be checked.
    network.eval().zero_grad()
    loss = made.loss(network, batch, torch.tensor([1.0, 3.0]))
    _, box = made.zoom(network, batch["image"])
    parts = [network(shrink(batch["image"], 32)), network(crop(batch["image"], box, 32))]
    expected = sum(F.cross_entropy(each, batch["label"], weight=torch.tensor([1.0, 3.0])) for each in parts)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_explanations_look_at_what_the_first_look_sees() -> None:
    torch.manual_seed(0)
    made = recipe(small=32, size=80)
    network, images = made.build().eval(), spots(80, [(10, 50), (40, 20)])
    with torch.inference_mode():
        first = made.answer(network, {"image": images}).parts["first look"]
        explained = made.explained(network)
        torch.testing.assert_close(explained(images).softmax(dim=1), first)
        assert explained.maps(images).shape[2:] == (1, 1)
    assert guided_backprop(explained, images, None).shape == (2, 80, 80)


@pytest.fixture
def bundle(tmp_path: Path) -> str:
    """An untrained classifier of 32 px."""
    settings = ClassifierConfig.model_validate(
        {"network": {"backbone": "resnet18", "weights": "none"}, "data": {"image_size": 32, "intensity": "rescaled"}}
    )
    image = {"size": 96, "dtype": "uint8", "fit": "pad"}
    fitted = Fitted(
        family="classifier",
        config=settings.model_dump(mode="json"),
        task=TASK.name,
        classes=TASK.classes,
        kind="radiograph",
        body_parts=("HAND",),
        image=image,
        state=ClassifierRecipe(settings, 2).initial_state(),
        history=[{"epoch": 1, "val_auroc": 0.6}],
        best={"epoch": 1, "val_auroc": 0.6},
        labels={"normal": 3, "abnormal": 2},
        cohort={"uri": "cohorts/hands", "content_hash": "0" * 64},
    )
    save_bundle(fitted, locate(tmp_path / "classifier"), "made by hand")
    return str(tmp_path / "classifier")


@pytest.fixture
def cohort(tiny_cohort: Callable[..., Cohort]) -> Callable[..., Cohort]:
    """A maker of a cohort with a canvas of its own."""
    made = tiny_cohort((TASK,), [{TASK.name: 0}])

    def canvas(size: int = 96, fit: str = "pad") -> Cohort:
        image = made.image.model_copy(update={"size": size, "fit": fit})
        return Cohort(made.location, made.manifest.model_copy(update={"image": image}))

    return canvas


def test_any_classifier_bundle_zooms_as_it_is(cohort: Callable[..., Cohort], bundle: str, tmp_path: Path) -> None:
    zoom, place = family("zoom"), locate(tmp_path / "zoom")
    settings = config(96, bundle=bundle).model_copy(update={"data": DataSection(image_size=96, intensity="rescaled")})
    zoom.check(cohort(), settings, TASK)
    fitted = zoom.fit(cohort(), settings, Run(place.join("run"), "r", TASK, Resources()))
    saved = save_bundle(fitted, place, "a job")
    shutil.rmtree(bundle)
    assert "it learned nothing of its own" in (tmp_path / "zoom" / "card.md").read_text()
    assert saved.labels == {"normal": 3, "abnormal": 2}
    read, predict = load_predictor(place)
    assert read.hash == saved.hash
    pixels = np.random.default_rng(0).integers(0, 255, (3, 120, 90), dtype=np.uint8)
    found = predict(Images(list(pixels)))
    np.testing.assert_array_equal(found.probabilities, found.parts["second look"])
    x, y, w, h = found.boxes["zoom"].T
    assert (np.minimum(x, y) >= 0).all()
    assert (np.maximum(x + w, y + h) <= 96).all()
    assert (np.minimum(w, h) >= 32).all()


def test_the_first_look_is_the_classifier_s_own_prediction(
    cohort: Callable[..., Cohort], bundle: str, tmp_path: Path
) -> None:
    settings = config(96, bundle=bundle).model_copy(update={"data": DataSection(image_size=96, intensity="rescaled")})
    place = locate(tmp_path / "zoom")
    fitted = family("zoom").fit(cohort(), settings, Run(place.join("run"), "r", TASK, Resources()))
    save_bundle(fitted, place, "a job")
    images = Images(list(np.random.default_rng(0).integers(0, 255, (3, 96, 96), dtype=np.uint8)))
    first = load_predictor(place)[1](images).parts["first look"]
    # One shrinks 8-bit pixels and rounds, the other does not.
    np.testing.assert_allclose(first, load_predictor(bundle)[1](images).probabilities, atol=2e-3)


@pytest.mark.parametrize(
    ("size", "intensity", "canvas", "message"),
    [
        (128, "rescaled", {}, "data.image_size = 128: .* holds 96 px, nothing finer for zoom"),
        (32, "rescaled", {}, "sees 32 px, a crop would show it nothing finer"),
        (96, "stored", {}, "was trained on rescaled images: set data.intensity=rescaled"),
        (96, "rescaled", {"fit": "stretch"}, "fitted by pad, .* ingested by stretch"),
    ],
)
def test_what_cannot_zoom_is_refused(
    cohort: Callable[..., Cohort], bundle: str, size: int, intensity: str, canvas: dict, message: str
) -> None:
    data = DataSection(image_size=size, intensity=intensity)
    with pytest.raises(UserError, match=message) as caught:
        family("zoom").check(cohort(**canvas), config(bundle=bundle).model_copy(update={"data": data}), TASK)
    assert "\n" not in str(caught.value)


def test_other_bundles_tasks_and_sizes_are_refused(cohort: Callable[..., Cohort], bundle: str, tmp_path: Path) -> None:
    zoom, settings = family("zoom"), config(bundle=bundle)
    grade = Task(name="grade", classes=("0", "1", "2"))
    with pytest.raises(UserError, match="tells normal, abnormal apart, task grade has 0, 1, 2"):
        zoom.check(cohort(), settings, grade)
    save_bundle(replace(load_bundle(bundle)[1], kind="photo"), locate(tmp_path / "photos"), "another")
    with pytest.raises(UserError, match=r"zoom.bundle .* reads photos, cohort .* holds radiographs"):
        zoom.check(cohort(), config(bundle=str(tmp_path / "photos")), TASK)
    other = replace(load_bundle(bundle)[1], family="kalm")
    save_bundle(other, locate(tmp_path / "kalm"), "another")
    with pytest.raises(UserError, match="is of family kalm: give a classifier's"):
        zoom.check(cohort(), config(bundle=str(tmp_path / "kalm")), TASK)
    with pytest.raises(UserError, match=r"bundle\.json does not exist"):
        zoom.depends_on(config(bundle=str(tmp_path / "none")))
    with pytest.raises(ValidationError, match="give an odd number"):
        config(neighbourhood=4)


def test_another_bundle_is_another_job(bundle: str, tmp_path: Path) -> None:
    zoom, first = family("zoom"), load_bundle(bundle)[1]
    changed = {name: value + 1 if value.is_floating_point() else value for name, value in first.state.items()}
    save_bundle(replace(first, state=changed), locate(tmp_path / "other"), "another")
    hashes = [zoom.depends_on(config(bundle=uri)) for uri in (bundle, str(tmp_path / "other"))]
    assert hashes[0] != hashes[1]


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_bundle_zooms_as_it_is_and_learns_from_its_response(phantom_cohort, tmp_path: Path) -> None:
    """From classifier to zoom through the shared loop: 32 px, and 64 px to zoom into."""
    first = read_description(untrained_bundle(tmp_path / "first", "mobilenet_v3_small", image_size=32, size=64))
    job = small_job(phantom_cohort, locate(tmp_path / "zoom"), family="zoom")
    del job["network"]
    job["zoom"] = {"bundle": str(tmp_path / "first"), "passes": 2}
    zoom = run(job)
    assert zoom.files == first.files, "the weights are the classifier's"
    assert run(job) == zoom
    learning = {"bundle": str(tmp_path / "first"), "learns": "response"}
    trained = run({**job, "out": str(tmp_path / "response"), "zoom": learning})
    assert [entry["epoch"] for entry in trained.history] == [1, 2]
    assert trained.files != first.files
    pixels = list(np.random.default_rng(0).integers(0, 255, (3, 64, 64), dtype=np.uint8))
    for name, looks in (("zoom", 3), ("response", 2)):
        found = load_predictor(str(tmp_path / name))[1](Images(pixels))
        assert len(found.parts) == looks
        assert found.boxes["zoom"].shape == (3, 4)
        np.testing.assert_allclose(found.probabilities.sum(axis=1), 1, atol=1e-5)
