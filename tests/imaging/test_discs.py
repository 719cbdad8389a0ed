"""Discs come out level, centred and in the right grey, whatever their tilt and the pixels' shape."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from block_spine import BACKGROUND, BODY, DISC, GAP_MM, HEIGHT_MM, BlockSpine

from mskray.imaging.decode import DecodeError
from mskray.imaging.discs import disc_shape, disc_volume
from mskray.imaging.spine import Vertebra

OUTER = np.array([[1.0], [1], [0], [0]])  # the corners of an upper body that are not the disc's
TILTS = (-40, -23, -7.5, 0, 15, 40)


def cut(spine, **settings):
    return disc_volume(spine.volume, spine.vertebrae["L4"], spine.vertebrae["L5"], **settings)


def endplates(picture, spacing_mm):
    """Measured angle (degrees) and middle row (edge of pixel 0 = 0) of the two edges of the bright disc."""
    columns = picture.shape[1]
    half = int(8 / spacing_mm)
    across = np.arange(columns // 2 - half, columns // 2 + half)
    level = (BODY + DISC) / 2 / BODY / 2
    found = []
    for edge in ("upper", "lower"):
        places = []
        for column in across:
            line = picture[:, column]
            bright = np.flatnonzero(line > level)
            place = bright[0] - 1 if edge == "upper" else bright[-1]
            places.append(place + (level - line[place]) / (line[place + 1] - line[place]) + 0.5)
        slope, start = np.polyfit(across + 0.5, places, 1)
        found.append((np.degrees(np.arctan(slope)), start + slope * columns / 2))
    return found


@pytest.mark.parametrize("spacing", [(4.0, 0.6, 0.6), (4.0, 0.5, 0.9), (4.0, 0.9, 0.45), (4.0, 0.25, 0.25)])
@pytest.mark.parametrize("tilt", TILTS)
def test_a_tilted_disc_is_level_within_one_degree_and_one_pixel(tilt, spacing):
    rows, columns = int(170 / spacing[1]), int(150 / spacing[2])
    disc = cut(BlockSpine(tilt=tilt, spacing=spacing, shape=(11, rows, columns)))
    assert disc.pixels.shape == (15, 192, 320) == disc_shape(320)
    # 112 rows hold the disc and 40 % of either body.
    assert disc.spacing_mm == pytest.approx((GAP_MM + 0.8 * HEIGHT_MM) / 112)
    half = GAP_MM / 2 / disc.spacing_mm
    for (angle, row), expected in zip(endplates(disc.pixels[7], disc.spacing_mm), (96 - half, 96 + half), strict=True):
        assert abs(angle) < 1
        assert row == pytest.approx(expected, abs=1)


@pytest.mark.parametrize("size", [320, 200, 60])
def test_the_middle_of_the_volume_holds_both_endplates_and_the_disc(size):
    disc = cut(BlockSpine(tilt=12), size=size)
    assert disc.pixels.shape == (15, round(0.6 * size), size)
    rows = round(0.35 * size)
    top = (disc.pixels.shape[1] - rows) // 2
    column = disc.pixels[7, top : top + rows, size // 2]
    assert column[0] == pytest.approx(0.5, abs=0.02)
    assert column[-1] == pytest.approx(0.5, abs=0.02)
    share = GAP_MM / (GAP_MM + 0.8 * HEIGHT_MM)
    assert np.mean(column > 0.65) == pytest.approx(share, abs=2 / rows)


def test_bodies_are_a_half_and_what_is_bright_is_clipped():
    spine = BlockSpine(tilt=-20)
    disc = cut(spine)
    assert disc.pixels.dtype == np.float32
    assert disc.pixels[7, 20, 160] == pytest.approx(0.5, abs=1e-3)
    assert disc.pixels[7, 96, 160] == pytest.approx(0.5 * DISC / BODY, abs=1e-3)
    bright = replace(spine.volume, pixels=np.where(spine.volume.pixels > 300, 1000, spine.volume.pixels))
    clipped = disc_volume(bright, spine.vertebrae["L4"], spine.vertebrae["L5"])
    assert clipped.pixels.max() == 1
    assert clipped.pixels.min() >= 0


@pytest.mark.parametrize(("gain", "shift"), [(0.01, 0), (7, 0), (3, -1000)])
def test_the_scale_and_the_black_of_a_scanner_do_not_matter(gain, shift):
    """SPIDER's volumes run from -1000: an intensity of 0 is no black there."""
    spine = BlockSpine()
    pixels = spine.volume.pixels.copy()
    pixels[:, :30] = 0  # air: what the darkest pixels of a volume are
    black = replace(spine.volume, pixels=pixels)
    other = replace(spine.volume, pixels=pixels * gain + shift)
    plain = disc_volume(black, spine.vertebrae["L4"], spine.vertebrae["L5"])
    scaled = disc_volume(other, spine.vertebrae["L4"], spine.vertebrae["L5"])
    assert np.abs(plain.pixels - scaled.pixels).max() < 1e-4


