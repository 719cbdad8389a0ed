"""Phantom spines: the same every time, true to their corners and masks, and their grades to be seen.

.venv/bin/pytest tests/imaging/test_spine_phantoms.py
"""

from collections import Counter, defaultdict
from dataclasses import replace
from itertools import pairwise

import cv2
import numpy as np
import pytest

from mskray.errors import UserError
from mskray.imaging.phantoms.spine import Disc, SpinePhantom, SpineSpec, grades, spine
from mskray.imaging.phantoms.spine_flesh import CANAL
from mskray.imaging.spine import LEVELS, SPINE_TASKS
from mskray.imaging.volumes.volume import to_sagittal

SPEC = SpineSpec(patients=14, seed=3, missing=0.1)
MANY = SpineSpec(patients=500, seed=5, missing=0.1)
CHANGES = ("upper_endplate", "lower_endplate", "upper_marrow", "lower_marrow")


@pytest.fixture(scope="module")
def phantoms() -> list[SpinePhantom]:
    return [spine(SPEC, index) for index in range(SPEC.patients)]


# The same every time


def test_a_spine_is_a_function_of_its_seed_and_index(phantoms: list[SpinePhantom]) -> None:
    again = spine(replace(SPEC, patients=10_000_000), 2)
    np.testing.assert_array_equal(again.volume.pixels, phantoms[2].volume.pixels)
    np.testing.assert_array_equal(again.masks, phantoms[2].masks)
    assert [disc.labels for disc in again.discs] == [disc.labels for disc in phantoms[2].discs]
    other = spine(replace(SPEC, seed=4), 2)
    assert other.volume.pixels.shape != phantoms[2].volume.pixels.shape or (
        (other.volume.pixels != phantoms[2].volume.pixels).mean() > 0.5
    )


def test_grades_of_a_listing_are_those_that_are_drawn(phantoms: list[SpinePhantom]) -> None:
    listed = grades(SPEC, 5)
    assert [disc.grades for disc in phantoms[5].discs] == [disc.grades for disc in listed]
    assert [disc.labels for disc in phantoms[5].discs] == [disc.labels for disc in listed]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"patients": 0}, "patients=0: give a whole number from 1"),
        ({"seed": -1}, "seed=-1"),
        ({"changes": 5.0}, r"changes=5.0: give a number from 0"),
        ({"missing": 1.5}, "missing=1.5"),
    ],
)
def test_a_spec_out_of_range_is_refused(wrong: dict[str, float], said: str) -> None:
    with pytest.raises(UserError, match=said):
        SpineSpec(**({"patients": 3} | wrong))  # type: ignore[arg-type]


def test_a_spine_beyond_the_cohort_is_refused() -> None:
    with pytest.raises(UserError, match="phantom spine 14: the cohort has spines 0 to 13"):
        spine(SPEC, 14)


# Geometry


def test_volumes_vary_and_are_sagittal(phantoms: list[SpinePhantom]) -> None:
    for phantom in phantoms:
        volume = phantom.volume
        assert to_sagittal(volume).pixels is volume.pixels or np.shares_memory(
            to_sagittal(volume).pixels, volume.pixels
        )
        np.testing.assert_allclose(to_sagittal(volume).affine, volume.affine)
        assert 9 <= len(volume.pixels) <= 15
        across, down, along = volume.spacing_mm
        assert volume.thickness_mm is not None
        assert 3 <= volume.thickness_mm <= across <= 6
        assert 0.5 <= down == along <= 1.2
        np.testing.assert_allclose(np.linalg.norm(volume.affine[:3, :3], axis=0), (along, down, across))
        assert volume.pixels.dtype == np.float32
        assert volume.pixels.shape == phantom.masks.shape
    assert len({phantom.volume.pixels.shape for phantom in phantoms}) == len(phantoms)


def test_seven_bodies_in_order_and_in_the_field_of_view(phantoms: list[SpinePhantom]) -> None:
    for phantom in phantoms:
        assert tuple(body.level for body in phantom.vertebrae) == LEVELS
        pixel = phantom.volume.spacing_mm[1]
        slices, rows, columns = phantom.volume.pixels.shape
        for body in phantom.vertebrae:
            anterior_up, posterior_up, posterior_down, anterior_down = body.corners
            assert anterior_up[0] < posterior_up[0]
            assert anterior_down[0] < posterior_down[0]
            assert anterior_up[1] < anterior_down[1]
            assert posterior_up[1] < posterior_down[1]
            assert (body.corners > 4).all()
            assert (body.corners < (columns - 5, rows - 5)).all()
            assert 0 <= body.slice <= slices - 1
            width = np.linalg.norm(posterior_down - anterior_down) * pixel
            height = np.linalg.norm((anterior_down + posterior_down - anterior_up - posterior_up) / 2) * pixel
            assert 19 <= width <= 40
            assert 18 <= height <= 34
        for above, below in pairwise(phantom.vertebrae):
            gap = (below.corners[:2].mean(axis=0) - above.corners[2:].mean(axis=0)) * pixel
            assert 2 < np.linalg.norm(gap) < 17
            assert gap[1] > 0


