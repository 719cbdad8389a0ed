"""Hotspots of networks whose gradient is known, and the pointing game on small volumes."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mskray.errors import UserError
from mskray.explain.gates import guided_gates
from mskray.explain.hotspots import ONE, Copies, blurred, hotspots, task_hotspots
from mskray.explain.localisation import mask_hits, volume_peaks, zhang_margin
from mskray.models.vgg_m import SpineNet
from mskray.training.disc_views import DiscAugment

SHAPE = (3, 8, 12)
STILL = DiscAugment(rotation=0, shift_x=0, shift_y=0, shift_slices=0, slice_flip=0, scale=0, brightness=0)


def copies(number: int, **change: float) -> Copies:
    """Copies that differ by nothing but this; a shift is in px of 224 columns."""
    return Copies(number, STILL.model_copy(update=change), seed=1)


class Weighted:
    """Scores of the task "grade" that are sums of voxels times weights: the gradient is the weights."""

    def __init__(self, *weights: Tensor) -> None:
        self.weights = torch.stack(weights)

    def __call__(self, volumes: Tensor) -> dict[str, Tensor]:
        return {"grade": torch.einsum("nzrc,kzrc->nk", volumes, self.weights), "other": volumes.sum((1, 2, 3))[:, None]}


class Anchored:
    """A score that looks at whatever is bright, wherever it is: Σ x³ / 3, whose gradient is x²."""

    def __call__(self, volumes: Tensor) -> dict[str, Tensor]:
        return {"grade": (volumes**3 / 3).flatten(1).sum(dim=1, keepdim=True)}


def weights(seed: int = 0) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def test_one_copy_is_the_absolute_gradient_of_the_score() -> None:
    first, second = weights(1), weights(2)
    network, images = Weighted(first, second), torch.rand(2, *SHAPE)
    maps = hotspots(network, images, "grade", torch.tensor([0, 1]), copies=ONE)
    torch.testing.assert_close(maps, torch.stack([first, second]).abs())


def test_the_predicted_class_of_each_volume_is_explained_by_default() -> None:
    up, down = torch.ones(SHAPE), -2 * torch.ones(SHAPE)
    maps = hotspots(Weighted(down, up), torch.rand(3, *SHAPE), "grade", copies=ONE)
    torch.testing.assert_close(maps, torch.ones(3, *SHAPE))  # class 1 has the larger score: slope 1, not 2


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"shift_x": 32.0, "shift_y": 20.0}, id="shifted"),
        pytest.param({"shift_slices": 1}, id="other slices"),
        pytest.param({"slice_flip": 0.5}, id="slices reversed"),
        pytest.param({"rotation": 15.0}, id="turned"),
        pytest.param({"scale": 0.2}, id="scaled"),
        pytest.param({"flip": 0.5}, id="mirrored"),
        pytest.param(
            {"rotation": 15.0, "shift_x": 20.0, "shift_slices": 1, "scale": 0.1, "slice_flip": 0.5, "flip": 0.5},
            id="all",
        ),
    ],
)
def test_copies_are_mapped_back_to_where_they_come_from(change: dict[str, float]) -> None:
    # A bright block off the centre in slice 0 of 3: what a copy sees elsewhere must come back to it.
    canvas = torch.zeros(1, 5, 24, 32)
    canvas[0, 1, 13:15, 19:21] = 1.0  # in the middle 3 × 16 × 24: slice 0, rows 9 and 10, columns 15 and 16
    shape = (3, 16, 24)
    maps = hotspots(Anchored(), canvas, "grade", torch.tensor([0]), shape=shape, copies=copies(12, **change))
    mass = maps[0] / maps[0].sum()
    slices, rows, columns = (torch.arange(side) + 0.5 for side in shape)
    centre = [(mass.sum((1, 2)) * slices).sum(), (mass.sum((0, 2)) * rows).sum(), (mass.sum((0, 1)) * columns).sum()]
    assert [float(each) for each in centre] == pytest.approx([0.5, 10.0, 16.0], abs=0.05)


def test_a_mean_is_over_the_copies_that_show_a_voxel() -> None:
    # The slope is 1 at every voxel of every copy, so the mean is 1 wherever a copy looked, and not less at the edge
    # which shifted copies do not show.
    moved = copies(20, shift_x=112.0, shift_y=75.0, rotation=10.0, shift_slices=1)
    maps = hotspots(Weighted(torch.ones(SHAPE)), torch.rand(1, 5, 16, 24), "grade", shape=SHAPE, copies=moved)
    torch.testing.assert_close(maps, torch.ones(1, *SHAPE), atol=1e-4, rtol=0)


def test_the_middle_of_the_canvas_is_the_input_as_it_is() -> None:
    # Where canvas and input differ by an odd number, as `StackInput.middle` has it: 1 of 5 and 6, before the middle.
    canvas = torch.rand(2, 5, 13, 18)
    seen = []

    def network(volumes: Tensor) -> dict[str, Tensor]:
        seen.append(volumes.detach())
        return Anchored()(volumes)

    maps = hotspots(network, canvas, "grade", torch.tensor([0, 0]), shape=SHAPE, copies=ONE)
    torch.testing.assert_close(seen[0], canvas[:, 1:4, 2:10, 3:15])
    torch.testing.assert_close(maps, canvas[:, 1:4, 2:10, 3:15] ** 2)


@pytest.mark.parametrize("batch", [1, 5, 64])
def test_the_batch_size_changes_nothing(batch: int) -> None:
    torch.manual_seed(0)
    network, images = Anchored(), torch.rand(3, 5, 12, 16)
    copies = Copies(7, seed=3)
    expected = hotspots(
        network, images, "grade", torch.zeros(3, dtype=torch.long), shape=SHAPE, copies=copies, batch=21
    )
    found = hotspots(
        network, images, "grade", torch.zeros(3, dtype=torch.long), shape=SHAPE, copies=copies, batch=batch
    )
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("batch", [4, 64])
def test_several_tasks_at_once_have_the_maps_that_each_has_alone(batch: int) -> None:
    torch.manual_seed(0)
    network = SpineNet({"side": 3, "tilt": 2, "other": 4}, 3, 44, 56, width=0.05).eval()
    images, copies = torch.rand(3, 5, 48, 60), Copies(6, seed=2)
    side, shape = torch.tensor([2, 0, 1]), (3, 44, 56)
    found = task_hotspots(network, images, {"side": side, "tilt": None}, shape=shape, copies=copies, batch=batch)
    assert list(found) == ["side", "tilt"]
    for task, target in (("side", side), ("tilt", None)):
        alone = hotspots(network, images, task, target, shape=shape, copies=copies, batch=batch)
        assert float(alone.max()) > 0
        torch.testing.assert_close(found[task], alone, rtol=1e-4, atol=1e-9)


def test_a_branch_that_is_asked_alone_has_the_same_maps() -> None:
    torch.manual_seed(0)
    network = SpineNet({"side": 3, "tilt": 2}, 3, 44, 56, width=0.05).eval()
    images, ran = torch.rand(2, 3, 44, 56), []
    for name, branch in network.branches.items():
        branch.register_forward_hook(lambda *_, name=name: ran.append(name))
    asked = hotspots(partial(network, tasks={"tilt"}), images, "tilt", copies=Copies(3))
    assert {name.rpartition("_")[2] for name in ran} == {"tilt"}
    torch.testing.assert_close(asked, hotspots(network, images, "tilt", copies=Copies(3)))


def test_works_in_inference_mode_and_leaves_the_volumes_alone() -> None:
    with torch.inference_mode():
        images = torch.rand(1, *SHAPE)
        before = images.clone()
        maps = hotspots(Anchored(), images, "grade", torch.tensor([0]), copies=Copies(3))
    assert not maps.requires_grad
    assert torch.equal(images, before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "grad"}, "did you mean grade"),
        ({"shape": (3, 9, 12)}, "at least"),
        ({"copies": Copies(0)}, "at least 1"),
    ],
)
def test_what_cannot_be_explained_is_refused(arguments: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"task": "grade", "target": torch.tensor([0]), **arguments}
    with pytest.raises(UserError, match=message):
        hotspots(Weighted(weights()), torch.rand(1, *SHAPE), **given)


class Gated(nn.Module):
    """One hidden value x₀ − x₁ behind a ReLU, its score minus a second one of x₁: known both ways."""

    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, volumes: Tensor) -> dict[str, Tensor]:
        x = volumes.flatten(1)
        hidden = self.relu(torch.stack([x[:, 0] - 0.5 * x[:, 1], x[:, 1]], dim=1))
        return {"grade": (3 * hidden[:, 0] - 2 * hidden[:, 1])[:, None]}


def test_guided_gates_stop_negative_gradients_and_are_gone_afterwards() -> None:
    network, images = Gated(), torch.tensor([[[[0.8, 0.4]]]])
    plain = hotspots(network, images, "grade", copies=ONE)
    with guided_gates(network):
        guided = hotspots(network, images, "grade", copies=ONE)
    assert plain.flatten().tolist() == pytest.approx([3.0, 3.5])  # 3 and |3 · −0.5 − 2|
    assert guided.flatten().tolist() == pytest.approx([3.0, 1.5])  # the −2 does not pass: |3 · −0.5|
    assert hotspots(network, images, "grade", copies=ONE).flatten().tolist() == pytest.approx([3.0, 3.5])
    with pytest.raises(UserError, match="no ReLU"), guided_gates(nn.Linear(1, 1)):
        pass


def test_blurring_spreads_a_point_within_its_slice() -> None:
    maps = torch.zeros(1, 3, 11, 11)
    maps[0, 1, 5, 5] = 1.0
    found = blurred(maps, 1.0)
    near = torch.exp(torch.tensor(-0.5)) / (1 + 2 * sum(torch.exp(torch.tensor(-(k**2) / 2)) for k in (1, 2, 3))) ** 2
    assert found[0, 1, 5, 6].item() == pytest.approx(near.item())
    assert found[0, [0, 2]].abs().max() == 0
    assert torch.equal(blurred(maps, 0.0), maps)


def test_the_peak_of_a_volume_is_a_voxel() -> None:
    maps = np.zeros((2, 3, 4, 5))
    maps[0, 2, 1, 3] = 1.0
    points = volume_peaks(maps)
    assert points[0].tolist() == [2, 1, 3]
    assert np.isnan(points[1]).all()


@pytest.mark.parametrize(
    ("point", "margin", "any_slice", "hit"),
    [
        ((1, 10, 10), 0.0, False, True),
        ((1, 10, 13), 0.0, False, False),
        ((1, 10, 13), 2.0, False, False),
        ((1, 10, 13), 3.0, False, True),
        ((1, 13, 14), 5.0, False, True),  # 3, 4 → 5
        ((1, 13, 14), 4.9, False, False),
        ((2, 10, 10), 5.0, False, False),  # another slice
        ((2, 10, 10), 0.0, True, True),
        ((np.nan, np.nan, np.nan), 50.0, True, False),
    ],
)
def test_a_hit_is_on_the_mask_or_within_the_margin(
    point: tuple[float, float, float], margin: float, any_slice: bool, hit: bool
) -> None:
    masks = np.zeros((1, 3, 20, 30), bool)
    masks[0, 1, 8:11, 8:11] = True
    assert mask_hits(np.array([point]), masks, margin, any_slice=any_slice).tolist() == [hit]


def test_an_empty_mask_cannot_be_hit_and_zhang_allows_15_of_500_px() -> None:
    assert not mask_hits(np.array([[0.0, 1.0, 1.0]]), np.zeros((1, 1, 3, 3), bool), 9.0).any()
    assert zhang_margin(500) == 15
    assert zhang_margin(224) == pytest.approx(6.72)