def test_each_slice_has_its_own_gain_where_it_shows_bone():
    disc = cut(BlockSpine(bias=0.08))
    inner = disc.pixels[4:11, 20, 160]
    np.testing.assert_allclose(inner, 0.5, atol=1e-3)
    # Slices beyond 15 mm take the gain of the last one within, and keep what the bias makes of them.
    assert disc.pixels[11, 20, 160] == pytest.approx(0.5 * 1.32 / 1.24, abs=1e-3)


def test_a_slice_of_other_tissue_keeps_the_gain_of_its_neighbour():
    """Beyond the bodies there is background within the corners: it must not be blown up to a half."""
    disc = cut(BlockSpine(half_slices=2))
    assert disc.pixels[7 - 3, 20, 160] == pytest.approx(0.5 * BACKGROUND / BODY, abs=1e-3)


@pytest.mark.parametrize(("slices", "middle"), [(5, 2.0), (11, 8.6), (30, 14.4)])
def test_the_middle_slice_is_that_of_the_bodies_and_the_rest_is_padding(slices, middle):
    spine = BlockSpine(shape=(slices, 300, 260), middle=middle, half_slices=20)
    disc = cut(spine)
    seen = [index for index in range(15) if disc.pixels[index].any()]
    assert seen == [index for index in range(15) if 0 <= index - 7 + int(middle + 0.5) < slices]
    assert disc.matrix[0].tolist() == [1, 0, 0, int(middle + 0.5) - 7]


@pytest.mark.parametrize(("slice_mm", "step"), [(6.0, 1), (2.6, 1), (2.0, 2), (0.9, 4)])
def test_of_thin_slices_every_nth_is_taken(slice_mm, step):
    spine = BlockSpine(spacing=(slice_mm, 0.6, 0.6), shape=(61, 300, 260), middle=30, half_slices=30)
    marked = spine.volume.pixels * (np.arange(61) % step == 30 % step)[:, None, None]
    disc = disc_volume(replace(spine.volume, pixels=marked), spine.vertebrae["L4"], spine.vertebrae["L5"])
    assert disc.matrix[0, 0] == step
    assert disc.pixels[:, 20, 160] == pytest.approx(0.5, abs=1e-3)


def test_the_matrix_leads_back_to_the_volume():
    """A mark at a corner of a body lies where the matrix says, whatever the shape of pixels."""
    spine = BlockSpine(tilt=25, spacing=(4.0, 0.5, 0.8), shape=(11, 340, 200))
    column, row = np.floor(spine.vertebrae["L4"].corners[2]).astype(int)
    pixels = np.full_like(spine.volume.pixels, BODY)
    pixels[6, row, column] = 2 * BODY
    disc = disc_volume(replace(spine.volume, pixels=pixels), spine.vertebrae["L4"], spine.vertebrae["L5"])
    bright = np.argwhere(disc.pixels > 0.51)
    place = np.average(bright, axis=0, weights=disc.pixels[tuple(bright.T)] - 0.5)
    np.testing.assert_allclose(disc.matrix @ [*place, 1], [6, row, column], atol=0.15)


