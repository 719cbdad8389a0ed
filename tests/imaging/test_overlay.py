"""Overlays: the radiograph stays what it is where there is nothing, colour rises where there is, boxes are in place."""

import io

import numpy as np
import pytest
from PIL import Image

from mskray.imaging.overlay import LEAST, MOST, Mark, colours, draw, png


def film(rows: int = 600, columns: int = 800, dtype: type = np.uint8) -> np.ndarray:
    return np.full((rows, columns), np.iinfo(dtype).max // 2, dtype)


@pytest.mark.parametrize(
    ("shape", "drawn"),
    [((600, 800), (600, 800)), ((100, 50), (LEAST, LEAST // 2)), ((3000, 4000), (768, MOST)), ((1, 2000), (1, MOST))],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_size_and_depth(shape: tuple[int, int], drawn: tuple[int, int], dtype: type) -> None:
    picture = draw(film(*shape, dtype), None)
    assert picture.dtype == np.uint8
    assert picture.shape[1:] == (drawn[1], 3)
    assert (picture[: drawn[0]] == 127).all()
    assert picture.shape[0] > drawn[0]  # the legend


def test_nothing_is_transparent_and_colour_rises() -> None:
    shares = np.zeros((60, 80), np.float32)
    shares[:, 40:] = np.linspace(0, 1, 40, dtype=np.float32)
    picture = draw(film(), shares)[:600].astype(int)
    assert (picture[:, :400] == 127).all()
    strength = np.ptp(picture[300], axis=1)
    assert strength[420] == 0
    assert strength[500] < strength[600] < strength[790]


def test_opacity_leaves_the_radiograph_readable() -> None:
    shares = np.ones((10, 10), np.float32)
    dark, bright = (draw(np.full((600, 600), level, np.uint8), shares)[:600].astype(int) for level in (40, 200))
    assert (bright - dark).mean() > 0.3 * 160


def test_the_scale_is_in_even_steps_of_lightness() -> None:
    rgb = colours(np.linspace(0, 1, 64, dtype=np.float32)[None])[0, :, :3] @ [0.299, 0.587, 0.114]
    steps = np.diff(rgb)
    assert (steps > 0).all()
    assert steps.max() < 4 * np.median(steps)


def test_a_box_is_drawn_where_it_is() -> None:
    picture = draw(film(1200, 2048), None, [Mark("box", (400, 200, 600, 800))])[:600]
    changed = (picture != 127).any(axis=2)
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    assert rows[[0, -1]].tolist() == pytest.approx([100, 499], abs=2)
    assert columns[[0, -1]].tolist() == pytest.approx([200, 499], abs=2)
    assert not changed[110:490, 210:490].any()


@pytest.mark.parametrize("box", [(0, 0, 0, 0), (5, 5, 0, 9), (5, 5, 9, 0)])
def test_a_box_without_area_is_not_drawn(box: tuple[float, ...]) -> None:
    seen = Mark("seen", (100, 100, 50, 50))
    np.testing.assert_array_equal(draw(film(), None, [Mark("none", box), seen]), draw(film(), None, [seen]))


def test_a_narrow_picture_has_its_legend_on_more_lines() -> None:
    marks = [Mark(f"box number {index}", (1, 1, 5, 5)) for index in range(6)]
    wide, narrow = draw(film(600, 600), None, marks, "title"), draw(film(600, 120), None, marks, "title")
    assert narrow.shape[0] > wide.shape[0]
    assert narrow.shape[1] == 120


@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 3), (4, 6, 4)])
def test_png_keeps_every_value(shape: tuple[int, ...]) -> None:
    picture = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png(picture)))), picture)
