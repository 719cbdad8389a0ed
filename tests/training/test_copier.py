"""What a batch is on its way to the network, on a CPU; tests/gpu has the copies."""

import numpy as np
import pytest
import torch

from mskray.training.copier import Copier
from mskray.training.recipe import scaled, to_batch

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_pixels_stay_as_stored_until_they_are_scaled(dtype: type) -> None:
    """Every value of the type: a float32 division of the integer, as whole numbers of any type give it."""
    values = np.arange(np.iinfo(dtype).max + 1, dtype=dtype).reshape(-1, 16, 16)
    ((_, _, tensors),) = Copier(CPU)([(0, {"image": values})])
    assert tensors["image"].dtype == getattr(torch, np.dtype(dtype).name)
    expected = torch.from_numpy(values.astype(np.int32)).unsqueeze(1).float().div_(float(np.iinfo(dtype).max))
    assert torch.equal(scaled(tensors)["image"], expected)
    assert torch.equal(to_batch({"image": values}, CPU)["image"], expected)


def test_batches_keep_their_order_tags_and_arrays() -> None:
    given = [(number, {"label": np.array([number])}) for number in range(3)]
    found = list(Copier(CPU)(given))
    assert [(tag, arrays, int(tensors["label"])) for tag, arrays, tensors in found] == [
        (tag, arrays, tag) for tag, arrays in given
    ]


def test_of_a_cpu_no_batch_is_taken_before_it_is_wanted() -> None:
    taken = []

    def batches():
        for number in range(3):
            taken.append(number)
            yield number, {"label": np.array([number])}

    copied = Copier(CPU)(batches())
    next(copied)
    assert taken == [0]
