"""A picture is dark by its 0.99 quantile; counting pixels says the same."""

import numpy as np
import pytest

from mskray.serving.answers import is_dark


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_counting_says_what_the_quantile_says(dtype: type) -> None:
    random, limit = np.random.default_rng(0), 0.15 * np.iinfo(dtype).max
    said = []
    for _ in range(2000):
        shape = random.integers(1, 40, 2)
        # About the limit, with about a hundredth above it, so that every branch decides some.
        pixels = np.clip(random.normal(0.6 * limit, 0.4 * limit / 2.326, shape), 0, None).astype(dtype)
        pixels.flat[: random.integers(0, 3)] = random.integers(int(limit) - 2, int(limit) + 3)
        said.append(is_dark(pixels))
        assert said[-1] == bool(np.quantile(pixels, 0.99) < limit)
    assert 0.2 < np.mean(said) < 0.8


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_around_the_place_of_the_quantile(dtype: type) -> None:
    limit = 0.15 * np.iinfo(dtype).max
    for size in (1, 2, 99, 100, 101, 102, 1000, 1001):
        for bright in range(min(size, 20) + 1):
            for value in (int(limit) + 1, np.iinfo(dtype).max):
                pixels = np.full((1, size), int(limit), dtype)
                pixels[0, :bright] = value
                assert is_dark(pixels) == bool(np.quantile(pixels, 0.99) < limit)
