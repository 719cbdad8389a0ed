"""Zoom on phantoms: its box holds more of the implant than a box of its size in the middle or anywhere."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mskray.families.zoom import LookingConfig, ZoomRecipe
from mskray.imaging.phantoms import PhantomSpec, render, studies
from mskray.imaging.regions import fit_to_canvas
from mskray.models.backbones import Backbone
from mskray.models.sampling import shrink
from mskray.training.augmentation import augment
from mskray.training.config import AugmentSection

pytestmark = [pytest.mark.long, pytest.mark.slow, pytest.mark.timeout(600)]
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


def test_the_box_holds_more_of_the_implant_than_boxes_of_its_size_elsewhere() -> None:
    network = classifier(*implants(500, 1)[:2])
    images, labels, truth = implants(200, 2)
    abnormal = labels == 1
    images, truth = images[abnormal], truth[abnormal.numpy()]
    config = LookingConfig.model_validate(
        {
            "data": {"image_size": CANVAS},
            "zoom": {"bundle": "the one above"},
            "network": {"backbone": "resnet18"},
            "input_size": INPUT,
        }
    )
    with torch.inference_mode():
        answer = ZoomRecipe(config, 2).answer(network, {"image": images})
    assert float((answer.parts["first look"][:, 1] > 0.5).float().mean()) > 0.7, "the classifier has learned nothing"
    boxes = answer.boxes["zoom"].numpy()
    lengths, random = boxes[:, 2:], np.random.default_rng(0)
    middle = np.concatenate([(CANVAS - lengths) / 2, lengths], axis=1)
    anywhere = np.concatenate([random.random(lengths.shape) * (CANVAS - lengths), lengths], axis=1)
    found, centred, by_chance = (held(each, truth) for each in (boxes, middle, anywhere))
    print(f"{len(truth)} implants, boxes of {lengths.mean():.0f} px: {found:.2f}, {centred:.2f}, {by_chance:.2f}")
    assert lengths.mean() < 0.75 * CANVAS
    assert found > centred + 0.08
    assert found > by_chance + 0.15
