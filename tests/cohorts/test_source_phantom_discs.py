"""Phantom discs: listed without drawing, cut level between the true corners, with what is changed in a mask."""

from collections import Counter

import numpy as np
import pytest
from disc_layouts import ingest

from mskray.cohorts.schema import ImageFormat
from mskray.cohorts.shards import _fitted_mask
from mskray.cohorts.sources import get_source
from mskray.cohorts.sources.phantom_discs import MASKED
from mskray.imaging.discs import disc_volume
from mskray.imaging.phantoms.spine import SpineSpec, spine
from mskray.imaging.spine import SPINE_TASKS

SOURCE = get_source("phantom-discs")


def test_discs_are_listed_with_their_grades():
    options = SOURCE.Options(patients=40, seed=2)
    items = list(SOURCE.items(None, options))
    assert len(items) == len({item.instance_id for item in items}) == 240
    assert Counter(item.view for item in items)["L4/L5"] == 40
    assert [task.name for task in SOURCE.tasks(None, options)] == list(SPINE_TASKS)
    for task in SOURCE.tasks(None, options):
        values = {item.labels[task.name] for item in items}
        assert values - {None} == set(range(len(task.classes)))
        assert None in values
    others = SOURCE.items(None, options.model_copy(update={"seed": 3}))
    assert {item.patient_id for item in items}.isdisjoint(item.patient_id for item in others)


def test_phantom_discs_are_level_and_centred():
    """The bodies' masks, cut like the volume, end in endplates that lie level about the middle row."""
    phantom = spine(SpineSpec(1, seed=5, changes=0), 0)
    for number, disc in enumerate(reversed(phantom.discs[:-1]), 2):
        cut = disc_volume(phantom.volume, disc.upper, disc.lower)
        above, below = (cut.of_mask(phantom.masks == label)[7] for label in (number, number - 1))
        columns = np.arange(120, 200)
        last = 191 - above[::-1, columns].argmax(0) + 1
        first = below[:, columns].argmax(0)
        angles = [np.degrees(np.arctan(np.polyfit(columns, edge, 1)[0])) for edge in (last, first)]
        assert abs(np.mean(angles)) < 1, disc.level
        # Endplates are hollow by a millimetre or two, and not equally.
        assert np.mean([last.mean(), first.mean()]) == pytest.approx(96, abs=1.5 / cut.spacing_mm), disc.level


def test_what_is_changed_is_in_the_mask(tmp_path):
    options = {"patients": 2, "seed": 11, "changes": 4.0, "missing": 0.0}
    spec = SOURCE.Options(**options)
    found = ingest("phantom-discs", None, tmp_path, size=160, **options)
    assert len(found.rows) == 12
    assert found.reasons == {}
    assert found.image.shape == (12, 15, 96, 160)
    drawn = 0
    for item in list(SOURCE.items(None, spec))[:6]:
        mask = SOURCE.load(item.path, b"", spec).mask
        for bit, task in enumerate(MASKED):
            seen = (mask >> bit & 1).any()
            # A small change may lie beside the slices, never where the grade is 0.
            assert not seen or item.labels[task] == 1
            drawn += seen
            if seen and task == "upper_marrow":
                assert np.nonzero(mask >> bit & 1)[1].mean() < 96
    assert drawn >= 3


def test_bits_of_a_mask_survive_shrinking():
    mask = np.zeros((15, 192, 320), np.uint8)
    mask[7, 100, 200], mask[7, 101, 201] = 1, 4
    image = ImageFormat(size=80, dtype="uint8", fit="pad", slices=15, rows=48)
    small = _fitted_mask(mask, image)
    assert small.shape == (15, 48, 80)
    assert small[7, 25, 50] == 5
    assert np.count_nonzero(small) == 1


def test_corners_may_be_off_as_a_detectors_are():
    options = SOURCE.Options(patients=1, seed=4)
    off = options.model_copy(update={"corner_error": 1.0})
    right, wrong, again = (SOURCE.load("phantom-discs/0/4", b"", each).image for each in (options, off, off))
    assert not np.array_equal(right.pixels, wrong.pixels)
    np.testing.assert_array_equal(wrong.pixels, again.pixels)
    assert wrong.pixel_spacing_mm == pytest.approx(right.pixel_spacing_mm, rel=0.15)
