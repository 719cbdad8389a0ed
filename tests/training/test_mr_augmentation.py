"""What differs between scanners: order of grey levels kept, fields of view cut, each image by its own amounts."""

import pytest
import torch

from mskray.training.mr_augmentation import MrSection, fields_of_view, points_inside, scanned, seen_inside

NOTHING = {"gamma": 0, "coil": 0, "blur": 0, "noise": 0, "cut": 0}


def only(**amounts: float) -> MrSection:
    return MrSection.model_validate({**NOTHING, **amounts})


def test_no_amounts_change_nothing() -> None:
    images = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(scanned(images, only()), images)
    views = fields_of_view(2, only(), 16, images.device)
    assert views.tolist() == [[0, 0, 16, 16]] * 2
    assert torch.equal(seen_inside(images, views), images)


@pytest.mark.parametrize("amounts", [{"gamma": 0.7}, {"coil": 0.5}, {"blur": 1.0}, {"noise": 0.1}])
def test_each_change_differs_between_images_and_stays_in_range(amounts: dict[str, float]) -> None:
    torch.manual_seed(0)
    images = torch.rand(1, 3, 32, 32).expand(4, -1, -1, -1)
    made = scanned(images, only(**amounts))
    assert made.min() >= 0
    assert made.max() <= 1
    changes = (made - images).abs().mean(dim=(1, 2, 3))
    assert (changes > 1e-6).all()
    assert len(changes.unique()) == 4


def test_dark_never_becomes_bright() -> None:
    torch.manual_seed(0)
    ramp = torch.linspace(0.01, 0.99, 32)[None, None, None].expand(8, 3, 8, -1)
    made = scanned(ramp, only(gamma=0.7))
    assert (made.diff(dim=-1) > 0).all()


def test_what_lies_outside_the_field_of_view_is_black() -> None:
    torch.manual_seed(1)
    views = fields_of_view(200, only(cut=0.25), 32, torch.device("cpu"))
    whole = (views == torch.tensor([0.0, 0.0, 32.0, 32.0])).all(dim=1)
    assert 60 < whole.sum() < 140
    assert views[:, :2].max() <= 8
    assert views[:, 2:].min() >= 24
    seen = seen_inside(torch.ones(200, 3, 32, 32), views)
    places = torch.stack(torch.meshgrid(torch.arange(32), torch.arange(32), indexing="xy"), dim=-1) + 0.5
    inside = points_inside(places.expand(200, -1, -1, -1), views)
    assert torch.equal(seen[:, 0] == 1, inside)
