"""Looking closer on phantoms: the boxes of zoom, KALM and RA-CNN hold more of the implant than one in the middle."""

from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mskray.families.kalm import KalmConfig, LocalRecipe
from mskray.families.racnn import RacnnConfig, RacnnRecipe
from mskray.families.zoom import LookingConfig, ZoomRecipe
from mskray.imaging.phantoms import PhantomSpec, render, studies
from mskray.imaging.regions import fit_to_canvas
from mskray.models.backbones import Backbone
from mskray.models.sampling import shrink
from mskray.training.augmentation import augment
from mskray.training.config import AugmentSection

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
CANVAS, INPUT = 128, 64


def implants(patients: int, seed: int) -> tuple[Tensor, Tensor, np.ndarray]:
    """First views: images (n, 1, 128, 128), labels, and the first implant's box in each (zeros where there is none)."""
    parts = ("FOREARM", "WRIST", "HUMERUS", "ELBOW")
    spec = PhantomSpec(patients, seed, CANVAS, kinds=("implant",), flag_fraction=0, parts=parts)
    images, labels, boxes = [], [], []
    for study in studies(spec):
        image = render(spec, study.index, 0)
        canvas, placed = fit_to_canvas(image.pixels, CANVAS)
        images.append(canvas)
        labels.append(int(bool(image.findings)))
        boxes.append(placed.to_canvas(image.findings[0].box) if image.findings else (0, 0, 0, 0))
    return torch.from_numpy(np.stack(images)).unsqueeze(1).float() / 255, torch.tensor(labels), np.array(boxes)


def classifier(images: Tensor, labels: Tensor, epochs: int = 6) -> Backbone:
    torch.manual_seed(0)
    network = Backbone("resnet18", 2).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    steps = len(images) // 32
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=epochs * steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(images))[: steps * 32].split(32):
            seen = shrink(augment(images[rows], AugmentSection()), INPUT)
            loss = F.cross_entropy(network(seen), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval()


def held(boxes: np.ndarray, truth: np.ndarray) -> float:
    """Return the share of the true boxes' area that the boxes hold, mean over images."""
    low = np.maximum(boxes[:, :2], truth[:, :2])
    high = np.minimum(boxes[:, :2] + boxes[:, 2:], truth[:, :2] + truth[:, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=1)
    return float((shared / truth[:, 2:].prod(axis=1)).mean())


class Looked(NamedTuple):
    """A classifier, what it learned from, and images (n, 1, 128, 128) that show an implant, with its boxes (n, 4)."""

    network: Backbone
    seen: Tensor
    images: Tensor
    truth: np.ndarray


@pytest.fixture(scope="module")
def looked() -> Looked:
    seen, labels, _ = implants(500, 1)
    network = classifier(seen, labels)
    images, labels, truth = implants(200, 2)
    abnormal = labels == 1
    images, truth = images[abnormal], truth[abnormal.numpy()]
    with torch.inference_mode():
        found = network(shrink(images, INPUT)).argmax(dim=1).float().mean()
    assert float(found) > 0.7, "the classifier has learned nothing"
    return Looked(network, seen, images, truth)


def shares(boxes: np.ndarray, truth: np.ndarray) -> tuple[float, float, float]:
    """Return which share of the implant the boxes hold, and boxes of their sizes in the middle and anywhere."""
    lengths, random = boxes[:, 2:], np.random.default_rng(0)
    middle = np.concatenate([(CANVAS - lengths) / 2, lengths], axis=1)
    anywhere = np.concatenate([random.random(lengths.shape) * (CANVAS - lengths), lengths], axis=1)
    found, centred, by_chance = (held(each, truth) for each in (boxes, middle, anywhere))
    print(f"{len(truth)} implants, boxes of {lengths.mean():.0f} px: {found:.2f}, {centred:.2f}, {by_chance:.2f}")
    return found, centred, by_chance


def test_zoom_finds_the_implant(looked: Looked) -> None:
    config = LookingConfig.model_validate(
        {
            "data": {"image_size": CANVAS},
            "zoom": {"bundle": "the one above"},
            "network": {"backbone": "resnet18"},
            "input_size": INPUT,
        }
    )
    with torch.inference_mode():
        answer = ZoomRecipe(config, 2).answer(looked.network, {"image": looked.images})
    boxes = answer.boxes["zoom"].numpy()
    assert boxes[:, 2:].mean() < 0.75 * CANVAS
    found, centred, by_chance = shares(boxes, looked.truth)
    assert found > centred + 0.08
    assert found > by_chance + 0.15


def test_kalm_points_at_the_implant(looked: Looked) -> None:
    """Where its box lies is not learned: the map of a global network that knows implants points there."""
    network = {"backbone": "resnet18", "weights": "none", "size": CANVAS, "centred": True}
    config = KalmConfig.model_validate({"network": network, "data": {"image_size": CANVAS}})
    recipe = LocalRecipe(config.stage("local"), 2)
    kalm = recipe.build().eval()
    kalm.cnn_g.load_state_dict(looked.network.state_dict())
    with torch.inference_mode():
        boxes = recipe.answer(kalm, {"image": looked.images}).boxes["key_area"].numpy()
    found, centred, by_chance = shares(boxes, looked.truth)
    assert found > centred + 0.08
    assert found > by_chance + 0.08


def test_racnn_s_proposals_learn_where_the_implant_is(looked: Looked) -> None:
    """Of networks that know implants; in the first phase the proposals alone learn."""
    torch.manual_seed(0)
    network = {"backbone": "resnet18", "weights": "none", "crop": CANVAS, "zoom": INPUT, "hidden": 256}
    recipe = RacnnRecipe(RacnnConfig.model_validate({"network": network, "data": {"image_size": CANVAS}}), 2)
    racnn = recipe.build()
    for scale in racnn.scales:
        scale.load_state_dict(looked.network.state_dict())
    recipe.set_training(racnn, 0)
    optimizer = torch.optim.Adam(racnn.proposals.parameters(), 1e-3)
    for rows in torch.randperm(len(looked.seen))[: 40 * 16].split(16):
        optimizer.zero_grad()
        recipe.loss(racnn, {"image": looked.seen[rows]}, None).backward()
        optimizer.step()
    with torch.inference_mode():
        boxes = recipe.answer(racnn.eval(), {"image": looked.images}).boxes["scale 2"].numpy()
    found, centred, by_chance = shares(boxes, looked.truth)
    assert found > centred
    assert found > by_chance + 0.08
