"""Flags taken out of phantoms whose twins without flags are known: what is filled, how well, and what is left alone."""

import numpy as np
import pytest

from mskray.imaging.flags import flag_mask, remove_flags
from mskray.imaging.phantoms import PhantomSpec, render, studies

PATIENTS = 12


def pairs(**options):
    """(image with a flag, its finding, the same image without) of every flagged phantom."""
    shown = PhantomSpec(patients=PATIENTS, seed=3, image_size=224, flag_fraction=1.0, **options)
    bare = PhantomSpec(patients=PATIENTS, seed=3, image_size=224, flag_fraction=0.0, **options)
    for study in studies(shown):
        image, twin = render(shown, study.index, 0), render(bare, study.index, 0)
        for finding in image.findings:
            if finding.kind == "flag":
                yield image, finding, twin


def square(level: int = 60, letter: int = 250, size: int = 64) -> np.ndarray:
    pixels = np.full((size, size), level, np.uint8)
    pixels[20:32, 24:27] = letter
    pixels[29:32, 24:32] = letter
    return pixels


@pytest.mark.parametrize("bits", [8, 16])
def test_a_removed_flag_leaves_what_the_same_image_shows_without_one(bits):
    full = 2**bits - 1
    before, after, blank, covered = [], [], [], []
    for image, flag, twin in pairs(bits=bits):
        x, y, w, h = flag.box
        window = np.s_[y : y + h, x : x + w]
        made = remove_flags(image.pixels, [flag.box])
        true = twin.pixels[window].astype(float)
        before.append(np.abs(image.pixels[window] - true).mean() / full)
        after.append(np.abs(made.pixels[window] - true).mean() / full)
        blank.append(true.mean() / full)
        covered.append(made.changed[window][flag.mask > 0].mean())
        assert made.pixels.dtype == image.pixels.dtype
        assert (made.pixels[~made.changed] == image.pixels[~made.changed]).all()
    assert len(before) > 10
    assert np.mean(after) < 0.1 * np.mean(before)
    assert np.mean(after) < 0.2 * np.mean(blank), "no better than a box blanked with a constant"
    assert np.mean(covered) > 0.97


def test_on_a_plain_ground_the_letter_becomes_the_ground():
    pixels = square()
    made = remove_flags(pixels, [(24, 20, 8, 12)])
    assert (made.pixels == 60).all()
    assert made.changed[pixels == 250].all()
    assert made.changed.sum() < 4 * (pixels == 250).sum(), "not the whole box"
    assert (pixels == square()).all(), "the given image is left as it was"


def test_a_dark_letter_on_a_bright_plate_is_removed_too():
    made = remove_flags(square(level=220, letter=15), [(24, 20, 8, 12)])
    assert (made.pixels == 220).all()


def test_a_slope_goes_on_under_the_letter():
    pixels = np.tile(np.linspace(40, 140, 64).astype(np.uint8), (64, 1))
    flagged = np.where(square() == 250, np.uint8(250), pixels)
    made = remove_flags(flagged, [(24, 20, 8, 12)])
    assert np.abs(made.pixels.astype(int) - pixels).max() <= 6


def test_filled_pixels_have_the_grain_of_their_surroundings():
    noise = np.random.default_rng(0).normal(100, 8, (64, 64))
    flagged = np.where(square() == 250, 250, noise).clip(0, 255).astype(np.uint8)
    made = remove_flags(flagged, [(24, 20, 8, 12)])
    assert made.pixels[made.changed].std() == pytest.approx(8, rel=0.4)


def test_protected_pixels_stay_where_boxes_overlap():
    pixels = square()
    made = remove_flags(pixels, [(24, 20, 8, 12)], protected=[(24, 26, 8, 6)])
    assert (made.pixels[26:32, 24:32] == pixels[26:32, 24:32]).all()
    assert (made.pixels[20:26, 24:27] == 60).all()
    assert not made.changed[26:32, 24:32].any()


def test_of_two_bright_things_in_a_box_the_one_outlined_goes():
    letter = square() == 250
    pixels = square()
    pixels[20:32, 29:31] = 240
    made = remove_flags(pixels, [(24, 20, 8, 12)])
    assert (made.pixels[20:28, 29:31] == 60).all()
    bar, outline = np.zeros_like(letter), letter.copy()
    bar[20:27, 29:31], outline[29:32, 27:] = True, False
    made = remove_flags(pixels, [(24, 20, 8, 12)], outlines=[outline])
    assert (made.pixels[bar] == 240).all()
    assert made.changed[20:32, 24:27].all()
    none = remove_flags(pixels, [(24, 20, 8, 12)], outlines=[np.zeros_like(letter)])
    assert not none.changed.any()


@pytest.mark.parametrize(
    "box", [(-5, -5, 9, 9), (60, 60, 30, 30), (200, 200, 9, 9), (0, 0, 64, 64), (-9, -9, 90, 90), (5.5, 5.5, 0.2, 0.2)]
)
def test_boxes_at_and_beyond_the_edge_are_borne(box):
    made = remove_flags(square(), [box])
    assert made.pixels.shape == (64, 64)
    assert flag_mask(square(), box).shape == (64, 64)


def test_no_flag_changes_nothing():
    made = remove_flags(square(), [])
    assert (made.pixels == square()).all()
    assert not made.changed.any()


def test_the_mask_of_a_flag_is_its_letter():
    found, true = flag_mask(square(), (24, 20, 8, 12)), square() == 250
    assert found[true].all()
    assert (found & ~true).sum() <= 1.5 * true.sum()
