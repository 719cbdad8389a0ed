"""Crops under autocast are those without it; shrinking averages areas, also where they cut pixels apart."""

from collections.abc import Callable

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from mskray.models.racnn import attend
from mskray.models.sampling import sample, shrink
from mskray.models.view_fusion import repeat_views
from mskray.models.zoom import crop


@pytest.mark.parametrize(
    "cut",
    [
        lambda images: sample(images, torch.tensor([[0.11, -0.23, 0.5, 0.4]]), 224),
        lambda images: shrink(images, 224),
        lambda images: crop(images, torch.tensor([[101.0, 57.0, 224.0, 224.0]]), 224),
        lambda images: attend(images, torch.tensor([[0.41, 0.57, 0.34]]), 224, 10.0),
        lambda images: repeat_views(images.expand(1, 4, -1, -1), torch.tensor([1]), 0.875),
    ],
    ids=["sample", "shrink", "zoom", "racnn", "repeated views"],
)
def test_half_precision_moves_no_pixel(cut: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    images = torch.rand(1, 1, 448, 448)
    expected = cut(images)
    with torch.autocast("cpu", torch.bfloat16):
        found = cut(images)
    assert torch.equal(found, expected)
    assert found.dtype == torch.float32


@pytest.mark.parametrize(("before", "after"), [(96, 32), (80, 32), (512, 224)])
def test_shrinking_is_that_of_a_canvas(before: int, after: int) -> None:
    images = np.random.default_rng(0).random((3, before, before), np.float32)
    expected = [cv2.resize(each, (after, after), interpolation=cv2.INTER_AREA) for each in images]
    found = shrink(torch.from_numpy(images).unsqueeze(1), after)
    np.testing.assert_allclose(found.squeeze(1).numpy(), np.stack(expected), atol=1e-5)


def test_shrinking_by_hand() -> None:
    assert shrink(torch.arange(16.0).view(1, 1, 4, 4), 2).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    # Of three pixels on two areas, each area has one and a half: (0 + 3 / 2) / 1.5 and (3 / 2 + 6) / 1.5.
    row = torch.tensor([0.0, 3.0, 6.0]).expand(1, 1, 3, 3)
    assert shrink(row, 2)[0, 0].flatten().tolist() == pytest.approx([1.0, 5.0, 1.0, 5.0])
