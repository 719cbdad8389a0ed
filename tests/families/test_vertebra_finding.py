"""Reading bodies off maps: peaks, corners, the median over slices, which slices are looked at."""

import numpy as np
import pytest
import torch
from spine_run import vertebra_bundle

from mskray.families.vertebra_detector import VertebraDetectorConfig
from mskray.families.vertebra_finding import Spine, find_peaks, fused, load_vertebra_detector, looks, peak_scores
from mskray.imaging.spine import LEVELS, FoundVertebra
from mskray.imaging.volumes.volume import Volume
from mskray.models.vertebrae import Maps, places

SIDE = 64  # places


def drawn_maps(middles: list[tuple[float, float]], kinds: list[int], height: float = 24, width: float = 32) -> Maps:
    """Maps of upright bodies around `middles`, px: a peak at each, all arrows to the nearest body's corners."""
    at = places(SIDE, SIDE, torch.device("cpu"))
    middle = torch.tensor(middles)
    away = (at[:, :, None] - middle).norm(dim=-1)
    bumps = torch.exp(-((away / 5) ** 2))
    centres = torch.stack(
        [
            torch.stack([bumps[..., i] for i, k in enumerate(kinds) if k == kind] or [0 * bumps[..., 0]]).amax(0)
            for kind in (0, 1)
        ]
    )
    corners = torch.tensor([[-width, -height], [width, -height], [width, height], [-width, height]]) / 2
    arrows = middle[away.argmin(dim=-1)][:, :, None] + corners - at[:, :, None]
    logits = torch.logit((0.95 * centres).clamp(1e-4, 1 - 1e-4))
    return Maps(logits[None], arrows.permute(2, 3, 0, 1)[None], torch.full((1, SIDE, SIDE), 0.25))


SPINE = [(120.0 + 3 * number, 215.0 - 33 * number) for number in range(7)]


def test_bodies_are_read_off_their_peaks_exactly_and_named() -> None:
    found = find_peaks(drawn_maps(SPINE, [1] + [0] * 6), 0.3)
    assert len(found.scores) == 7
    assert (np.diff(found.scores) <= 0).all()
    spine = found.spine()
    assert [body.level for body in spine.bodies] == list(LEVELS[::-1])
    assert spine.notes == ()
    for body, (x, y) in zip(spine.bodies, SPINE, strict=True):
        np.testing.assert_allclose(body.corners.mean(axis=0), (x, y), atol=1e-4)
        np.testing.assert_allclose(body.corners[0], (x - 16, y - 12), atol=1e-4)
        assert body.slice == pytest.approx(0.25)
        assert body.score > 0.5


def test_two_peaks_of_one_body_are_one_body() -> None:
    maps = drawn_maps([(98.0, 98.0)], [0])
    maps.centres[0, 0, 26, 24] = 2.0  # 8 px below, inside the body
    assert (peak_scores(maps.centres)[0] >= 0.3).sum() == 2
    assert len(find_peaks(maps, 0.3).scores) == 1


def test_maps_without_a_peak_give_no_body() -> None:
    maps = drawn_maps([(100.0, 100.0)], [0])
    spine = find_peaks(maps._replace(centres=maps.centres - 9), 0.3).spine()
    assert spine.bodies == ()
    assert spine.notes == ("no vertebral body was found",)


def test_one_odd_slice_decides_nothing() -> None:
    good, odd = drawn_maps(SPINE, [1] + [0] * 6), drawn_maps([(60.0, 60.0)], [1])
    several = Maps(*(torch.cat(parts) for parts in zip(good, odd, good, strict=True)))
    joined = fused(several, torch.tensor([3, 4, 5]))
    found = find_peaks(joined, 0.3)
    assert len(found.scores) == 7
    np.testing.assert_allclose(found.slices, 4.25)  # the slice of the middle one of three


@pytest.mark.parametrize(
    ("shown", "count", "middles"),
    [
        (range(9), 5, [2, 3, 4, 5, 6]),
        (range(2, 7), 5, [2, 3, 4, 5, 6]),
        (range(9), 1, [4]),
        ([4], 5, [4]),
        ([], 3, [3, 4, 5]),
    ],
)
def test_padding_is_not_looked_at_and_an_end_is_its_own_neighbour(shown, count: int, middles: list[int]) -> None:
    stack = np.zeros((9, 4, 4), np.uint8)
    stack[list(shown)] = 10 + np.array(list(shown), np.uint8).reshape(-1, 1, 1)
    seen, own = looks(stack, count)
    assert own.tolist() == middles
    assert seen.shape == (len(middles), 3, 4, 4)
    if len(shown):
        ends = (10 + min(shown), 10 + max(shown))
        expected = [[min(max(10 + each + beside, ends[0]), ends[1]) for beside in (-1, 0, 1)] for each in middles]
        assert seen[:, :, 0, 0].tolist() == expected


@pytest.mark.parametrize(("place", "searches"), [(12, 1), (7, 2), (17, 3), (3, 4), (21, 5)])
def test_a_spine_beside_the_middle_slices_is_found_in_its_slice(tmp_path, place: int, searches: int) -> None:
    """Of 25 slices of 4 mm one has a body with three neighbours: where the five that are looked at show it."""
    config = {
        "network": {"backbone": "mobilenet_v3_small", "weights": "none", "channels": 8},
        "data": {"image_size": 64},
    }
    _, detector = load_vertebra_detector(vertebra_bundle(tmp_path / "b", VertebraDetectorConfig.model_validate(config)))
    seen = []

    def find(stacks):
        (stack,) = stacks
        _, middles = looks(stack, 5)
        shown = [middle for middle in middles if stack[middle].max() == 255 and stack[middle, 32, 32] == 255]
        seen.append(middles)
        square = np.array([[10.0, 10], [20, 10], [20, 20], [10, 20]])
        bodies = [FoundVertebra(level, float(middle), square, 0.9) for middle in shown for level in ("L5", "L4", "L3")]
        return [Spine(tuple(bodies), ())]

    detector.find = find
    pixels = np.random.default_rng(0).uniform(10, 20, (25, 64, 64)).astype(np.float32)
    pixels[place, 24:40, 24:40] = 100
    found = detector.find_in(Volume(pixels, (4.0, 1.0, 1.0), np.eye(4)))
    assert [body.slice for body in found.bodies] == [place] * 3
    assert len(seen) == searches
