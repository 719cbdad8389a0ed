"""RA-CNN: mask, crop, rank loss by hand; what learns in which phase; a proposal that moves to a bright square."""

import pytest
import torch
from torch import Tensor

from mskray.models.racnn import Phase, Proposal, Racnn, attend, box_mask, corners, peak_box, rank_loss
from mskray.models.sampling import sample

SIZE, ZOOM = 64, 32


def network() -> Racnn:
    torch.manual_seed(0)
    return Racnn("resnet18", 2, size=SIZE, zoom=ZOOM, hidden=16)


def test_the_mask_is_close_to_a_box() -> None:
    mask = box_mask(torch.tensor([[0.5, 0.25, 0.125]]), size=16, k=10.0)[0, 0]
    expected = torch.zeros(16, 16)
    expected[2:6, 6:10] = 1  # x from 6 to 10, y from 2 to 6
    assert (mask - expected).abs().max() < 0.02
    # RA-CNN eq. 5 and 6 at the pixel in column 6, half a pixel inside the left border.
    assert mask[4, 6].item() == pytest.approx(1 / (1 + 2.718281828**-5), abs=1e-4)


def test_the_mask_is_differentiable() -> None:
    box = torch.tensor([[0.45, 0.52, 0.2]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda each: box_mask(each, 12, 10.0), box)


def test_a_box_is_cut_out_and_enlarged() -> None:
    image = torch.zeros(1, 1, 16, 16)
    image[0, 0, 4:8, 8:12] = torch.arange(16.0).view(4, 4)
    cut = attend(image, torch.tensor([[0.625, 0.375, 0.125]]), size=4, k=100.0)
    torch.testing.assert_close(cut[0, 0], torch.arange(16.0).view(4, 4))


def test_gradients_reach_the_box_through_the_mask_alone() -> None:
    """They equal finite differences of the mask's box where the crop itself stays in place."""
    torch.manual_seed(0)
    images = torch.rand(1, 1, 32, 32, dtype=torch.float64)
    box = torch.tensor([[0.51, 0.49, 0.3]], dtype=torch.float64, requires_grad=True)
    attend(images, box, 16, k=10.0).sum().backward()
    place, step = torch.tensor([[0.02, -0.02, 0.6, 0.6]], dtype=torch.float64), 1e-6

    def seen(change: Tensor) -> Tensor:
        return sample(images * box_mask(box.detach() + change, 32, 10.0), place, 16).sum()

    steps = step * torch.eye(3, dtype=torch.float64)[:, None]
    expected = torch.stack([(seen(each) - seen(-each)) / (2 * step) for each in steps])
    torch.testing.assert_close(box.grad[0], expected, rtol=1e-5, atol=1e-5)
    assert box.grad.abs().min() > 0.1


def test_the_rank_loss_by_hand() -> None:
    true = torch.tensor([[0.6, 0.9], [0.5, 0.8], [0.52, 0.95]])
    probabilities = torch.stack([true, 1 - true], dim=2).requires_grad_()
    loss = rank_loss(probabilities, torch.tensor([0, 0]), margin=0.05)
    # First image: 0.6 - 0.5 + 0.05 = 0.15, then 0.5 - 0.52 + 0.05 = 0.03; second: 0.15, then less than 0.
    assert loss.item() == pytest.approx((0.15 + 0.03 + 0.15) / 2)
    loss.backward()
    assert probabilities.grad[:, :, 0].tolist() == [[0.0, 0.0], [-0.5, -0.5], [-0.5, 0.0]]


@pytest.mark.parametrize(
    ("cell", "expected"), [((1, 2), (0.625, 0.375)), ((0, 0), (1 / 3, 1 / 3)), ((3, 1), (0.375, 2 / 3))]
)
def test_the_peak_s_box_lies_inside_the_image(cell: tuple[int, int], expected: tuple[float, float]) -> None:
    maps = torch.rand(1, 3, 4, 4)
    maps[0, :, *cell] += 2
    assert peak_box(maps, 1 / 3)[0].tolist() == pytest.approx([*expected, 1 / 3])


def test_boxes_of_the_third_scale_are_brought_to_the_first() -> None:
    boxes = torch.tensor([[[0.5, 0.6, 0.25]], [[0.25, 0.5, 0.2]]])
    # The second scale shows x 0.25 to 0.75 and y 0.35 to 0.85; of that the third shows 0.05 to 0.45 and 0.3 to 0.7.
    assert corners(boxes)[0, 0].tolist() == pytest.approx([0.25, 0.35, 0.5, 0.5])
    assert corners(boxes)[1, 0].tolist() == pytest.approx([0.275, 0.5, 0.2, 0.2])


def test_a_proposal_stays_inside_the_image_and_above_the_smallest() -> None:
    proposal = Proposal((4, 2, 2), hidden=8, smallest=1 / 3)
    x, y, half = proposal(1e4 * torch.randn(200, 4, 2, 2)).detach().unbind(dim=1)
    assert half.min() >= 1 / 3 - 1e-6
    for centre in (x, y):
        assert (centre - half).min() >= -1e-6
        assert (centre + half).max() <= 1 + 1e-6


@pytest.mark.parametrize("phase", ["pretraining", "classification", "proposals"])
def test_each_phase_changes_its_own_half_only(phase: Phase) -> None:
    model = network()
    model.learn(phase)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=0.1)
    logits, boxes, peaks = model(torch.rand(4, 1, SIZE, SIZE))
    label = torch.tensor([0, 1, 0, 1])
    losses = {
        "pretraining": lambda: (boxes - peaks).square().mean(),
        "classification": lambda: torch.nn.functional.cross_entropy(logits.flatten(0, 1), label.repeat(3)),
        "proposals": lambda: rank_loss(logits.softmax(dim=2), label, margin=1.0),
    }
    losses[phase]().backward()
    optimizer.step()
    changed = {name.split(".")[0] for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"scales" if phase == "classification" else "proposals"}
    if phase == "proposals":
        assert all(parameter.grad.abs().sum() > 0 for parameter in model.proposals.parameters())


