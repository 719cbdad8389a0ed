"""A network's input: of the asked size, and with exposure evened out where that is asked for."""

import numpy as np
import pytest

from mskray.imaging.inputs import InputFormat
from mskray.imaging.regions import fit_to_canvas


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_as_stored_only_the_size_changes(dtype: type) -> None:
    canvas = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (48, 48), dtype=dtype)
    np.testing.assert_array_equal(InputFormat(48)(canvas), canvas)
    np.testing.assert_array_equal(InputFormat(32)(canvas), fit_to_canvas(canvas, 32)[0])


def test_rescaled_two_exposures_of_one_scene_look_alike() -> None:
    scene = np.random.default_rng(0).uniform(0, 1, (40, 40))
    thin, thick = ((20 + scene * 60).astype(np.uint8), (90 + scene * 120).astype(np.uint8))
    rescale = InputFormat(40, "rescaled")
    difference = np.abs(rescale(thin).astype(int) - rescale(thick).astype(int))
    assert np.abs(thin.astype(int) - thick).mean() > 50
    assert difference.mean() < 3
    assert rescale(thin).min() == 0
    assert rescale(thin).max() == 255
