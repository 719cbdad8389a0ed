"""KALM's equations against values worked out by hand, and what each part learns."""

from collections.abc import Callable

import pytest
import torch

from mskray.models.kalm import Kalm, KeyArea, aggregate, global_network, locate_peak, profiles, to_pixels
from mskray.models.sampling import sample


def test_eq_4_sums_channels_and_eq_5_6_make_profiles() -> None:
    maps = torch.tensor([[[[1.0, 2.0, 0.0], [0.0, 1.0, 1.0]], [[0.0, 1.0, 0.0], [3.0, 0.0, 0.0]]]])
    response = aggregate(maps)
    assert response.tolist() == [[[1.0, 3.0, 0.0], [3.0, 1.0, 1.0]]]
    across, down = profiles(response)
    # Columns sum to 4, 4, 1 and rows to 4, 5; min-max scaling makes 1, 1, 0 and 0, 1.
    assert across.tolist() == [[1.0, 1.0, 0.0]]
    assert down.tolist() == [[0.0, 1.0]]


def test_a_flat_map_is_no_division_by_zero() -> None:
    across, down = profiles(torch.full((1, 3, 3), 2.0))
    assert across.tolist() == [[0.0, 0.0, 0.0]]
    assert down.tolist() == [[0.0, 0.0, 0.0]]


@pytest.mark.parametrize(("index", "paper", "centred"), [(0, -1.0, -6 / 7), (3, -1 / 7, 0.0), (6, 5 / 7, 6 / 7)])
def test_eq_7_locates_the_peak_of_seven_cells(index: int, paper: float, centred: float) -> None:
    profile = torch.zeros(1, 7)
    profile[0, index] = 1
    assert float(locate_peak(profile)) == pytest.approx(paper, abs=1e-6)
    assert float(locate_peak(profile, centred=True)) == pytest.approx(centred, abs=1e-6)


def test_eq_7_predicts_lengths_from_profiles() -> None:
    area = KeyArea(height=2, width=3)
    with torch.no_grad():
        area.fc_w.weight.copy_(torch.tensor([[1.0, 0.0, 2.0]]))
        area.fc_w.bias.fill_(-1.0)
        area.fc_h.weight.copy_(torch.tensor([[0.5, -0.5]]))
        area.fc_h.bias.fill_(0.0)
    box = area(torch.tensor([[[[1.0, 3.0, 0.0], [3.0, 1.0, 1.0]]]]))
    sigmoid = lambda value: 1 / (1 + 2.718281828**-value)  # noqa: E731
    # V_w = 1, 1, 0 with its first peak in column 0 of 3; V_h = 0, 1 with its peak in row 1 of 2.
    assert box[0].tolist() == pytest.approx([-1.0, 0.0, sigmoid(0.0), sigmoid(-0.5)], abs=1e-6)


@pytest.mark.parametrize("side", [0.2, 0.5, 0.9])
def test_boxes_have_the_side_that_they_start_at_whatever_the_map(side: float) -> None:
    area = KeyArea(height=5, width=7)
    area.start_at(side)
    boxes = area(torch.rand(6, 3, 5, 7))
    assert torch.allclose(boxes[:, 2:], torch.full((6, 2), side))
    boxes[:, 2:].sum().backward()
    assert area.fc_w.weight.grad.abs().sum() > 0, "from there both learn"
    assert area.fc_h.weight.grad.abs().sum() > 0


def test_eq_8_and_9_cut_the_box_at_full_resolution() -> None:
    image = torch.arange(64.0).view(1, 1, 8, 8)
    # A quarter of the image around (0.5, -0.5): columns 4 to 7, rows 0 to 3.
    box = torch.tensor([[0.5, -0.5, 0.5, 0.5]])
    assert torch.allclose(sample(image, box, 4), image[:, :, 0:4, 4:8])
    assert to_pixels(box, 8, 8).tolist() == [[4.0, 0.0, 4.0, 4.0]]


def test_the_length_learns_through_the_sampler_and_the_position_does_not() -> None:
    area = KeyArea(4, 4)
    maps = torch.rand(2, 3, 4, 4, requires_grad=True)
    box = area(maps)
    position, length = (torch.autograd.grad(part.sum(), maps, retain_graph=True)[0] for part in box.split(2, dim=1))
    assert not position.any()
    assert length.any()
    sample(torch.rand(2, 1, 16, 16), box, 8).square().sum().backward()
    assert area.fc_w.weight.grad.abs().sum() > 0
    assert area.fc_h.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(("backbone", "side"), [("resnet18", 2), ("vgg16", 2)])
def test_the_second_stage_leaves_the_global_network_alone(backbone: str, side: int) -> None:
    torch.manual_seed(0)
    network = Kalm(backbone, 2, size=64)
    assert network.key_area.fc_w.in_features == side
    whole, local, box = network(torch.rand(2, 1, 128, 128))
    assert whole.shape == local.shape == (2, 2)
    assert box.shape == (2, 4)
    local.square().sum().backward()
    assert all(parameter.grad is None for parameter in network.cnn_g.parameters())
    assert network.key_area.fc_w.weight.grad is not None
    assert any(parameter.grad is not None for parameter in network.cnn_l.parameters())


@pytest.mark.parametrize(("backbone", "cells"), [("resnet18", 7), ("vgg16", 7), ("inception_v4", 5)])
def test_the_map_s_size_decides_that_of_the_linear_layers(backbone: str, cells: int) -> None:
    assert Kalm(backbone, 2).key_area.fc_w.in_features == cells


@pytest.mark.parametrize(("share", "fits"), [(1.0, lambda side: side < 0.27), (1 / 16, lambda side: side > 0.9)])
def test_lengths_learn_what_serves_the_answer_on_the_crop(share: float, fits: Callable[[float], bool]) -> None:
    """A bright spot under the peak: the box shrinks into it, or grows around it. Flat areas would give no gradient."""
    torch.manual_seed(0)
    maps = torch.zeros(1, 1, 4, 4)
    maps[:, :, 1, 2] = 1
    rows, columns = torch.meshgrid(torch.arange(64) + 0.5, torch.arange(64) + 0.5, indexing="ij")
    images = torch.exp(-((rows - 24) ** 2 + (columns - 40) ** 2) / (2 * 8**2))[None, None]
    area = KeyArea(4, 4, centred=True)
    optimizer = torch.optim.Adam(area.parameters(), 0.05)
    start = area(maps)[0].detach()
    for _ in range(200):
        optimizer.zero_grad()
        (sample(images, area(maps), 16).mean() - share).square().backward()
        optimizer.step()
    end = area(maps)[0].detach()
    assert start[:2].tolist() == end[:2].tolist() == [0.25, -0.25]
    assert 0.3 < float(start[2]) < 0.8
    assert fits(float(end[2]))
    assert fits(float(end[3]))


def test_boxes_are_exact_in_mixed_precision() -> None:
    torch.manual_seed(0)
    network = Kalm("mobilenet_v3_small", 2, size=64).eval()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        whole, _, box = network(torch.rand(4, 1, 128, 128))
    assert whole.dtype == torch.bfloat16
    assert box.dtype == torch.float32
    assert not torch.equal(box, box.bfloat16().float())


def test_the_global_network_sees_the_mean_over_pixels_of_a_finer_image() -> None:
    torch.manual_seed(0)
    network = global_network("mobilenet_v3_small", 2, size=64).eval()
    small = torch.rand(2, 1, 64, 64)
    fine = small.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    with torch.no_grad():
        torch.testing.assert_close(network(fine), network(small))
