"""Grey-level maps on values that can be worked out by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset
from pydicom.pixels import apply_windowing

from mskray.imaging.intensity import (
    full_range,
    look_up,
    luminance,
    rescale_percentile,
    through_table,
    to_dtype,
    to_uint8,
    window,
)


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        (np.array([0, 128, 129, 257, 32_768, 65_407, 65_535], np.uint16), [0, 0, 1, 1, 128, 255, 255]),
        (np.array([0, 7, 255], np.uint8), [0, 7, 255]),
        (np.full((2, 3, 4), 65_535, np.uint16), np.full((2, 3, 4), 255)),
    ],
)
def test_to_uint8(pixels: np.ndarray, expected: object) -> None:
    result = to_uint8(pixels)
    assert result.dtype == np.uint8
    assert np.array_equal(result, expected)


@pytest.mark.parametrize("shape", [(), (0,), (0, 5), (7,), (5, 7), (3, 5, 700), (3, 5, 1), (2, 3, 5, 7)])
@pytest.mark.parametrize("entry", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("source", [np.uint8, np.uint16])
def test_through_table_is_indexing(source: type, entry: type, shape: tuple[int, ...]) -> None:
    random = np.random.default_rng(0)
    table = random.integers(0, 256, np.iinfo(source).max + 1).astype(entry)
    pixels = random.integers(0, len(table), shape).astype(source)
    for each in (pixels, pixels[..., ::2] if pixels.ndim else pixels):
        found = through_table(each, table)
        assert found.dtype == entry
        assert np.array_equal(found, table[each])


@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.uint32])
def test_to_uint8_wants_full_range_types(dtype: type) -> None:
    with pytest.raises(TypeError, match="uint8 or uint16"):
        to_uint8(np.zeros(3, dtype))


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("source", [np.uint8, np.uint16])
def test_to_dtype_keeps_black_middle_and_white(source: type, dtype: str) -> None:
    top = np.iinfo(source).max
    result = to_dtype(np.array([0, top // 5, top], source), dtype)
    assert result.dtype == np.dtype(dtype)
    assert result.tolist() == [0, np.iinfo(dtype).max // 5, np.iinfo(dtype).max]


@pytest.mark.parametrize(("source", "dtype"), [(np.float32, "uint16"), (np.int16, "uint8"), (np.uint8, "float32")])
def test_to_dtype_wants_full_range_types(source: type, dtype: str) -> None:
    with pytest.raises(TypeError, match="uint8 or uint16"):
        to_dtype(np.zeros(3, source), dtype)


@given(st.integers(0, 255))
def test_to_uint8_undoes_widening(level: int) -> None:
    assert to_uint8(np.array([level * 257], np.uint16))[0] == level


@pytest.mark.parametrize(
    ("pixels", "low", "high", "expected"),
    [
        # Exposed levels 100–200 fill the range; the black border does not count.
        ([0, 0, 0, 0, 100, 150, 200], 0, 100, [0, 0, 0, 0, 0, 128, 255]),
        ([0, 50, 50, 50], 1, 99, [0, 50, 50, 50]),
        ([0, 0, 0, 0], 1, 99, [0, 0, 0, 0]),
        (list(range(1, 102)), 10, 90, np.clip(np.rint((np.arange(1, 102) - 11) / 80 * 255), 0, 255)),
    ],
)
def test_rescale_percentile(pixels: list[int], low: float, high: float, expected: object) -> None:
    result = rescale_percentile(np.array(pixels, np.uint8), low, high)
    assert result.dtype == np.uint8
    assert np.array_equal(result, expected)


def test_rescale_percentile_keeps_shape_and_type() -> None:
    pixels = np.linspace(10_000, 20_000, 600).reshape(20, 30).astype(np.uint16)
    result = rescale_percentile(pixels)
    assert result.shape == (20, 30)
    assert result.dtype == np.uint16
    assert (result.min(), result.max()) == (0, 65_535)
    assert np.mean(result == 0) == pytest.approx(0.01, abs=0.002)


@pytest.mark.parametrize(("low", "high"), [(5, 5), (-1, 99), (1, 101), (99, 1)])
def test_rescale_percentile_bounds(low: float, high: float) -> None:
    with pytest.raises(ValueError, match="percentiles"):
        rescale_percentile(np.zeros(3, np.uint8), low, high)


@pytest.mark.parametrize(
    ("levels", "dtype", "expected"),
    [
        ([-1.0, 0.0, 0.5, 1.0, 7.0], np.uint8, [0, 0, 128, 255, 255]),
        ([0.0, 1 / 65_535, 1.0], np.uint16, [0, 1, 65_535]),
    ],
)
def test_full_range(levels: list[float], dtype: type, expected: list[int]) -> None:
    assert full_range(np.array(levels), dtype).tolist() == expected


def test_luminance_keeps_grey_and_weighs_green_most() -> None:
    rgb = np.array([[10.0, 10.0, 10.0], [255, 0, 0], [0, 255, 0], [0, 0, 255]])
    assert np.allclose(luminance(rgb), [10, 76.245, 149.685, 29.07])


@pytest.mark.parametrize(
    ("centre", "width", "function", "values", "levels"),
    [
        # PS3.3 C.11.2.1.2.1, its own examples: c = 2048, w = 4096 is the identity on 12 bits.
        (2048, 4096, "LINEAR", [0, 2048, 4095], [0, 2048 / 4095, 1]),
        (0, 100, "LINEAR", [-51, -50, -0.5, 49, 60], [0, 0, 0.5, 1, 1]),
        (0, 1, "LINEAR", [-2, -1, 0, 1], [0, 0, 1, 1]),
        (0, 100, "LINEAR_EXACT", [-60, -50, 0, 25, 50], [0, 0, 0.5, 0.75, 1]),
        (10, 4, "SIGMOID", [10, 11, -1e9, 1e9], [0.5, 1 / (1 + np.exp(-1)), 0, 1]),
    ],
)
def test_window(centre: float, width: float, function: str, values: list[float], levels: list[float]) -> None:
    assert np.allclose(window(np.array(values, float), centre, width, function), levels)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("centre", "width"), [(600, 1600), (40.5, 80), (1000, 50)])
def test_window_agrees_with_pydicom(function: str, centre: float, width: float) -> None:
    header = Dataset()
    header.PhotometricInterpretation, header.BitsStored, header.PixelRepresentation = "MONOCHROME2", 12, 0
    header.WindowCenter, header.WindowWidth, header.VOILUTFunction = centre, width, function
    values = np.arange(4096)
    assert np.allclose(window(values, centre, width, function), apply_windowing(values, header) / 4095, atol=1e-6)


@pytest.mark.parametrize(
    ("width", "function"),
    [(0, "LINEAR"), (0.5, "LINEAR"), (-3, "SIGMOID"), (0, "LINEAR_EXACT"), (np.nan, "LINEAR"), (9, "CUBIC")],
)
def test_window_refuses_what_the_standard_forbids(width: float, function: str) -> None:
    with pytest.raises(ValueError):
        window(np.zeros(3), 5, width, function)


def test_look_up_holds_the_ends() -> None:
    entries = np.array([10, 20, 30])
    assert look_up(np.array([-100, 4.6, 5, 6, 7, 8, 900]), 5, entries).tolist() == [10, 10, 10, 20, 30, 30, 30]
