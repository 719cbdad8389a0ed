"""Where KALM and RA-CNN look: nearer to what tells the classes apart than the image's middle is.

On noise with a bright block, which a network learns in a few steps; what it does for real lesions is measured by
tests/benchmarks/small_lesions.py.
"""

from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mskray.families.kalm import KalmConfig, LocalRecipe
from mskray.families.racnn import RacnnConfig, RacnnRecipe
from mskray.models.backbones import Backbone

pytestmark = pytest.mark.slow
SIDE, BLOCK = 128, 24


class Blocks(NamedTuple):
    """Images (n, 1, 128, 128), whether each shows a block (n,), and the block's centre (n, 2) x, y in px."""

    images: Tensor
    labels: Tensor
    centres: np.ndarray


def blocks(count: int, seed: int) -> Blocks:
    random = np.random.default_rng(seed)
    images = random.uniform(0.1, 0.3, (count, 1, SIDE, SIDE)).astype(np.float32)
    corners = random.integers(2, SIDE - BLOCK - 2, (count, 2))
    labels = np.arange(count) % 2
    for image, (x, y), label in zip(images, corners.tolist(), labels, strict=True):
        if label:
            image[0, y : y + BLOCK, x : x + BLOCK] = 0.9
    return Blocks(torch.from_numpy(images), torch.from_numpy(labels), corners + BLOCK / 2)


@pytest.fixture(scope="module")
def knowing() -> Backbone:
    """A network that tells images with a block from those without."""
    torch.manual_seed(0)
    seen, network = blocks(160, 0), Backbone("resnet18", 2, pooled=True)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    for _ in range(20):
        rows = torch.randperm(160)[:16]
        loss = F.cross_entropy(network(seen.images[rows]), seen.labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval()


@pytest.fixture(scope="module")
def shown(knowing: Backbone) -> Blocks:
    """Unseen images with a block."""
    fresh = blocks(80, 1)
    with torch.inference_mode():
        assert (knowing(fresh.images).argmax(dim=1) == fresh.labels).float().mean() > 0.9
    return Blocks(fresh.images[1::2], fresh.labels[1::2], fresh.centres[1::2])


def nearer(boxes: Tensor, centres: np.ndarray) -> float:
    """Return how much nearer the boxes (n, 4) are to the blocks than the middle is, as a share of that distance."""
    found = boxes[:, :2].numpy() + boxes[:, 2:].numpy() / 2
    distance = np.linalg.norm(found - centres, axis=1).mean()
    return float(1 - distance / np.linalg.norm(SIDE / 2 - centres, axis=1).mean())


def test_kalm_s_key_area_lies_at_the_block(knowing: Backbone, shown: Blocks) -> None:
    """Where it lies is not learned: the map of a global network that knows blocks points there."""
    network = {"backbone": "resnet18", "weights": "none", "size": SIDE, "centred": True}
    config = KalmConfig.model_validate({"network": network, "data": {"image_size": SIDE}})
    recipe = LocalRecipe(config.stage("local"), 2)
    kalm = recipe.build().eval()
    kalm.cnn_g.load_state_dict(knowing.state_dict())
    with torch.inference_mode():
        boxes = recipe.answer(kalm, {"image": shown.images}).boxes["key_area"]
    assert nearer(boxes, shown.centres) > 0.25


@pytest.mark.long
def test_racnn_s_proposals_learn_to_lie_at_the_block(knowing: Backbone, shown: Blocks) -> None:
    """Of networks that know blocks; in the first phase the proposals alone learn."""
    torch.manual_seed(0)
    network = {"backbone": "resnet18", "weights": "none", "crop": SIDE, "zoom": 64, "hidden": 128}
    recipe = RacnnRecipe(RacnnConfig.model_validate({"network": network, "data": {"image_size": SIDE}}), 2)
    racnn = recipe.build()
    for scale in racnn.scales:
        scale.load_state_dict(knowing.state_dict())
    recipe.set_training(racnn, 0)
    optimizer = torch.optim.Adam(racnn.proposals.parameters(), 1e-3)
    seen = blocks(256, 2).images

    def reached() -> float:
        with torch.inference_mode():
            return nearer(recipe.answer(racnn, {"image": shown.images}).boxes["scale 2"], shown.centres)

    before = reached()
    for rows in torch.randperm(len(seen)).split(16):
        optimizer.zero_grad()
        recipe.loss(racnn, {"image": seen[rows]}, None).backward()
        optimizer.step()
    assert reached() > max(0.1, before)
