"""Local entropy against a loop that counts, regions and boxes by hand, crops pixel for pixel."""

import numpy as np
import pytest
import torch

from mskray.models.zoom import crop, extend, local_entropy, region


def counted_entropy(values: np.ndarray, neighbourhood: int, bins: int) -> np.ndarray:
    """Eq. 5 with its minus sign, pixel by pixel."""
    levels = np.minimum(np.maximum(values, 0) * bins, bins - 1).astype(int)
    result, reach = np.zeros(values.shape), neighbourhood // 2
    for y, x in np.ndindex(values.shape):
        around = levels[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]
        shares = np.unique(around, return_counts=True)[1] / around.size
        result[y, x] = -np.sum(shares * np.log2(shares))
    return result


@pytest.mark.parametrize(("neighbourhood", "bins"), [(3, 4), (5, 32), (9, 256), (31, 8)])
def test_eq_5_counts_levels_around_each_pixel(neighbourhood: int, bins: int) -> None:
    values = np.random.default_rng(0).normal(0.5, 0.4, (3, 17, 23))
    found = local_entropy(torch.from_numpy(values), neighbourhood, bins)
    expected = [counted_entropy(each, neighbourhood, bins) for each in values]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


def test_entropy_of_two_levels_by_hand() -> None:
    # Around the middle of three pixels: levels 0, 0, 1, so 2/3 · log2(3/2) + 1/3 · log2(3); at the ends two pixels.
    found = local_entropy(torch.tensor([[[0.1, 0.2, 0.9]]]), 3, 2)
    assert found[0, 0].tolist() == pytest.approx([0.0, 0.918296, 1.0], abs=1e-5)
    assert local_entropy(torch.full((1, 9, 9), 0.5), 5, 16).abs().max() == 0


def picture(*rows: str) -> torch.Tensor:
    """Digits as an entropy map (1, rows, columns); a dot is 0."""
    return torch.tensor([[[0.0 if c == "." else float(c) for c in row] for row in rows]])


@pytest.mark.parametrize(
    ("entropy", "threshold", "expected"),
    [
        # The part of the peak alone: an empty column lies between it and the stronger-looking large part.
        (picture("........", ".888..9.", ".888..8.", "........"), 0.5, [6, 1, 1, 2]),
        # No empty row between the parts, but one within the columns of the peak.
        (picture("9.......", "8.......", "..777...", "8......."), 0.5, [0, 0, 1, 2]),
        # Below the threshold is outside.
        (picture("........", ".39993..", ".34443..", "........"), 0.5, [2, 1, 3, 1]),
        (picture("........", ".39993..", ".34443..", "........"), 0.3, [1, 1, 5, 2]),
        # All that hangs together, round a corner.
        (picture("9.......", "888.....", "..8.....", "..888..."), 0.5, [0, 0, 5, 4]),
        (picture("........", "........"), 0.5, [0, 0, 8, 2]),
    ],
)
def test_the_region_is_the_part_around_the_peak(entropy: torch.Tensor, threshold: float, expected: list[int]) -> None:
    assert region(entropy, threshold).tolist() == [expected]
    other = picture(*["." * entropy.shape[2]] * entropy.shape[1])
    both = region(torch.cat([other, entropy]), threshold)
    assert both[1].tolist() == expected


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ([40, 40, 4, 8], [32, 34, 20, 20]),  # smaller than 20: extended around its middle
        ([40, 40, 30, 10], [40, 30, 30, 30]),  # larger: a square of its longer side
        ([0, 90, 4, 8], [0, 80, 20, 20]),  # at the border: shifted inside
        ([0, 10, 100, 50], [0, 0, 100, 100]),
    ],
)
def test_a_region_is_extended_and_shifted_inside(box: list[int], expected: list[int]) -> None:
    assert extend(torch.tensor([box]), 20, 100).tolist() == [expected]


def test_a_crop_of_the_input_size_has_the_canvas_s_very_pixels() -> None:
    images = torch.rand(2, 1, 32, 32)
    found = crop(images, torch.tensor([[3.0, 5.0, 8.0, 8.0], [24.0, 24.0, 8.0, 8.0]]), 8)
    assert torch.allclose(found[0], images[0, :, 5:13, 3:11], atol=1e-5)
    assert torch.allclose(found[1], images[1, :, 24:, 24:], atol=1e-5)