def test_corners_are_those_of_the_masks(phantoms: list[SpinePhantom]) -> None:
    below = []
    for phantom in phantoms:
        for number, body in enumerate(reversed(phantom.vertebrae[:-1]), start=1):
            mask = phantom.masks[round(body.slice)] == number
            polygon = np.zeros(mask.shape, np.uint8)
            cv2.fillPoly(polygon, [np.rint((body.corners - 0.5) * 16).astype(np.int32)], 1, shift=4)
            inside = polygon > 0
            # Walls and endplates are hollow, corners round: the mask lies in the polygon and fills most of it.
            assert (mask & ~inside).sum() < 0.03 * mask.sum(), body.level
            assert mask.sum() > 0.65 * inside.sum(), body.level
            edge = np.argwhere(mask)[:, ::-1] + 0.5
            away = np.linalg.norm(edge[None] - body.corners[:, None], axis=2).min(axis=1)
            assert (away * phantom.volume.spacing_mm[1] < 3).all(), body.level
            below.append(np.argwhere(mask)[:, 0].mean() - np.argwhere(inside)[:, 0].mean())
    # Both endplates are hollow alike, so that half a pixel would show here.
    assert abs(np.mean(below)) < 0.2


def test_discs_lie_between_their_bodies(phantoms: list[SpinePhantom]) -> None:
    for phantom in phantoms:
        assert [disc.level for disc in phantom.discs] == [f"{above}/{below}" for above, below in pairwise(LEVELS)]
        for number, disc in enumerate(reversed(phantom.discs), start=201):
            middle = round((disc.upper.slice + disc.lower.slice) / 2)
            centre = np.argwhere(phantom.masks[middle] == number).mean(axis=0)[::-1] + 0.5
            gap = np.concatenate([disc.upper.corners[2:], disc.lower.corners[:2]]).mean(axis=0)
            assert np.linalg.norm(centre - gap) * phantom.volume.spacing_mm[1] < 4
        assert set(np.unique(phantom.masks)) <= {*range(9), CANAL, *range(201, 209)}


# Grades


def test_shares_of_grades_are_uneven_as_in_patients() -> None:
    seen = {task: Counter[int]() for task in SPINE_TASKS}
    for index in range(MANY.patients):
        for disc in grades(MANY, index):
            for task, grade in disc.grades.items():
                seen[task][grade] += 1
    share = {task: [count[k] / count.total() for k in range(len(SPINE_TASKS[task]))] for task, count in seen.items()}
    assert share["pfirrmann"] == pytest.approx([0.06, 0.33, 0.30, 0.22, 0.09], abs=0.03)
    assert share["narrowing"][0] > 0.45
    assert share["narrowing"] == sorted(share["narrowing"], reverse=True)
    assert 0.05 < share["narrowing"][3] < 0.16
    for task in CHANGES:
        assert 0.1 < share[task][1] < 0.25, task


def test_degeneration_goes_together_without_being_the_same() -> None:
    found = np.array([list(disc.grades.values()) for index in range(300) for disc in grades(MANY, index)])
    correlation = np.corrcoef(found.T)
    assert 0.4 < correlation[0, 1] < 0.8
    assert (correlation[0, 2:] > 0.05).all()
    assert (correlation[0, 2:] < 0.5).all()
    collapsed = found[found[:, 0] == 4]
    assert collapsed[:, 1].min() >= 2


def test_labels_are_missing_as_asked_and_otherwise_the_grades() -> None:
    missing, whole, count = 0, 0, 0
    for index in range(MANY.patients):
        for disc in grades(MANY, index):
            gaps = [task for task in SPINE_TASKS if disc.labels[task] is None]
            assert all(disc.labels[task] == disc.grades[task] for task in SPINE_TASKS if task not in gaps)
            missing, whole, count = missing + len(gaps), whole + (len(gaps) == len(SPINE_TASKS)), count + 1
    assert missing / (count * len(SPINE_TASKS)) == pytest.approx(0.1, abs=0.015)
    assert whole / count == pytest.approx(0.05, abs=0.01)
    assert all(None not in disc.labels.values() for disc in grades(replace(MANY, missing=0.0), 1))


