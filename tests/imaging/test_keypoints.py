"""Key points: bounded, strongest first, the same every time; none where there is nothing to see."""

import re

import cv2
import numpy as np
import pytest

from mskray.imaging.keypoints import KINDS, WIDTHS, Kind, describe, unpack


def picture(seed: int = 0, size: int = 160) -> np.ndarray:
    """Discs of several sizes and greys on a smooth ground."""
    random = np.random.default_rng(seed)
    image = np.full((size, size), 60, np.uint8)
    for _ in range(40):
        place, radius, grey = random.integers(10, size - 10, 2), int(random.integers(3, 12)), int(random.integers(255))
        cv2.circle(image, (int(place[0]), int(place[1])), radius, grey, -1)
    return cv2.GaussianBlur(image, (0, 0), 1.2)


@pytest.mark.parametrize("kind", KINDS)
def test_the_strongest_are_kept_in_a_fixed_order(kind: Kind) -> None:
    image = picture()
    kept, again = describe(image, kind, 20), describe(image.copy(), kind, 20)
    count = len(kept.points)
    assert count == 20 or (kind == "orb" and 12 <= count < 20)  # ORB's coarse levels may not fill their share
    assert unpack(kept.descriptors, kind).shape == (count, WIDTHS[kind])
    np.testing.assert_array_equal(kept.descriptors, again.descriptors)
    assert kept.reason == ""


def test_fewer_surf_points_are_the_first_of_more() -> None:
    few, many = describe(picture(), "surf", 10), describe(picture(), "surf", 20)
    np.testing.assert_array_equal(few.descriptors, many.descriptors[:10])


def test_a_faint_image_has_points_too() -> None:
    """A tenth of the contrast: OpenCV's own thresholds find nothing of it with ORB."""
    faint = (100 + picture() * 0.06).astype(np.uint8)
    assert cv2.ORB.create().detectAndCompute(faint, None)[1] is None
    assert len(describe(faint, "orb", 50).descriptors) > 10


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (np.zeros((96, 96), np.uint8), "flat"),
        (np.full((96, 40), 200, np.uint8), "flat"),
        (np.repeat(np.arange(96, dtype=np.uint8)[None], 96, axis=0), "no .* key point"),
        (picture()[:8, :8], "8 × 8 px is too small"),
    ],
    ids=["black", "white", "ramp", "tiny"],
)
def test_no_key_point_is_said_and_empty(kind: Kind, image: np.ndarray, reason: str) -> None:
    found = describe(image, kind, 100)
    assert found.descriptors.shape[0] == found.points.shape[0] == 0
    assert unpack(found.descriptors, kind).shape == (0, WIDTHS[kind])
    assert re.search(reason, found.reason)


def test_distance_of_unpacked_orb_is_hamming() -> None:
    first, second = np.zeros((1, 32), np.uint8), np.zeros((1, 32), np.uint8)
    second[0, 0], second[0, 5] = 0b10000000, 0b00000111  # one bit and three bits
    assert np.square(unpack(first, "orb") - unpack(second, "orb")).sum() == 4


def test_surf_is_the_last_64_columns_of_mahotas() -> None:
    from mahotas.features import surf

    image = picture(3)
    raw = surf.surf(image, threshold=0.1, max_points=100_000)
    strongest = raw[np.argmax(raw[:, 3])]
    np.testing.assert_allclose(describe(image, "surf", 1).descriptors[0], strongest[6:], rtol=1e-6)


def test_an_image_of_sixteen_bits_is_refused() -> None:
    with pytest.raises(ValueError, match="uint8"):
        describe(np.zeros((64, 64), np.uint16), "sift", 10)
