"""Levels are counted from below along a chain of bodies, whatever else was found."""

import numpy as np
import pytest

from mskray.imaging.spine import LEVELS
from mskray.imaging.spine_levels import body_areas, body_heights, name_levels


def spine(count: int = 7, bend: float = 0.0) -> np.ndarray:
    """Corners (count, 4, 2) of bodies 32 × 24 px from below, 34 px apart, each turned by `bend` more than the last."""
    corners, at, angle = [], np.array([100.0, 300.0]), -bend * count / 2
    for _ in range(count):
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        corners.append(at + np.array([[-16, -12], [16, -12], [16, 12], [-16, 12]]) @ turn.T)
        at = at + turn @ np.array([0, -34.0])
        angle += bend
    return np.array(corners)


def test_heights_and_areas_are_those_of_the_corners() -> None:
    np.testing.assert_allclose(body_heights(spine(3, 0.2)), 24)
    np.testing.assert_allclose(body_areas(spine(3, 0.2)), 32 * 24)


@pytest.mark.parametrize("bend", [0.0, 0.15, -0.15])
def test_bodies_in_any_order_are_named_from_the_sacrum_upwards(bend: float) -> None:
    corners, order = spine(7, bend), np.array([3, 0, 6, 1, 5, 2, 4])
    chain = name_levels(corners[order], np.full(7, 0.9), (order == 0) * 0.95)
    assert order[list(chain.members)].tolist() == list(range(7))
    assert chain.levels == LEVELS[::-1]
    assert chain.notes == ()


@pytest.mark.parametrize(
    ("gone", "levels", "note"),
    [
        ([0], ("L5", "L4", "L3", "L2", "L1", "T12"), "no sacrum in view: the lowest body is taken for L5"),
        ([3], ("S1", "L5", "L4", "L2", "L1", "T12"), "no body was found between L4 and L2"),
        ([5, 6], ("S1", "L5", "L4", "L3", "L2"), None),
        (range(7), (), "no vertebral body was found"),
    ],
)
def test_bodies_that_were_not_found_are_told(gone, levels: tuple[str, ...], note: str | None) -> None:
    left = [each for each in range(7) if each not in gone]
    corners, sacral = spine()[left], np.array([0.9 if each == 0 else 0.05 for each in left])
    chain = name_levels(corners, np.full(len(left), 0.8), sacral)
    assert chain.levels == levels
    assert chain.notes == (() if note is None else (note,))


@pytest.mark.parametrize(
    ("stray", "score", "note"),
    [
        ([60.0, 0.0], 0.6, "1 off the spine left out"),  # beside L3
        ([0.0, 17.0], 0.6, "1 off the spine left out"),  # between two bodies
        ([0.0, 3 * 34.0 + 34], 0.6, "1 below S1 left out"),  # S2
        ([0.0, -4 * 34.0], 0.9, "1 above T12 left out"),  # T11
    ],
)
def test_strays_are_left_out_and_told(stray: list[float], score: float, note: str) -> None:
    corners = spine()
    found = np.concatenate([corners, corners[3:4] + np.array(stray)])
    sacral = np.array([0.95, *[0.05] * 6, 0.05])
    chain = name_levels(found, np.array([*[0.9] * 7, score]), sacral)
    assert chain.members == tuple(range(7))
    assert chain.levels == LEVELS[::-1]
    assert chain.notes == (note,)


def test_of_two_sacral_bodies_the_surer_one_is_s1() -> None:
    found = np.concatenate([spine(), spine()[:1] + np.array([0, 34.0])])
    chain = name_levels(found, np.full(8, 0.9), np.array([0.95, *[0.05] * 6, 0.6]))
    assert chain.levels == LEVELS[::-1]
    assert chain.members[0] == 0


def test_a_body_or_two_are_told_to_be_perhaps_no_spine() -> None:
    for count, note in ((1, "1 body alone: perhaps no lumbar spine"), (2, "2 bodies alone: perhaps no lumbar spine")):
        chain = name_levels(spine(count), np.full(count, 0.9), np.eye(count)[0] * 0.9)
        assert chain.levels == LEVELS[::-1][:count]
        assert chain.notes == (note,)
    assert name_levels(spine(3), np.full(3, 0.9), np.eye(3)[0]).notes == ()
