"""Pictures on a canvas: where the content lies, that boxes follow it, and that thin things survive."""

from collections.abc import Sequence
from typing import get_args

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mskray.imaging.regions import Fit, FitMode, Placement, clipped, fit_mask_to_canvas, fit_to_canvas, from_canvas

SIDE = st.integers(1, 3000)
PLACE = st.floats(0, 1000)


@pytest.mark.parametrize(
    ("shape", "size", "mode", "placement"),
    [
        ((100, 50), 200, "pad", Placement(2, 2, 50, 0)),
        ((50, 100), 200, "pad", Placement(2, 2, 0, 50)),
        ((100, 50), 200, "stretch", Placement(4, 2, 0, 0)),
        ((2000, 1000), 500, "pad", Placement(0.25, 0.25, 125, 0)),
        ((64, 64), 64, "pad", Placement(1, 1, 0, 0)),
        ((300, 301), 224, "pad", Placement(224 / 301, 223 / 300, 0, 0)),
        ((1, 2000), 100, "pad", Placement(0.05, 1, 0, 49)),
    ],
)
def test_placement(shape: tuple[int, int], size: int, mode: FitMode, placement: Placement) -> None:
    canvas, found = fit_to_canvas(np.full(shape, 200, np.uint8), size, mode)
    assert found == placement == Fit(size, mode).placement(*shape)
    assert canvas.shape == (size, size)
    x, y, w, h = (round(value) for value in found.to_canvas((0, 0, shape[1], shape[0])))
    content = np.zeros((size, size), bool)
    content[y : y + h, x : x + w] = True
    assert (canvas[content] == 200).all()
    assert (canvas[~content] == 0).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_type_is_kept_and_shrinking_averages(dtype: type) -> None:
    pixels = np.zeros((8, 8), dtype)
    pixels[::2] = 200
    canvas, _ = fit_to_canvas(pixels, 4)
    assert canvas.dtype == dtype
    assert (canvas == 100).all()


def test_growing_interpolates() -> None:
    canvas, _ = fit_to_canvas(np.array([[0, 0], [200, 200]], np.uint8), 8)
    assert (np.diff(canvas[:, 0].astype(int)) >= 0).all()
    assert set(np.unique(canvas)) - {0, 200}


@given(SIDE, SIDE, st.integers(1, 600), st.sampled_from(get_args(FitMode)), PLACE, PLACE, PLACE, PLACE)
def test_boxes_go_there_and_back(
    rows: int, columns: int, size: int, mode: FitMode, x: float, y: float, w: float, h: float
) -> None:
    fit = Fit(size, mode)
    placement = fit.placement(rows, columns)
    assert placement.to_source(placement.to_canvas((x, y, w, h))) == pytest.approx((x, y, w, h), abs=1e-6)
    left, top, width, height = placement.to_canvas((0, 0, columns, rows))
    assert 0 <= left <= left + width <= size + 1e-9
    assert 0 <= top <= top + height <= size + 1e-9
    if mode == "pad":
        assert max(width, height) == pytest.approx(size)


@pytest.mark.parametrize("mode", get_args(FitMode))
@pytest.mark.parametrize(("shape", "size"), [((600, 400), 160), ((90, 130), 224), ((500, 200), 300)])
@pytest.mark.parametrize("box", [(40, 20, 80, 60), (0, 0, 30, 20), (70, 10, 11, 75)])
def test_a_box_follows_its_pixels(mode: FitMode, shape: tuple[int, int], size: int, box: Sequence[int]) -> None:
    x, y, w, h = box
    pixels = np.zeros(shape, np.uint8)
    pixels[y : y + h, x : x + w] = 255
    canvas, placement = fit_to_canvas(pixels, size, mode)
    found = cv2.boundingRect((canvas > 127).astype(np.uint8))
    assert found == pytest.approx(placement.to_canvas(box), abs=1.5)


@pytest.mark.parametrize(("size", "mode"), [(0, "pad"), (-5, "stretch"), (10, "crop")])
def test_fit_refuses(size: int, mode: FitMode) -> None:
    with pytest.raises(ValueError, match="size must be"):
        fit_to_canvas(np.zeros((4, 4), np.uint8), size, mode)


@pytest.mark.parametrize("mode", get_args(FitMode))
@pytest.mark.parametrize("shape", [(1800, 1200), (40, 50), (300, 20)])
def test_a_mask_lies_where_its_picture_does_and_loses_no_thin_line(mode: FitMode, shape: tuple[int, int]) -> None:
    mask = np.zeros(shape, np.uint8)
    cv2.line(mask, (shape[1] // 5, shape[0] // 5), (shape[1] // 2, shape[0] // 2), 1, 1)
    canvas = fit_mask_to_canvas(mask, 100, mode)
    assert canvas.dtype == np.uint8
    assert set(np.unique(canvas)) == {0, 1}
    x, y, w, h = cv2.boundingRect(mask)
    expected = Fit(100, mode).placement(*shape).to_canvas((x, y, w, h))
    assert cv2.boundingRect(canvas) == pytest.approx(expected, abs=2)
    # One piece, as on the source: no gaps in the line.
    assert cv2.connectedComponents(canvas, connectivity=8)[0] == 2


@pytest.mark.parametrize(("level", "expected"), [(0, 0), (1, 1), (255, 1)])
def test_a_uniform_mask(level: int, expected: int) -> None:
    canvas = fit_mask_to_canvas(np.full((64, 32), level, np.uint8), 16)
    assert (canvas[:, 4:12] == expected).all()
    assert (canvas[:, :4] == 0).all()


@pytest.mark.parametrize("mode", get_args(FitMode))
@pytest.mark.parametrize("shape", [(50, 100), (100, 50), (30, 30), (1, 300)])
def test_what_is_cut_from_a_canvas_is_the_whole_picture(shape: tuple[int, int], mode: FitMode) -> None:
    canvas, placement = fit_to_canvas(np.full(shape, 255, np.uint8), 64, mode)
    cut = from_canvas(canvas, *shape, mode)
    assert (cut == 255).all()
    assert cut.size == (canvas == 255).sum()
    assert placement.to_canvas((0, 0, shape[1], shape[0]))[2:] == pytest.approx(cut.shape[::-1])


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((10, 20, 5, 5), (10, 20, 5, 5)),
        ((-10, -5, 30, 10), (0, 0, 20, 5)),
        ((90, 40, 30, 30), (90, 40, 10, 10)),
        ((-10, -10, 300, 300), (0, 0, 100, 50)),
        ((200, 200, 5, 5), (100, 50, 0, 0)),
        ((-20, 10, 5, 5), (0, 10, 0, 5)),
    ],
)
def test_a_box_is_cut_off_at_the_picture(box: tuple[float, ...], expected: tuple[float, ...]) -> None:
    assert clipped(box, rows=50, columns=100) == expected
