"""Views of a stack: where a pixel goes, which slices are seen, and the 54 of a prediction."""

import math

import pytest
import torch

from mskray.cohorts.schema import ImageFormat
from mskray.training.disc_samples import stack_input
from mskray.training.disc_views import DiscAugment, Views, augment, look, matrices, random_views, views_of_test, windows

SHAPE = (3, 42, 84)
CONTEXT = (5, 72, 120)
STILL = {"rotation": 0, "shift_x": 0, "shift_y": 0, "shift_slices": 0, "scale": 0, "brightness": 0, "slice_flip": 0}
MIDDLE = stack_input(ImageFormat(size=120, dtype="uint8", fit="pad", slices=5, rows=72), 84, 3).middle


def contexts(count: int = 2) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.rand(count, *CONTEXT)


def one_view(images: torch.Tensor, degrees: float = 0.0, scale: float = 1.0, shift=(0.0, 0.0)) -> Views:
    angle = math.radians(degrees)
    turn = scale * torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    matrix = matrices(turn[None], torch.tensor([shift]), images.shape, SHAPE)
    return Views(matrix, windows(torch.tensor([0]), torch.tensor([False]), images.shape[1], SHAPE[0]))


def test_nothing_changed_is_the_middle() -> None:
    images = contexts()
    torch.testing.assert_close(augment(images, SHAPE, DiscAugment(**STILL)), images[MIDDLE], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("view", "seen"),
    [
        ({}, (60, 36)),
        ({"shift": (7.0, -4.0)}, (67, 32)),
        ({"scale": 0.5}, (60, 36)),
        ({"degrees": 90.0}, (60, 36)),
        ({"degrees": 90.0, "shift": (10.0, 5.0)}, (70, 41)),
    ],
)
def test_the_middle_of_the_input_shows(view: dict, seen: tuple[int, int]) -> None:
    """Between four pixels: those of the input around its middle, and the context's around (x, y)."""
    x, y = seen
    images = torch.zeros(1, *CONTEXT)
    images[..., y - 1 : y + 1, x - 1 : x + 1] = 1
    found = look(images, one_view(images, **view), SHAPE)
    middle = found[0, 0, 20:22, 41:43]
    assert float(middle.min()) > 0.55
    assert float(found[0, 0].sum()) == pytest.approx(4 / view.get("scale", 1.0) ** 2, rel=0.05)


def test_a_turn_keeps_lengths_though_sides_differ() -> None:
    images = torch.zeros(1, *CONTEXT)
    images[..., 36:38, 70:72] = 1  # 11 px right of the middle, 1 px below
    found = look(images, one_view(images, degrees=90.0), SHAPE)[0, 0]
    row, column = (
        float((found * torch.arange(size).view(view)).sum() / found.sum())
        for size, view in ((42, (-1, 1)), (84, (1, -1)))
    )
    # p with turn · p = (11, 1) about the middles: p = (1, -11).
    assert (column - 41.5, row - 20.5) == pytest.approx((1, -11), abs=0.05)


def test_windows_of_slices() -> None:
    shift, flipped = torch.tensor([0, 1, -1, 1]), torch.tensor([False, False, True, True])
    assert windows(shift, flipped, 5, 3).tolist() == [[1, 2, 3], [2, 3, 4], [2, 1, 0], [4, 3, 2]]


def test_random_views_stay_within_their_bounds_and_use_them() -> None:
    images = contexts(1).expand(2000, -1, -1, -1)
    config = DiscAugment(rotation=15, scale=0.1, shift_x=32, shift_y=24, shift_slices=2, slice_flip=0.5)
    torch.manual_seed(0)
    views = random_views(images, SHAPE, config)
    # Back to pixels of the context, then to the factor, the angle and the shift.
    x_scale, y_scale = CONTEXT[2] / 2, CONTEXT[1] / 2
    a, c = views.matrix[:, 0, 0] * x_scale / 42, views.matrix[:, 1, 0] * y_scale / 42
    angle, factor = torch.rad2deg(torch.atan2(c, a)), torch.hypot(a, c)
    shift_x, shift_y = views.matrix[:, 0, 2] * x_scale, views.matrix[:, 1, 2] * y_scale
    unit = 84 / 224
    for values, bound in ((angle, 15), (factor - 1, 0.1), (shift_x, 32 * unit), (shift_y, 24 * unit)):
        assert float(values.abs().max()) <= bound + 1e-4
        assert float(values.max()) > 0.95 * bound
        assert float(values.min()) < -0.95 * bound
    # Two slices lie beside the three: the window moves by one at most, whatever is asked for.
    assert {tuple(each) for each in views.slices.tolist()} == {
        *((0, 1, 2), (1, 2, 3), (2, 3, 4)),
        *((2, 1, 0), (3, 2, 1), (4, 3, 2)),
    }


def test_intensity_changes_by_one_amount_for_each_stack() -> None:
    images = contexts(64) * 0.5 + 0.25
    torch.manual_seed(0)
    change = augment(images, SHAPE, DiscAugment(**{**STILL, "brightness": 0.1})) - images[MIDDLE]
    flat = change.flatten(1)
    assert float((flat.max(dim=1).values - flat.min(dim=1).values).max()) < 1e-4
    assert 0.09 < float(flat.abs().max()) <= 0.1 + 1e-4
    assert float(flat.mean(dim=1).std()) > 0.04


@pytest.mark.parametrize("shift", [(12.0, 9.0), (-12.0, -9.0)])
def test_the_largest_shifts_do_not_reach_the_context_s_edge(shift: tuple[float, float]) -> None:
    images = torch.zeros(1, *CONTEXT)
    images[:, :, 2:-2, 2:-2] = 1
    assert (look(images, one_view(images, shift=shift), SHAPE) > 0.999).all()


@pytest.mark.parametrize(
    ("context", "shape", "count"),
    [
        ((5, 72, 120), (3, 42, 84), 54),
        ((3, 72, 120), (3, 42, 84), 18),  # no slice beside the window
        ((1, 84, 84), (1, 84, 84), 9),  # a radiograph
    ],
)
def test_views_of_a_prediction(context, shape, count) -> None:
    images = torch.rand(2, *context)
    seen = [(views.matrix[0, :, 2], tuple(views.slices[0].tolist())) for views in views_of_test(images, shape)]
    assert len(seen) == count
    step = 16 * 84 / 224
    shifts = {(round(float(x * context[2] / 2), 3), round(float(y * context[1] / 2), 3)) for (x, y), _ in seen}
    assert shifts == {(x, y) for x in (-step, 0, step) for y in (-step, 0, step)}
    assert len({(x, y, window) for (x, y), window in ((tuple(m.tolist()), w) for m, w in seen)}) == count
    first = next(views_of_test(images, shape))
    start = [(whole - part) // 2 for whole, part in zip(context, shape, strict=True)]
    expected = images[:, start[0] : start[0] + shape[0], start[1] : start[1] + shape[1], start[2] : start[2] + shape[2]]
    torch.testing.assert_close(look(images, first, shape), expected, atol=1e-5, rtol=0)


def test_an_odd_context_keeps_whole_pixels() -> None:
    images = torch.rand(1, 3, 73, 121)
    first = next(views_of_test(images, SHAPE))
    torch.testing.assert_close(look(images, first, SHAPE), images[:, :, 15:57, 18:102], atol=1e-5, rtol=0)
