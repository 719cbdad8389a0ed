"""Stacks with several labels as the network is given them: what counts, what is cut, what is made smaller."""

import numpy as np
import pytest

from mskray.cohorts.schema import ImageFormat
from mskray.imaging.inputs import InputFormat, StackFormat
from mskray.training.disc_samples import DiscSamples, stack_input
from mskray.training.means import channel_sums

COLUMNS = ("label_a", "label_b")
LABELS = {"label_a": np.array([0, -1, -1, 2], np.int32), "label_b": np.array([1, -1, 0, -1], np.int32)}


def stored(slices: int = 15, rows: int = 192, size: int = 320) -> ImageFormat:
    return ImageFormat(size=size, dtype="uint8", fit="pad", slices=slices, rows=rows)


@pytest.mark.parametrize(
    ("image", "columns", "slices", "shape", "context"),
    [
        (stored(), 224, 9, (9, 112, 224), (15, 192, 320)),
        (stored(), 112, 9, (9, 56, 112), (15, 96, 160)),
        (stored(5, 72, 120), 84, 3, (3, 42, 84), (5, 72, 120)),
        (ImageFormat(size=256, dtype="uint8", fit="pad"), 128, 1, (1, 128, 128), (1, 128, 128)),
    ],
)
def test_the_input_is_the_middle_of_what_is_stored(image, columns, slices, shape, context) -> None:
    given = stack_input(image, columns, slices)
    assert given.shape == shape
    assert given.context.shape == context


@pytest.mark.parametrize(
    ("columns", "slices", "message"),
    [(225, 9, "the middle 224 of 320 columns are an input, not 225"), (224, 16, "15 slices are stored, fewer than 16")],
)
def test_a_cohort_can_be_too_small(columns: int, slices: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stack_input(stored(), columns, slices)


def test_the_middle_of_an_array() -> None:
    contexts = np.zeros((1, 15, 192, 320), np.uint8)
    given = stack_input(stored(), 224, 9)
    contexts[:, 3:12, 40:152, 48:272] = 255
    assert (contexts[given.middle] == 255).all()
    assert contexts[given.middle].shape == (1, 9, 112, 224)
    np.testing.assert_array_equal(channel_sums(contexts, given), np.full(9, 112 * 224.0))


def test_a_disc_with_any_label_is_a_sample() -> None:
    samples = DiscSamples(COLUMNS, StackFormat(3, 12, 20), 14)
    stacks = np.arange(4, dtype=np.uint8)[:, None, None, None] * np.ones((1, 3, 12, 20), np.uint8)
    made = samples.load({**LABELS, "image": stacks}, InputFormat(14))
    assert made["label"].dtype == np.int64
    assert made["label"].tolist() == [[0, 1], [-1, 0], [2, -1]] == samples.labels(LABELS).tolist()
    assert made["image"][:, 0, 0, 0].tolist() == [0, 2, 3]
    assert samples.images_each == 4  # 3 × 12 × 20 = 720 px, of 196 each


def test_larger_discs_are_made_smaller_by_the_mean_over_areas() -> None:
    stacks = np.zeros((4, 3, 24, 40), np.uint8)
    stacks[:, 1, ::2, ::2] = 200
    made = DiscSamples(COLUMNS, StackFormat(3, 12, 20), 14).load({**LABELS, "image": stacks}, InputFormat(14))
    assert made["image"].shape == (3, 3, 12, 20)
    assert (made["image"][:, 1] == 50).all()
    assert not made["image"][:, [0, 2]].any()


def test_radiographs_are_stacks_of_one_slice() -> None:
    images = np.full((4, 32, 32), 7, np.uint8)
    made = DiscSamples(COLUMNS, None, 16).load({**LABELS, "image": images}, InputFormat(16))
    assert made["image"].shape == (3, 1, 16, 16)
    assert (made["image"] == 7).all()


def test_a_shard_without_labels_has_no_samples() -> None:
    none = {name: np.full(2, -1, np.int32) for name in COLUMNS}
    for context, image in (
        (StackFormat(3, 12, 20), np.zeros((2, 3, 24, 40), np.uint8)),
        (None, np.zeros((2, 9, 9), "u1")),
    ):
        made = DiscSamples(COLUMNS, context, 14).load({**none, "image": image}, InputFormat(14))
        assert made["image"].shape == (0, *(context.shape if context else (1, 14, 14)))
        assert made["label"].shape == (0, 2)


@pytest.mark.parametrize(
    ("slices", "kept"), [(5, [1, 2, 3, 4, 5]), (3, [2, 3, 4]), (2, [2, 3]), (7, [0, 1, 2, 3, 4, 5, 0])]
)
def test_other_numbers_of_slices_are_cut_or_filled_about_the_middle(slices: int, kept: list[int]) -> None:
    stack = np.arange(1, 6, dtype=np.uint8)[:, None, None] * np.ones((1, 4, 4), np.uint8)
    assert StackFormat(slices, 4, 4)(stack)[:, 0, 0].tolist() == kept
