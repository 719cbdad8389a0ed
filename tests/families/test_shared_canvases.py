"""Radiographs on their way to several models: one canvas for all that have the same format."""

import pickle
from dataclasses import replace

import numpy as np
from serving_samples import fitted, radiograph

from mskray.ensemble import Seen
from mskray.families import Images, family
from mskray.imaging.regions import fit_to_format

PICTURES = [radiograph(seed, 96 + 40 * seed, 80 + 24 * seed, np.uint16 if seed % 2 else np.uint8) for seed in range(4)]


def test_canvases_are_made_once_for_each_format_and_are_those_of_the_cohort() -> None:
    images = Seen(PICTURES, flags=[0] * len(PICTURES))
    for size, fit, dtype in ((64, "pad", "uint8"), (96, "stretch", "uint16"), (64, "stretch", "uint8")):
        made = images.canvases(size, fit, dtype)
        assert images.canvases(size, fit, dtype) is made
        for canvas, pixels in zip(made, PICTURES, strict=True):
            assert np.array_equal(canvas, fit_to_format(pixels, size, fit, dtype)[0])


def test_other_pixels_have_other_canvases() -> None:
    images = Seen(PICTURES)
    images.canvases(64, "pad", "uint8")
    others = replace(images, pixels=PICTURES[::-1])
    first = others.canvases(64, "pad", "uint8")[0]
    assert np.array_equal(first, fit_to_format(PICTURES[-1], 64, "pad", "uint8")[0])


def test_canvases_do_not_travel() -> None:
    images = Images(PICTURES)
    before = len(pickle.dumps(images))
    images.canvases(512, "pad", "uint8")
    assert len(pickle.dumps(images)) == before
    assert len(pickle.loads(pickle.dumps(images)).canvases(64, "pad", "uint8")) == len(PICTURES)


def test_a_member_says_the_same_whether_or_not_others_looked_before() -> None:
    models = [fitted(seed, ("KNEE",), size=size) for seed, size in ((0, 64), (1, 64), (2, 96))]
    predictors = [family(each.family).predictor(each, "cpu") for each in models]
    shared = Images(PICTURES)
    for predictor in predictors + predictors[::-1]:
        alone = predictor(Images(PICTURES)).probabilities
        assert np.array_equal(predictor(shared).probabilities, alone)
