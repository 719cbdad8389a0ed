"""The network of vertebral bodies: shapes, the meaning of a place, the encoder's weights, the loss by hand."""

import math

import pytest
import torch

from mskray.errors import UserError
from mskray.models.vertebrae import BODY, STRIDE, Maps, VertebraNetwork, load_encoder, places
from mskray.training.centre_loss import centre_loss, centre_targets, focal_loss
from mskray.training.spine_samples import BODY as IS_BODY
from mskray.training.spine_samples import NONE, PART
from mskray.training.spine_samples import SACRUM as IS_SACRUM


def block(x: float, y: float, width: float = 32, height: float = 24) -> list[list[float]]:
    """Corners of an upright body around (x, y)."""
    left, right, top, bottom = x - width / 2, x + width / 2, y - height / 2, y + height / 2
    return [[left, top], [right, top], [right, bottom], [left, bottom]]


@pytest.mark.parametrize("backbone", ["mobilenet_v2", "mobilenet_v3_small", "resnet18"])
def test_maps_have_a_quarter_of_the_inputs_sides(backbone: str) -> None:
    torch.manual_seed(0)
    network = VertebraNetwork(backbone, 16).eval()
    with torch.inference_mode():
        maps = network(torch.rand(2, 3, 64, 96))
    assert maps.centres.shape == (2, 2, 16, 24)
    assert maps.corners.shape == (2, 4, 2, 16, 24)
    assert maps.slices.shape == (2, 16, 24)
    assert maps.centres.sigmoid().mean() < 0.3  # untrained, a body is rare


def test_places_are_the_middles_of_squares_of_the_input() -> None:
    at = places(2, 3, torch.device("cpu"))
    assert at[0, 0].tolist() == [2, 2]
    assert at[1, 2].tolist() == [10, 6]
    assert STRIDE == 4


def test_a_classifiers_weights_fill_the_encoder() -> None:
    import torchvision

    given = torchvision.models.get_model("mobilenet_v3_small", weights=None).state_dict()
    given = {name: torch.full_like(value, 0.5) if value.is_floating_point() else value for name, value in given.items()}
    network = VertebraNetwork("mobilenet_v3_small", 8)
    load_encoder(network, given, "somewhere")
    assert all((value == 0.5).all() for value in network.body.parameters())
    with pytest.raises(UserError, match=r"do not fit the network's encoder: .* first body\."):
        load_encoder(VertebraNetwork("resnet18", 8), given, "somewhere")


def test_a_centre_is_a_peak_of_its_kind_and_its_neighbourhood_votes() -> None:
    corners = torch.tensor([[block(30, 34), block(70, 60)]], dtype=torch.float32)
    target = centre_targets(corners, torch.tensor([[IS_BODY, IS_SACRUM]]), 32, 32)
    assert target.centres[0].flatten(1).argmax(dim=1).tolist() == [8 * 32 + 7, 15 * 32 + 17]
    assert (target.centres == 1).sum() == 2
    # Standard deviation of a sixth of 24 px: one place further, 4 px, it is exp(-1/2).
    assert target.centres[0, BODY, 8, 8].item() == pytest.approx(math.exp(-0.5))
    assert target.owner[0, 8, 7] == 0
    assert target.owner[0, 15, 17] == 1
    assert target.votes[0, 8, 7] > 0.8
    assert target.votes[0, 8, 11] == 0


def test_nothing_is_learned_from_above_the_highest_body_and_near_one_in_view_in_part() -> None:
    corners = torch.tensor([[block(64, 40), block(64, 80), block(64, 120)]], dtype=torch.float32)
    target = centre_targets(corners, torch.tensor([[IS_BODY, IS_SACRUM, PART]]), 32, 32)
    assert not target.counted[0, 0, :7].any()  # its upper edge is at 28 px
    assert target.counted[0, 0, 7:25].all()
    assert target.counted[0, 0, 30, 16] == 0
    assert target.counted[0, 0, 30, 2] == 1
    nothing = centre_targets(corners, torch.tensor([[NONE, NONE, NONE]]), 32, 32)
    assert nothing.counted.all()
    assert not nothing.centres.any()
    assert not nothing.votes.any()


def test_the_focal_loss_is_that_of_the_paper() -> None:
    """Equation 1 with α = 2, β = 4 on one centre, one place beside it, one that does not count."""
    logits = torch.logit(torch.tensor([0.8, 0.3, 0.9]))
    loss = focal_loss(logits, torch.tensor([1.0, 0.5, 0.0]), torch.tensor([1.0, 1.0, 0.0]))
    expected = -(0.2**2 * math.log(0.8) + 0.5**4 * 0.3**2 * math.log(0.7))
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_right_maps_cost_little_and_each_error_costs_more() -> None:
    corners = torch.tensor([[block(30, 34), block(70, 90)]], dtype=torch.float32)
    kinds, slices = torch.tensor([[IS_BODY, IS_SACRUM]]), torch.tensor([[0.5, -0.5]])
    target = centre_targets(corners, kinds, 32, 32)
    at = places(32, 32, torch.device("cpu"))
    arrows = corners[0][target.owner] - at[None, :, :, None]
    right = Maps(torch.where(target.centres == 1, 9.0, -9.0), arrows.permute(0, 3, 4, 1, 2), slices[0][target.owner])
    sure = torch.ones(1)
    least = centre_loss(right, corners, kinds, slices, sure)
    assert least < 0.01
    for worse in (
        right._replace(centres=right.centres.flip(1)),
        right._replace(corners=right.corners + 2),
        right._replace(slices=right.slices + 1),
    ):
        assert centre_loss(worse, corners, kinds, slices, sure) > least + 0.05
    unsure = centre_loss(right._replace(slices=right.slices + 1), corners, kinds, slices, 0 * sure)
    assert unsure == pytest.approx(least.item(), abs=1e-6)
