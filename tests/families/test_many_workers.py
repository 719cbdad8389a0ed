"""Every torch family's losses under DistributedDataParallel, which ends a run where a step leaves a weight unused."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from mskray.families.classifier import ClassifierConfig, ClassifierRecipe
from mskray.families.flag_detector import FlagDetectorConfig, FlagDetectorRecipe
from mskray.families.flag_removal import KINDS
from mskray.families.kalm import GlobalRecipe, KalmConfig, LocalRecipe
from mskray.families.racnn import RacnnConfig, RacnnRecipe
from mskray.families.view_fusion import ViewFusionConfig, ViewFusionRecipe
from mskray.families.zoom import LookingConfig, ZoomRecipe
from mskray.imaging.inputs import InputFormat
from mskray.training.box_samples import BoxSamples
from mskray.training.recipe import Recipe, to_batch

SIDE = 128
NETWORK = {"backbone": "mobilenet_v3_small", "weights": "none"}
DATA = {"data": {"image_size": SIDE, "batch_size": 4}}


@pytest.fixture(scope="module")
def process_group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A group of this process alone: the reducer keeps its books as it does among many."""
    dist.init_process_group("gloo", f"file://{tmp_path_factory.mktemp('gloo') / 'store'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def classifier(**network: object) -> Recipe:
    return ClassifierRecipe(ClassifierConfig.model_validate({"network": {**NETWORK, **network}}), 2)


def kalm(kind: type[GlobalRecipe] | type[LocalRecipe], stage: str) -> Recipe:
    return kind(KalmConfig.model_validate({"network": {**NETWORK, "size": 64}, **DATA}).stage(stage), 2)


def zoom() -> Recipe:
    section = {"bundle": "given", "learns": "response"}
    return ZoomRecipe(LookingConfig.model_validate({"zoom": section, "network": NETWORK, "input_size": 64, **DATA}), 2)


def racnn() -> Recipe:
    network = {**NETWORK, "crop": 64, "zoom": 64, "pretraining": 1}
    return RacnnRecipe(RacnnConfig.model_validate({"network": network, **DATA}), 2)


def view_fusion(fusion: str) -> Recipe:
    network = {**NETWORK, "views": 2, "pooling": "attention", "fusion": fusion}
    return ViewFusionRecipe(ViewFusionConfig.model_validate({"network": network, **DATA}), 2)


def flag_detector(method: str) -> Recipe:
    network = {**NETWORK, "channels": 32, "anchor": 12, "proposals": 20, "regions": 8, "method": method}
    return FlagDetectorRecipe(FlagDetectorConfig.model_validate({"network": network, **DATA}))


RECIPES: dict[str, Callable[[], Recipe]] = {
    "classifier": classifier,
    "classifier, frozen": lambda: classifier(backbone="resnet18", freeze=["stem", "layer1"]),
    "kalm, global": lambda: kalm(GlobalRecipe, "global"),
    "kalm, local": lambda: kalm(LocalRecipe, "local"),
    "zoom": zoom,
    "racnn": racnn,
    "view_fusion, early": lambda: view_fusion("early"),
    "view_fusion, late": lambda: view_fusion("late"),
    "flag_detector, faster_rcnn": lambda: flag_detector("faster_rcnn"),
    "flag_detector, mask_rcnn": lambda: flag_detector("mask_rcnn"),
}


def batch_of(name: str) -> dict[str, torch.Tensor]:
    images = np.random.default_rng(0).integers(0, 255, (4, SIDE, SIDE), dtype=np.uint8)
    arrays: dict[str, np.ndarray] = {"image": images, "label": np.array([0, 1, 1, 0])}
    if name.startswith("view_fusion"):
        arrays |= {"image": np.stack([images, images], axis=1), "views": np.full(4, 2)}
    elif name.startswith("flag_detector"):
        findings = np.empty(4, object)
        findings[:] = [[{"kind": "flag", "x": 20, "y": 24, "w": 12, "h": 12}] for _ in images]
        samples = BoxSamples(KINDS, name.endswith("mask_rcnn"))
        arrays = samples.load({"image": images, "findings": findings}, InputFormat(SIDE))
    return to_batch(arrays, torch.device("cpu"))


@pytest.mark.parametrize("name", RECIPES)
def test_no_step_leaves_a_weight_unused(name: str, process_group: None) -> None:
    recipe, batch = RECIPES[name](), batch_of(name)
    torch.manual_seed(0)
    network = recipe.build()
    model = DistributedDataParallel(network, find_unused_parameters=recipe.alternates)
    learns, moved = set(), set()
    for epoch in range(3):
        recipe.set_training(network, epoch)
        learns |= {key for key, each in network.named_parameters() if each.requires_grad}
        for _ in range(2):  # the second step is what fails where the first left a weight without a gradient
            network.zero_grad()
            recipe.loss(model, recipe.augment(dict(batch)), None).backward()
            moved |= {key for key, each in network.named_parameters() if each.grad is not None and each.grad.any()}
    assert moved == learns
