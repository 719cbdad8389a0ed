"""Crops under autocast are those without it: a place is never rounded to bfloat16."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mskray.models.racnn import attend
from mskray.models.sampling import sample
from mskray.models.view_fusion import repeat_views
from mskray.models.zoom import crop


@pytest.mark.parametrize(
    "cut",
    [
        lambda images: sample(images, torch.tensor([[0.11, -0.23, 0.5, 0.4]]), 224),
        lambda images: crop(images, torch.tensor([[101.0, 57.0, 224.0, 224.0]]), 224),
        lambda images: attend(images, torch.tensor([[0.41, 0.57, 0.34]]), 224, 10.0),
        lambda images: repeat_views(images.expand(1, 4, -1, -1), torch.tensor([1]), 0.875),
    ],
    ids=["sample", "zoom", "racnn", "repeated views"],
)
def test_half_precision_moves_no_pixel(cut: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    images = torch.rand(1, 1, 448, 448)
    expected = cut(images)
    with torch.autocast("cpu", torch.bfloat16):
        found = cut(images)
    assert torch.equal(found, expected)
    assert found.dtype == torch.float32