def squares(count: int) -> tuple[Tensor, Tensor]:
    """Grey images with a bright square of a quarter of the side, and its centre (n, 2) as shares of the side."""
    corner = torch.randint(4, SIZE - SIZE // 4 - 4, (count, 2))
    images = torch.full((count, 1, SIZE, SIZE), 0.2)
    for image, (x, y) in zip(images, corner.tolist(), strict=True):
        image[0, y : y + SIZE // 4, x : x + SIZE // 4] = 1
    return images, (corner + SIZE / 8) / SIZE


def covered(boxes: Tensor, centres: Tensor) -> float:
    """Mean share of the squares that lies in the boxes."""
    low = torch.maximum(boxes[:, :2] - boxes[:, 2:], centres - 1 / 8)
    high = torch.minimum(boxes[:, :2] + boxes[:, 2:], centres + 1 / 8)
    return ((high - low).clamp(min=0).prod(dim=1) * 16).mean().item()


def test_by_the_rank_loss_a_proposal_moves_to_a_bright_square() -> None:
    """The finer scale is sure of the class by the bright pixels that it sees and unsure by the grey ones.

    So a box does best on the square and not larger than it. The proposal sees a map of 8 × 8 means.
    """
    torch.manual_seed(0)
    proposal = Proposal((1, 8, 8), hidden=32, smallest=0.15)
    optimizer = torch.optim.Adam(proposal.parameters(), lr=3e-3)
    test_images, centres = squares(256)
    start = proposal(maps_of(test_images)).detach()
    for _ in range(300):
        images, _ = squares(32)
        cut = attend(images, proposal(maps_of(images)), ZOOM, k=10.0)
        sure = 0.5 + (cut * (cut - 0.5)).mean(dim=(1, 2, 3))
        coarse = torch.full_like(sure, 0.95)
        pair = torch.stack([torch.stack([1 - each, each], dim=1) for each in (coarse, sure)])
        loss = rank_loss(pair, torch.ones(32, dtype=torch.int64), margin=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    end = proposal(maps_of(test_images)).detach()
    before, after = ((each[:, :2] - centres).norm(dim=1).mean() for each in (start, end))
    assert after < before / 2
    assert covered(end, centres) > covered(start, centres)
    assert end[:, 2].mean() < start[:, 2].mean()


def maps_of(images: Tensor) -> Tensor:
    return torch.nn.functional.avg_pool2d(images, SIZE // 8)
