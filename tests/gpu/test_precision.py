"""On a GPU: mixed precision trains, and predicts what the CPU predicts. Skipped, and listed, where there is no GPU."""

import numpy as np
import pytest
import torch

from mskray.bundles import Fitted
from mskray.families import Images
from mskray.families.classifier import ClassifierConfig, ClassifierRecipe
from mskray.families.torch_predictor import TorchPredictor
from mskray.training.precision import autocast_dtype
from mskray.training.recipe import to_batch

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

CONFIG = ClassifierConfig.model_validate(
    {"network": {"backbone": "resnet18", "weights": "none"}, "data": {"image_size": 64}}
)


def batch(count: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Bright and dark squares: two classes that any network can tell apart."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, count)
    images = random.integers(0, 60, (count, 64, 64), dtype=np.uint8)
    images[labels == 1, 20:44, 20:44] += 150
    return images, labels


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_every_precision_learns(precision: str) -> None:
    device = torch.device("cuda")
    torch.manual_seed(0)
    recipe = ClassifierRecipe(CONFIG, 2)
    network = recipe.build().to(device).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    dtype = autocast_dtype(precision, device)
    scaler = torch.amp.GradScaler("cuda", enabled=dtype == torch.float16)
    pixels, labels = batch()
    losses = []
    for _ in range(20):
        given = recipe.augment(to_batch({"image": pixels, "label": labels}, device))
        with torch.autocast("cuda", dtype=dtype or torch.float32, enabled=dtype is not None):
            loss = recipe.loss(network, given, None)
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


def test_auto_is_mixed_precision_on_a_gpu_and_not_on_a_cpu() -> None:
    assert autocast_dtype("auto", torch.device("cuda")) in (torch.bfloat16, torch.float16)
    assert autocast_dtype("auto", torch.device("cpu")) is None


def test_a_gpu_predicts_what_a_cpu_predicts() -> None:
    torch.manual_seed(0)
    entry = {"epoch": 1, "score": 0.0}
    fitted = Fitted(
        family="classifier",
        config=CONFIG.model_dump(mode="json"),
        task="abnormality",
        classes=("normal", "abnormal"),
        kind="radiograph",
        body_parts=("HAND",),
        image={"size": 64, "dtype": "uint8", "fit": "pad"},
        state=ClassifierRecipe(CONFIG, 2).build().state_dict(),
        history=[entry],
        best=entry,
        labels={"normal": 1, "abnormal": 1},
        cohort={"uri": "file:///cohort", "content_hash": "00"},
    )
    images = Images(list(batch(8)[0]))
    answers = [
        TorchPredictor(ClassifierRecipe(CONFIG, 2), fitted, device)(images).probabilities for device in ("cpu", "cuda")
    ]
    np.testing.assert_allclose(answers[0], answers[1], atol=2e-3)