# Grades are to be seen


def middle_of(disc: Disc, phantom: SpinePhantom) -> tuple[np.ndarray, np.ndarray]:
    """The slice through the middle of a disc, and the mask of its middle third."""
    at = round((disc.upper.slice + disc.lower.slice) / 2)
    number = 200 + len(phantom.discs) - [each.level for each in phantom.discs].index(disc.level)
    mask = phantom.masks[at] == number
    columns = np.flatnonzero(mask.any(axis=0))
    low, high = np.quantile(columns, (0.38, 0.68))
    mask[:, : int(low)] = False
    mask[:, int(high) + 1 :] = False
    return phantom.volume.pixels[at], mask


def test_a_disc_darkens_with_its_pfirrmann_grade(phantoms: list[SpinePhantom]) -> None:
    by_grade = defaultdict(list)
    for phantom in phantoms:
        for disc in phantom.discs:
            picture, mask = middle_of(disc, phantom)
            rows = np.flatnonzero(mask.any(axis=1))
            at = round((disc.upper.slice + disc.lower.slice) / 2)
            beside = phantom.masks[at] == CANAL
            beside[: rows[0] - 10] = False
            beside[rows[-1] + 10 :] = False
            fluid = np.percentile(picture[beside], 80)
            by_grade[disc.grades["pfirrmann"]].append(float(np.median(picture[mask]) / fluid))
    medians = [float(np.median(by_grade[grade])) for grade in range(5)]
    assert all(brighter > darker + 0.06 for brighter, darker in pairwise(medians)), medians


def test_a_disc_loses_height_with_its_narrowing(phantoms: list[SpinePhantom]) -> None:
    by_grade = defaultdict(list)
    natural = dict(zip([disc.level for disc in phantoms[0].discs], (0.72, 0.8, 0.88, 0.95, 1.02, 1.0), strict=True))
    for phantom in phantoms:
        for disc in phantom.discs:
            _, mask = middle_of(disc, phantom)
            # Notches of the endplates make single columns higher.
            height = np.quantile(mask.sum(axis=0)[mask.any(axis=0)], 0.3)
            body = np.linalg.norm(disc.upper.corners[3] - disc.upper.corners[0])
            by_grade[disc.grades["narrowing"]].append(float(height / body / natural[disc.level]))
    medians = [float(np.median(by_grade[grade])) for grade in range(4)]
    assert all(lower < 0.88 * higher for higher, lower in pairwise(medians)), medians


def test_changes_are_seen_against_the_healthy_twin_where_the_masks_say_and_nowhere_else() -> None:
    changed = Counter[str]()
    for index in range(2):
        phantom = spine(SpineSpec(3, seed=11, changes=3.0), index)
        twin = spine(SpineSpec(3, seed=11, changes=0.0), index)
        assert all(disc.truth.keys() == {task for task in CHANGES if disc.grades[task]} for disc in phantom.discs)
        assert not any(disc.truth for disc in twin.discs)
        difference = np.abs(phantom.volume.pixels - twin.volume.pixels)
        fluid = np.median(twin.volume.pixels[twin.masks == CANAL])
        near = np.zeros(difference.shape, bool)
        for disc in phantom.discs:
            for task, mask in disc.truth.items():
                changed[task] += 1
                slices = np.flatnonzero(mask.any(axis=(1, 2)))
                assert 1 <= len(slices) <= 8
                assert (np.diff(slices) == 1).all()
                strongest = mask.sum(axis=(1, 2)).argmax()
                assert difference[strongest][mask[strongest]].mean() > 0.06 * fluid, (disc.level, task)
                near |= mask
        reach = np.ones((2 * round(16 / phantom.volume.spacing_mm[1]) + 1,) * 2, np.uint8)
        close = np.stack([cv2.dilate(each.astype(np.uint8), reach) for each in near]) > 0
        # A notch also moves the disc under it; the rim of a change fades into the next slice.
        close |= np.roll(close, 1, axis=0) | np.roll(close, -1, axis=0)
        assert difference[~close].max() < 0.02 * fluid
    assert min(changed[task] for task in CHANGES) >= 1


def test_changes_lie_anywhere_along_their_endplate() -> None:
    places = [change.along for index in range(200) for disc in grades(MANY, index) for change in disc.changes.values()]
    assert min(places) < -0.5
    assert max(places) > 0.5
    assert abs(np.mean(places)) < 0.1
