"""Augmentation: geometry by known pixels, exposure by known means, identity when all is switched off."""

import pytest
import torch

from mskray.training.augmentation import augment, exposure, pose
from mskray.training.config import AugmentSection

OFF = {"flip": 0, "rotation": 0, "translation": 0, "scale": 0, "brightness": 0, "contrast": 0}


def spot(row: int, column: int, size: int = 33) -> torch.Tensor:
    image = torch.zeros(1, 1, size, size)
    image[0, 0, row - 1 : row + 2, column - 1 : column + 2] = 1
    return image


def centre(image: torch.Tensor) -> tuple[float, float]:
    rows, columns = torch.meshgrid(torch.arange(image.shape[2]), torch.arange(image.shape[3]), indexing="ij")
    mass = image[0, 0].sum()
    return float((rows * image[0, 0]).sum() / mass), float((columns * image[0, 0]).sum() / mass)


def test_switched_off_it_changes_nothing() -> None:
    images = torch.rand(4, 1, 16, 16)
    assert torch.equal(augment(images, AugmentSection(**OFF)), images)


def test_a_certain_flip_mirrors_columns() -> None:
    images = torch.rand(3, 1, 16, 16)
    flipped = pose(images, AugmentSection(**{**OFF, "flip": 1}))
    assert torch.allclose(flipped, images.flip(3), atol=1e-5)


@pytest.mark.parametrize(
    ("setting", "largest_distance"), [({"rotation": 10}, 2.1), ({"translation": 0.1}, 4.8), ({"scale": 0.1}, 1.4)]
)
def test_pose_moves_a_spot_within_its_bound_and_not_always_alike(setting: dict, largest_distance: float) -> None:
    torch.manual_seed(0)
    config = AugmentSection(**{**OFF, **setting})
    distances = []
    for _ in range(50):
        row, column = centre(pose(spot(16, 28), config))
        distances.append(((row - 16) ** 2 + (column - 28) ** 2) ** 0.5)
    assert max(distances) <= largest_distance
    assert max(distances) > 0.5 * largest_distance
    assert min(distances) < 0.3 * largest_distance


def test_a_crop_shows_a_part_of_the_image_at_full_size() -> None:
    torch.manual_seed(0)
    rows = torch.linspace(0, 1, 65).view(1, 1, 65, 1).expand(300, 1, 65, 65)
    cropped = pose(rows, AugmentSection(**{**OFF, "crop": 0.4}))[:, 0, :, 32]
    shown = (cropped[:, -1] - cropped[:, 0]).square()
    assert float(shown.min()) == pytest.approx(0.6, abs=0.03)
    assert float(shown.max()) == pytest.approx(1.0, abs=0.03)
    assert float(cropped[:, 0].min()) < 0.02
    assert float(cropped[:, -1].max()) > 0.98


def test_rotation_keeps_a_spot_round_and_bright() -> None:
    turned = pose(spot(16, 28), AugmentSection(**{**OFF, "rotation": 180}))
    assert float(turned.sum()) == pytest.approx(9, rel=0.05)


def test_exposure_moves_the_mean_within_its_bound_and_stays_in_range() -> None:
    torch.manual_seed(0)
    images = torch.full((200, 1, 4, 4), 0.5)
    changed = exposure(images, AugmentSection(**{**OFF, "brightness": 0.2})).mean(dim=(1, 2, 3))
    assert float(changed.min()) >= 0.3
    assert float(changed.max()) <= 0.7
    assert float(changed.std()) > 0.05
    wild = exposure(torch.rand(50, 1, 4, 4), AugmentSection(**{**OFF, "brightness": 1, "contrast": 1}))
    assert 0 <= float(wild.min()) <= float(wild.max()) <= 1


def test_images_of_a_batch_are_changed_differently() -> None:
    torch.manual_seed(0)
    images = spot(16, 28).repeat(8, 1, 1, 1)
    changed = augment(images, AugmentSection())
    assert len({tuple(image.flatten().tolist()) for image in changed}) == 8
