"""Guided backprop by hand and against a rule of its own for every ReLU; the network stays as it was; eq. 1 to 3."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from mskray.explain import guided_backprop, look, normalise
from mskray.models.backbones import Backbone


class GuidedRelu(torch.autograd.Function):
    """What "Striving for Simplicity" says of a ReLU: back comes what is positive, where the input was positive."""

    @staticmethod
    def forward(ctx, values: Tensor, top: float) -> Tensor:
        ctx.save_for_backward(values)
        ctx.top = top
        return values.clamp(0, top)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        (values,) = ctx.saved_tensors
        return gradient.clamp(min=0) * ((values > 0) & (values < ctx.top)), None


class EveryRelu(TorchFunctionMode):
    """Put GuidedRelu in the place of every ReLU, whether the network has it as a module or as a function."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in (F.relu, torch.relu, torch.relu_):
            return GuidedRelu.apply(args[0], float("inf"))
        if func is F.hardtanh:
            return GuidedRelu.apply(args[0], (kwargs or {})["max_val"])
        return func(*args, **(kwargs or {}))


def network_of(*weights: list[list[float]], relu: nn.Module) -> nn.Module:
    """Linear layers on the pixels with the one ReLU between each two of them."""
    parts: list[nn.Module] = [nn.Flatten()]
    for number, rows in enumerate(weights):
        layer = nn.Linear(len(rows[0]), len(rows), bias=False)
        layer.weight.data = torch.tensor(rows)
        parts += [relu, layer] if number else [layer]
    return nn.Sequential(*parts)


@pytest.mark.parametrize(("target", "expected"), [(0, [3.0, 0.0]), (1, [1.0, -1.0]), (None, [3.0, 0.0])])
def test_negative_gradients_stop_at_the_relu(target: int | None, expected: list[float]) -> None:
    # Hidden: 2 - 1 = 1 and 4 + 1 = 5. Logits: 6 and -4. Of class 1, the hidden gradient is 1, -1 and becomes 1, 0.
    network = network_of([[1.0, -1.0], [2.0, 1.0]], [[1.0, 1.0], [1.0, -1.0]], relu=nn.ReLU(inplace=True))
    images = torch.tensor([[[[2.0, 1.0]]]])
    maps, logits = look(network, images, None if target is None else torch.tensor([target]))
    assert maps.tolist() == [[expected]]
    assert logits.tolist() == [[6.0, -4.0]]


def test_a_relu_used_twice_is_passed_twice() -> None:
    # Forward: (1, 2) → (1, 2), ReLU → (3, -1), ReLU cuts the second → 3 - 0. Back: (1, -1) → (1, 0) → (1, 1).
    network = network_of([[1.0, 0.0], [0.0, 1.0]], [[1.0, 1.0], [1.0, -1.0]], [[1.0, -1.0]], relu=nn.ReLU(inplace=True))
    assert guided_backprop(network, torch.tensor([[[[1.0, 2.0]]]]), None).tolist() == [[[1.0, 1.0]]]


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "densenet121",
        "vgg16",
        "mobilenet_v2",
        "mobilenet_v3_small",
        "inception_v3",
        "inception_v4",
        "efficientnet_b0",
    ],
)
def test_every_relu_of_a_backbone_is_guided_and_the_network_stays_as_it_was(name: str) -> None:
    torch.manual_seed(0)
    network = Backbone(name, 3).eval()
    images, target = torch.rand(3, 1, 80, 80), torch.tensor([0, 2, 1])
    with EveryRelu():
        pixels = images.clone().requires_grad_()
        chosen = network(pixels).gather(1, target.unsqueeze(1)).sum()
        expected = torch.autograd.grad(chosen, pixels)[0][:, 0]
    network.train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    maps = guided_backprop(network, images, target)
    assert maps.shape == (3, 80, 80)
    assert torch.allclose(maps, expected, atol=1e-5 * float(expected.abs().max()))
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert all(module.training for module in network.modules())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in network.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    assert not images.requires_grad


def test_it_works_where_no_gradient_is_kept_and_each_image_stands_for_itself() -> None:
    torch.manual_seed(0)
    network = Backbone("resnet18", 2, ("stem", "layer1")).eval()
    images = torch.rand(4, 1, 64, 64)
    outside = guided_backprop(network, images, None)
    with torch.inference_mode():
        inside, logits = look(network, images.clone(), None)
        assert torch.equal(logits, network(images))
        single = torch.cat([guided_backprop(network, image.unsqueeze(0), None) for image in images])
    assert torch.equal(inside, outside)
    assert torch.allclose(single, outside, atol=1e-5 * float(outside.abs().max()))
    assert not outside.requires_grad


def test_eq_1_to_3_put_each_image_around_a_half() -> None:
    images = torch.tensor([[[0.0, 2.0], [4.0, 2.0]], [[7.0, 7.0], [7.0, 7.0]]])
    # Mean 2, std sqrt((4 + 0 + 4 + 0) / 4) = sqrt(2): 0.5 ± 0.5 · 2 / sqrt(2).
    away = 2**-0.5
    expected = torch.tensor([[[0.5 - away, 0.5], [0.5 + away, 0.5]], [[0.5, 0.5], [0.5, 0.5]]])
    assert torch.allclose(normalise(images), expected)
