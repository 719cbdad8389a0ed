"""On a GPU, without Ray: a training in this process computes what a CPU computes, and goes on where it was stopped.

Skipped, and listed, where there is no GPU.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from linear_training import AtHand, AtOnce
from torch import Tensor, nn

from mskray.families.classifier import ClassifierConfig, ClassifierRecipe
from mskray.imaging.inputs import InputFormat
from mskray.storage import locate
from mskray.training.assignment import Assignment
from mskray.training.checkpoint import WEIGHTS
from mskray.training.copier import Copier
from mskray.training.local import device
from mskray.training.loop import Trainer
from mskray.training.recipe import Recipe, scaled, to_batch
from mskray.training.samples import EachImage
from mskray.training.session import Session
from mskray.training.shelf import Shelf

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

CPU, GPU = torch.device("cpu"), torch.device("cuda:0")
SIDE = 64
# Nothing at random but the order, which is the same on every device: CPU and GPU draw other numbers.
STILL = {"flip": 0, "rotation": 0, "translation": 0, "scale": 0, "brightness": 0, "contrast": 0}


def recipe_of(**loop: Any) -> ClassifierRecipe:
    config = ClassifierConfig.model_validate(
        {
            "network": {"backbone": "resnet18", "weights": "none"},
            "data": {"image_size": SIDE, "batch_size": 8, "shuffle_window": 64},
            "optimizer": {"name": "sgd", "learning_rate": 0.01},
            "schedule": {"name": "none"},
            "augment": STILL,
            "loop": {"epochs": 2, "precision": "fp32", "checkpoint_minutes": 0, **loop},
        }
    )
    return ClassifierRecipe(config, 2)


def split_of(dtype: type = np.uint8) -> AtHand:
    """Two shards of noise with a bright square in every second image."""
    random, top = np.random.default_rng(0), np.iinfo(dtype).max
    shards = []
    for rows in (24, 16):
        images = random.integers(0, top // 3, (rows, SIDE, SIDE), dtype=dtype)
        images[1::2, 20:44, 20:44] += top // 2
        shards.append({"image": images, "label": np.arange(rows) % 2})
    form = InputFormat(SIDE)
    return AtHand("nowhere", "train", EachImage("label_abnormality"), form, (24, 16), (), tuple(shards))


def trained(
    folder: Path, recipe: Recipe, where: torch.device, compile_as: str = "off", epochs: int = 2
) -> tuple[Trainer, dict[str, Tensor]]:
    """Train, or go on from what is in the folder; return the Trainer and the last checkpoint's weights."""
    from safetensors.torch import load_file

    torch.manual_seed(0)
    weights = recipe.build().state_dict()
    run, split = locate(folder / "run"), split_of()
    session = Session(run, lambda event: None, AtOnce(), where)  # type: ignore[arg-type]
    work = Assignment(recipe, split, split, (), (), None, lambda event: None, compile=compile_as)
    trainer = Trainer(work, weights, session)
    trainer.epochs = epochs
    trainer.run()
    into = folder / "last"
    into.mkdir(exist_ok=True)
    assert Shelf(run).newest(into, pytest.fail) is not None
    return trainer, load_file(into / WEIGHTS)


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """No TF32: convolutions keep the bits that fp32 has."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)


def test_a_process_takes_its_first_gpu() -> None:
    assert device() == GPU


def test_in_fp32_a_gpu_learns_what_a_cpu_learns(tmp_path: Path, exact: None) -> None:
    """The same rows, and losses to a part in a hundred or 0.002: ten updates let differences of rounding grow."""
    here, _ = trained(tmp_path / "cpu", recipe_of(), CPU)
    there, _ = trained(tmp_path / "gpu", recipe_of(), GPU)
    for one, other in zip(here.position.history, there.position.history, strict=True):
        assert (one["samples"], one["rows_digest"]) == (other["samples"], other["rows_digest"])
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=1e-2, abs=2e-3)
    first, second = here.position.history[0], there.position.history[0]
    assert first["val_loss"] == pytest.approx(second["val_loss"], rel=2e-2, abs=5e-3)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_pixels_travel_as_stored_and_are_normalised_there_bit_for_bit(dtype: type) -> None:
    random = np.random.default_rng(1)
    images = random.integers(0, np.iinfo(dtype).max, (5, 9, 9), dtype=dtype, endpoint=True)
    arrays = {"image": images, "label": np.arange(5)}
    ((tag, same, tensors),) = Copier(GPU)([("tag", arrays)])
    assert (tag, same) == ("tag", arrays)
    assert tensors["image"].device == GPU
    assert tensors["image"].dtype == getattr(torch, np.dtype(dtype).name), "one or two bytes a pixel, no more"
    here, there = to_batch(arrays, CPU), scaled(tensors)
    torch.testing.assert_close(there["image"].cpu(), here["image"], rtol=0, atol=6e-8)  # a division's last bit
    assert torch.equal(there["label"].cpu(), here["label"])


def test_batches_that_are_under_way_are_not_overwritten() -> None:
    """Many large batches while the device is busy: each arrives whole, in order, whoever's memory it was before."""
    count, shape = 40, (64, 256, 256)
    batches = ((number, {"image": np.full(shape, number, np.uint8)}) for number in range(count))
    busy = torch.randn(4096, 4096, device=GPU)
    found = []
    for number, _, tensors in Copier(GPU)(batches):
        for _ in range(5):
            busy = busy @ busy
            busy = busy / busy.norm()
        image = tensors["image"]
        found.append((number, image.amin(), image.amax()))
    torch.cuda.synchronize()
    assert [(number, int(low), int(high)) for number, low, high in found] == [(n, n, n) for n in range(count)]


