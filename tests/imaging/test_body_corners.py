"""Corners of bodies from labelled masks: tilted blocks with spinous processes come back to within a pixel."""

from dataclasses import replace

import numpy as np
import pytest
from block_spine import GAP_MM, HEIGHT_MM, lumbar

from mskray.imaging.body_corners import CANAL, mask_bodies
from mskray.imaging.discs import disc_volume
from mskray.imaging.spine import LEVELS


def bodies(spine, labels=None):
    return mask_bodies(replace(spine.volume, pixels=spine.mask() if labels is None else labels))


@pytest.mark.parametrize("spacing", [(4.0, 0.6, 0.6), (4.0, 0.5, 0.9)])
@pytest.mark.parametrize("tilt", [-25, 0, 12])
def test_corners_and_middle_slices_of_tilted_bodies(tilt, spacing):
    spine = lumbar(tilt, spacing=spacing, shape=(11, int(260 / spacing[1]), int(200 / spacing[2])))
    found = bodies(spine)
    assert set(found.found) == set(LEVELS)
    assert not found.missing
    for level, body in spine.vertebrae.items():
        assert found.found[level].slice == pytest.approx(5)
        off = (found.found[level].corners - body.corners) * [spacing[2], spacing[1]]
        # A sharp corner is a pixel's diagonal wide, and the mask is smoothed by one.
        assert np.hypot(*off.T).max() < 1.5 * np.hypot(spacing[1], spacing[2])


@pytest.mark.parametrize("tilt", [-20, 0, 20])
def test_the_sacrum_begins_under_the_lowest_disc(tilt):
    spine = lumbar(tilt)
    sacrum, last = bodies(spine).found["S1"], spine.vertebrae["L5"]
    down = (last.corners[3] - last.corners[0]) / HEIGHT_MM
    np.testing.assert_allclose(sacrum.corners[:2], last.corners[[3, 2]] + GAP_MM * down, atol=1.2)
    np.testing.assert_allclose(sacrum.corners[2:], last.corners[[2, 3]] + (GAP_MM + HEIGHT_MM) * down, atol=2)
    disc = disc_volume(spine.volume, last, sacrum)
    assert disc.spacing_mm == pytest.approx((GAP_MM + 0.8 * HEIGHT_MM) / 112, rel=0.03)


def test_what_a_mask_lacks_is_said():
    spine = lumbar()
    labels = spine.mask()
    labels[labels == 3] = 0  # L3
    labels[labels == 201] = 0
    found = bodies(spine, labels)
    assert set(found.found) == {"T12", "L1", "L2", "L4", "L5"}
    assert found.missing == {
        "L3": "L3 is not in the mask",
        "S1": "the disc L5/S1, whose lower border is the endplate of S1, is not in the mask",
    }
    labels[labels == 1] = 0
    labels[5, 100:104, 100:104] = 1
    labels[labels == 202] = 201
    found = bodies(spine, labels)
    assert found.missing["L5"] == "L5 has no body in its mid-sagittal slice of the mask"
    assert found.missing["S1"].startswith("S1 has no mask, and its height would be that of L5, but L5 has no body")


def test_a_body_at_the_edge_is_no_whole_body():
    spine = lumbar(centre_mm=(78.0, 100.0))
    found = bodies(spine)
    assert found.missing == {"T12": "T12 is cut off by the edge of the image"}


def test_bodies_joined_to_the_arch_end_at_the_canal():
    spine = lumbar(10)
    labels = spine.mask()
    bridged = labels.copy()
    # A pedicle joins each body with its spinous process, through the slice that is taken for the middle.
    rows = np.arange(labels.shape[1])
    for number in range(1, 7):
        place = np.flatnonzero((labels[5] == number).any(1))
        middle = int(place.mean())
        columns = np.flatnonzero((labels[5, middle - 6 : middle + 6] == number).any(0))
        area = (np.abs(rows - middle) < 5)[:, None] & (np.arange(labels.shape[2]) > columns[0] + 9)[None]
        area &= np.arange(labels.shape[2])[None] < columns[-1]
        bridged[5][area & (labels[5] == 0)] = number
    assert (bridged != labels).any()
    for level, body in bodies(spine, bridged).found.items():
        if level != "S1":
            np.testing.assert_allclose(body.corners, spine.vertebrae[level].corners, atol=4)


def test_a_canal_beside_the_middle_slice_bounds_the_body_too():
    spine = lumbar(10)
    labels = spine.mask()
    expected = bodies(spine, labels).found
    beside = labels.copy()
    beside[4][labels[5] == CANAL] = CANAL
    beside[5][labels[5] == CANAL] = 0
    for level, body in bodies(spine, beside).found.items():
        np.testing.assert_array_equal(body.corners, expected[level].corners)
    rows = np.flatnonzero((labels[5] == 3).any(1))
    beside[:, rows[0] : rows[-1] + 1][beside[:, rows[0] : rows[-1] + 1] == CANAL] = 0
    assert bodies(spine, beside).missing["L3"].startswith("L3 has no spinal canal behind it in the mask")
