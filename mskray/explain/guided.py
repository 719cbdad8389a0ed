"""Guided backprop: the gradient of a class in the pixels, of which only what speaks for the class comes through.

    maps = guided_backprop(network, images, None)    # (n, rows, columns): of each image's predicted class

Source: "Striving for Simplicity: The All Convolutional Net" (ZHAW's reference 9), by captum.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from mskray.models.backbones import Backbone


def normalise(values: Tensor) -> Tensor:
    """Bring each image's values to 0.5 + 0.5 · (x - mean) / std (ZHAW eq. 1), mean and std over the image (eq. 2, 3).

    Args:
        values: (n, …). A flat image, where eq. 1 divides by zero, becomes 0.5.
    """
    flat = values.flatten(1)
    std, mean = torch.std_mean(flat, dim=1, correction=0, keepdim=True)
    return (0.5 + 0.5 * (flat - mean) / torch.where(std > 0, std, torch.ones_like(std))).view_as(values)


def guided_backprop(network: Backbone, images: Tensor, target: Tensor | None) -> Tensor:
    """Return the guided gradient of one logit of each image with respect to its pixels.

    Where a ReLU or ReLU6 is passed backwards, negative gradients become zero. Other activations let the gradient pass
    as it is: of efficientnet, which has SiLU alone, this is the plain gradient; of mobilenet_v3, which has hardswish
    beside ReLU, something between.

    Args:
        network: left as it was: weights, gradients, mode, BatchNorm's statistics.
        images: (n, 1, rows, columns), what the network is given.
        target: (n,) class indices, or None for the predicted ones.
    Returns:
        (n, rows, columns) float, of either sign; it carries no gradient. Works under `torch.inference_mode` too.
    """
    return look(network, images, target)[0]


def look(network: Backbone, images: Tensor, target: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return what `guided_backprop` does, and the logits (n, classes) that its forward pass gave on the way."""
    from mskray.explain.gates import Guided  # captum brings matplotlib: a second for whoever explains nothing

    # In fp16 the gradient of a pixel would be zero: no autocast.
    exact = torch.autocast(images.device.type, enabled=False)
    with torch.inference_mode(False), torch.enable_grad(), exact, evaluating(network), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Setting backward hooks on ReLU")  # captum says so each time
        # Copies: what comes out of inference mode cannot have a gradient, and the caller's tensors are left alone.
        pixels = images.detach().to(torch.promote_types(images.dtype, torch.float32), copy=True).requires_grad_()
        one = _OneLogit(network, None if target is None else target.clone())
        gradient = Guided(one).attribute(pixels)
        assert one.logits is not None
        return gradient.sum(dim=1).detach(), one.logits


class _OneLogit(nn.Module):
    """The target's logit, or the largest one: a single number an image, whose gradient is asked for."""

    def __init__(self, network: Backbone, target: Tensor | None) -> None:
        super().__init__()
        self._network, self._target = network, target
        self.logits: Tensor | None = None

    def forward(self, images: Tensor) -> Tensor:
        logits = self._network(images)
        self.logits = logits.detach()
        chosen = self.logits.argmax(dim=1) if self._target is None else self._target
        return logits.gather(1, chosen.unsqueeze(1))


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Put every module in evaluation mode, and each back in its own at the end."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
