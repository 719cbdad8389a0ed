"""Phantom pairs: the same for the same seed, a lesion that follows its class, and scans that differ otherwise."""

import numpy as np
import pytest

from mskray.imaging.phantoms.marrow import CHANGES, MarrowPair, MarrowSpec, PlannedPair, marrow_pairs, render_pair

SPEC = MarrowSpec(patients=12, seed=3, image_size=128)


@pytest.fixture(scope="module")
def drawn() -> list[tuple[PlannedPair, MarrowPair]]:
    return [(planned, render_pair(SPEC, planned)) for planned in marrow_pairs(SPEC)]


def test_pairs_are_reproducible_and_their_patients_have_one_to_three() -> None:
    planned = list(marrow_pairs(MarrowSpec(patients=300, seed=5, shares=(1, 1, 2))))
    counts = np.bincount([each.patient for each in planned])
    assert set(counts) == {1, 2, 3}
    shares = np.bincount([each.change for each in planned]) / len(planned)
    np.testing.assert_allclose(shares, (0.25, 0.25, 0.5), atol=0.07)
    once, again = render_pair(SPEC, planned[0]), render_pair(SPEC, planned[0])
    np.testing.assert_array_equal(once.pixels, again.pixels)
    other = render_pair(MarrowSpec(patients=12, seed=4, image_size=128), planned[0])
    assert (other.pixels != once.pixels).mean() > 0.5


def test_the_lesion_follows_the_class(drawn: list[tuple[PlannedPair, MarrowPair]]) -> None:
    assert {CHANGES[planned.change] for planned, _ in drawn} == set(CHANGES)
    for planned, pair in drawn:
        before, after = pair.masks.sum(axis=(1, 2))
        change = CHANGES[planned.change]
        assert after > 0
        if change == "persisted":
            assert 0.7 < after / before < 1.4
        else:
            assert (after < before) == (change == "improved")
            assert min(before, after) < 0.8 * max(before, after)


def test_a_lesion_is_bright_marrow(drawn: list[tuple[PlannedPair, MarrowPair]]) -> None:
    """Against a ring around it, where it is fully grown; growth plates and muscle may lie in the ring."""
    import cv2

    for _, pair in drawn:
        scan = int(np.argmax(pair.severities))
        mask, pixels = pair.masks[scan], pair.pixels[scan].astype(float)
        ring = cv2.dilate(mask, np.ones((9, 9), np.uint8)) - cv2.dilate(mask, np.ones((5, 5), np.uint8))
        assert pixels[mask > 0].mean() > 1.3 * pixels[ring > 0].mean()


def test_what_is_no_lesion_differs_as_well(drawn: list[tuple[PlannedPair, MarrowPair]]) -> None:
    """Neither the mean grey level nor plain subtraction gives the class away."""
    signs = {"regressed": -1, "improved": 1}
    right = [
        (pair.pixels[0].mean() > pair.pixels[1].mean()) == (signs[CHANGES[planned.change]] > 0)
        for planned, pair in drawn
        if CHANGES[planned.change] in signs
    ]
    assert 0.2 < np.mean(right) < 0.8
    for _, pair in drawn:
        assert pair.pixels.shape == (2, 128, 128)
        assert pair.pixels.dtype == np.uint8
        assert np.abs(pair.pixels[0].astype(int) - pair.pixels[1]).mean() > 5