def test_shrinking_averages_instead_of_skipping():
    """Stripes finer than the result's pixels must come out grey, not as a pattern that is not there."""
    spine = BlockSpine(spacing=(4.0, 0.08, 0.6), shape=(3, 2200, 260), middle=1)
    stripes = np.where(np.arange(2200) % 3 == 0, 300.0, 150.0)[None, :, None] * np.ones((3, 1, 260))
    volume = replace(spine.volume, pixels=stripes.astype(np.float32))
    disc = disc_volume(volume, spine.vertebrae["L4"], spine.vertebrae["L5"])
    assert disc.pixels[7, 40:150, 100:220].std() < 0.02


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            lambda upper, lower: (replace(upper, corners=upper.corners - np.array([0, 150])), lower),
            "L4/L5 lies outside the field",
        ),
        (
            lambda upper, lower: (replace(upper, corners=upper.corners + np.array([120, 0])), lower),
            "L4/L5 lies outside the field",
        ),
        (lambda upper, lower: (replace(upper, slice=40.0), lower), "L4/L5 lies outside the field"),
        (lambda upper, lower: (lower, upper), "not those of one body above another"),
        (
            lambda upper, lower: (replace(upper, corners=upper.corners[::-1]), lower),
            "not those of one body|without length",
        ),
        (lambda upper, lower: (replace(upper, corners=upper.corners * np.nan), lower), "L4 or L5 are not finite"),
        (
            lambda upper, lower: (replace(upper, corners=upper.corners - OUTER * [[0, 1e6]]), lower),
            r"corners of L4 are \d{6} mm apart",
        ),
        (
            lambda upper, lower: (upper, replace(lower, corners=lower.corners + OUTER[::-1] * [[1e6, 90]])),
            r"corners of L5 are \d{6} mm apart",
        ),
        (
            lambda upper, lower: (upper, replace(lower, corners=lower.corners + np.array([0, 60]))),
            "46 mm between L4 and L5: no disc is as high",
        ),
    ],
)
def test_corners_that_make_no_disc_are_refused(change, reason):
    spine = BlockSpine()
    with pytest.raises(DecodeError, match=reason):
        disc_volume(spine.volume, *change(spine.vertebrae["L4"], spine.vertebrae["L5"]))


def test_volumes_that_hold_no_disc_are_refused():
    spine = BlockSpine()
    flat = replace(spine.volume, pixels=spine.volume.pixels[5:6])
    with pytest.raises(DecodeError, match="a volume of one slice"):
        disc_volume(flat, spine.vertebrae["L4"], spine.vertebrae["L5"])
    axial = replace(spine.volume, spacing_mm=(0.5, 4.0, 0.5))
    with pytest.raises(DecodeError, match=r"pixels of 4\.0 × 0\.5 mm .* too coarse"):
        disc_volume(axial, *spine.vertebrae.values())
    with pytest.raises(DecodeError, match="L4 and L5 are black"):
        disc_volume(replace(spine.volume, pixels=spine.volume.pixels * 0), *spine.vertebrae.values())


def test_a_wedge_is_level_between_its_endplates():
    """Both endplates of a wedge-shaped disc are equally far from horizontal."""
    spine = BlockSpine(shape=(11, 320, 260))
    lower = spine.vertebrae["L5"]
    turn = cv2.getRotationMatrix2D(tuple(float(each) for each in lower.corners.mean(0)), -10, 1)
    turned = Vertebra("L5", lower.slice, lower.corners @ turn[:, :2].T + turn[:, 2])
    disc = disc_volume(spine.volume, spine.vertebrae["L4"], turned)
    back = np.linalg.inv(disc.matrix[1:, 1:3])
    for body, (first, second), expected in ((spine.vertebrae["L4"], (3, 2), -5), (turned, (0, 1), 5)):
        row, column = back @ (body.corners[second] - body.corners[first])[::-1]
        assert np.degrees(np.arctan2(row, column)) == pytest.approx(expected, abs=0.01)