def test_the_host_does_not_wait_for_the_device_to_send_the_next_batch() -> None:
    """A copy is begun and handed over while the device still has to finish what was queued before it."""
    arrays = {"image": np.ones((64, 256, 256), np.uint8)}
    list(Copier(GPU)([(0, arrays)] * 3))  # page-locked memory and streams are there
    torch.cuda.synchronize()
    busy, ended = torch.randn(8192, 8192, device=GPU), torch.cuda.Event()
    for _ in range(60):
        busy = busy @ busy
    ended.record()
    assert len(list(Copier(GPU)([(0, arrays)] * 3))) == 3
    assert not ended.query(), "the copies waited for the computation"
    torch.cuda.synchronize()


def test_the_network_is_channels_last_and_its_optimizer_fused(tmp_path: Path) -> None:
    trainer, _ = trained(tmp_path, recipe_of(epochs=1), GPU, epochs=1)
    convolution = [each for each in trainer.network.modules() if isinstance(each, nn.Conv2d)][-1]
    assert convolution.weight.device == GPU
    assert convolution.weight.is_contiguous(memory_format=torch.channels_last)
    assert all(group["fused"] for group in trainer.optimizer.param_groups)


@pytest.mark.parametrize("precision", ["auto", "bf16", "fp16"])
def test_mixed_precision_learns_as_fp32_does(tmp_path: Path, precision: str) -> None:
    exactly, _ = trained(tmp_path / "fp32", recipe_of(), GPU)
    mixed, weights = trained(tmp_path / precision, recipe_of(precision=precision), GPU)
    assert all(value.dtype == torch.float32 for value in weights.values() if value.is_floating_point())
    for one, other in zip(exactly.position.history, mixed.position.history, strict=True):
        assert one["rows_digest"] == other["rows_digest"]
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=0.1, abs=0.02)


def test_augmentation_is_drawn_on_the_device_and_again_after_a_stop(tmp_path: Path, exact: None) -> None:
    """A run that was stopped after its first epoch ends as one that was not, random poses included."""
    recipe = recipe_of()
    recipe = replace(recipe, config=recipe.config.model_copy(update={"augment": type(recipe.config.augment)()}))
    batch = to_batch({"image": split_of().arrays[0]["image"], "label": np.arange(24)}, GPU)
    assert recipe.augment(batch)["image"].device == GPU
    _, whole = trained(tmp_path / "whole", recipe, GPU)
    trained(tmp_path / "parts", recipe, GPU, epochs=1)
    again, parts = trained(tmp_path / "parts", recipe, GPU)
    assert [entry["epoch"] for entry in again.position.history] == [1, 2]
    # Kernels that add in any order, such as those of convolutions' gradients: equal but for rounding.
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=2e-2, atol=2e-3, msg=name)


@pytest.mark.parametrize("compile_as", ["on", "graphs"])
def test_a_compiled_network_learns_the_same_and_leaves_the_same_names(tmp_path: Path, compile_as: str) -> None:
    pytest.importorskip("triton")
    plain, weights = trained(tmp_path / "plain", recipe_of(), GPU)
    compiled, others = trained(tmp_path / "compiled", recipe_of(), GPU, compile_as)
    assert weights.keys() == others.keys()
    for one, other in zip(plain.position.history, compiled.position.history, strict=True):
        assert one["rows_digest"] == other["rows_digest"]
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=2e-2, abs=5e-3)


def test_what_a_gpu_left_a_cpu_goes_on_with(tmp_path: Path) -> None:
    trained(tmp_path, recipe_of(), GPU, epochs=1)
    trainer, _ = trained(tmp_path, recipe_of(), CPU)
    assert [entry["epoch"] for entry in trainer.position.history] == [1, 2]
