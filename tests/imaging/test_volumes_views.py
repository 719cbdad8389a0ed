"""Views of a volume: every voxel keeps its place in the patient, and axes run where the view says."""

from dataclasses import replace
from itertools import permutations, product

import numpy as np
import pytest

from mskray.imaging.decode import DecodeError
from mskray.imaging.volumes import Volume, check_volume, orientation, spacing_of, to_plane, to_sagittal
from mskray.imaging.volumes.montage import heat_montage


def make_volume(directions: np.ndarray, shape: tuple[int, int, int] = (2, 3, 4)) -> Volume:
    """directions: (3, 3), the step in mm of one slice, row and column. Every voxel has a value of its own."""
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = np.asarray(directions, float)[::-1].T, (-5, 7, 11)
    pixels = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    return Volume(pixels, spacing_of(affine), affine, thickness_mm=3.0, modality="MR", notes=("a note",))


def places(volume: Volume) -> dict[float, tuple[float, ...]]:
    """Grey level → where it lies in the patient."""
    return {
        float(volume.pixels[s, r, c]): tuple(np.round(volume.affine[:3] @ [c, r, s, 1], 6))
        for s, r, c in np.ndindex(*volume.pixels.shape)
    }


AXES = np.diag([1.5, 2.5, 4.0])
STORED = [
    np.array(order) * np.array(signs)[:, None] for order in permutations(AXES) for signs in product((1, -1), repeat=3)
]


@pytest.mark.parametrize("directions", STORED)
def test_any_way_of_storing_gives_the_same_sagittal_volume(directions: np.ndarray) -> None:
    volume = make_volume(directions)
    view = to_sagittal(volume)
    np.testing.assert_allclose(view.axes, [(1, 0, 0), (0, 0, -1), (0, 1, 0)], atol=1e-12)
    assert view.spacing_mm == (1.5, 4.0, 2.5)  # left, superior, posterior
    assert view.spacing_mm == pytest.approx(spacing_of(view.affine))
    assert places(view) == places(volume)
    assert (view.modality, view.notes) == ("MR", ("a note",))


def test_thickness_is_that_of_slices_alone() -> None:
    sagittal, axial = make_volume(AXES), make_volume(AXES[[2, 1, 0]])
    assert to_sagittal(sagittal).thickness_mm == 3.0
    assert to_sagittal(axial).thickness_mm is None


def test_what_is_missing_is_known_in_slices_alone() -> None:
    volume = replace(make_volume(AXES, (5, 3, 4)), missing=(1, 2))
    black = {float(level) for level in volume.pixels[1:3].ravel()}
    assert to_sagittal(volume).missing == (1, 2)
    turned = to_sagittal(replace(make_volume(AXES * [[-1], [1], [1]], (5, 3, 4)), missing=(1, 2)))
    assert turned.missing == (2, 3)
    assert {float(level) for level in turned.pixels[list(turned.missing)].ravel()} == black
    assert to_plane(volume, "axial").missing == ()


@pytest.mark.parametrize(
    ("plane", "axes"),
    [
        ("axial", [(0, 0, 1), (0, 1, 0), (1, 0, 0)]),
        ("coronal", [(0, 1, 0), (0, 0, -1), (1, 0, 0)]),
    ],
)
def test_other_planes(plane: str, axes: list) -> None:
    volume = make_volume(-AXES)
    view = to_plane(volume, plane)
    np.testing.assert_allclose(view.axes, axes, atol=1e-12)
    assert places(view) == places(volume)


def test_an_oblique_volume_stays_oblique_and_in_place() -> None:
    angle = np.radians(25)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    volume = make_volume(STORED[13] @ turn.T)
    view = to_sagittal(volume)
    assert places(view) == places(volume)
    plane, off = orientation(view)
    assert plane == "sagittal"
    assert off == pytest.approx(25)
    assert view.axes[0] @ (1, 0, 0) == pytest.approx(np.cos(angle))


@pytest.mark.parametrize(("first", "plane"), [(0, "sagittal"), (1, "coronal"), (2, "axial")])
def test_orientation_names_the_slices_plane(first: int, plane: str) -> None:
    assert orientation(make_volume(np.roll(-AXES, -first, axis=0))) == (plane, pytest.approx(0))


def test_a_stack_that_leans_is_named_by_its_slices() -> None:
    leaning = np.array([(2.0, 0, 1.5), (0, 0, -1), (0, 1, 0)])
    assert orientation(make_volume(leaning)) == ("sagittal", pytest.approx(0))


@pytest.mark.parametrize(
    "bad",
    [
        np.diag([1, 1, 0, 1]),
        np.diag([1, np.nan, 1, 1]),
        np.eye(3),
        np.array([[1, 1, 0, 0], [0, 0, 1, 0], [0] * 4, [0] * 4]),
    ],
)
def test_a_geometry_without_volume_is_refused(bad: np.ndarray) -> None:
    with pytest.raises(DecodeError, match="no valid geometry"):
        spacing_of(np.asarray(bad, float))


def test_a_volume_of_one_slice_is_refused_where_several_are_needed() -> None:
    check_volume(make_volume(AXES, (2, 3, 4)))
    with pytest.raises(DecodeError, match="a volume of one slice: at least 2 are needed"):
        check_volume(make_volume(AXES, (1, 3, 4)))
    with pytest.raises(DecodeError, match="a volume of 2 slices: at least 3 are needed"):
        check_volume(make_volume(AXES, (2, 3, 4)), least=3)


def test_a_map_is_drawn_over_each_slice_in_its_place() -> None:
    stack, shares = np.full((5, 20, 40), 100, np.uint8), np.zeros((5, 20, 40), np.float32)
    shares[3, :, 20:] = 1
    picture = heat_montage(stack, shares, "a title")
    assert picture.shape[1] == 3 * 336 + 4 * 3
    coloured = np.ptp(picture.astype(int), axis=2) > 60
    second_line = 2 * 3 + 168
    assert coloured[second_line : second_line + 168, 3 + 180 : 3 + 336].all()
    coloured[second_line : second_line + 168, 3 + 150 : 3 + 336] = False
    for top in (3, second_line):
        assert not coloured[top + 20 : top + 168].any()  # below the slices' numbers
