"""The gates of guided backprop: at each ReLU only gradients above zero go back."""

import torch
from captum.attr import GuidedBackprop
from torch import Tensor, nn


class Guided(GuidedBackprop):
    """captum's, which hooks nn.ReLU alone, for mobilenet_v2's ReLU6 too."""

    def _register_hooks(self, module: nn.Module) -> None:
        if isinstance(module, nn.ReLU | nn.ReLU6):
            self.backward_hooks.append(module.register_forward_pre_hook(_guide))


def _guide(module: nn.Module, inputs: tuple[Tensor]) -> Tensor:
    """Give a ReLU a copy of its input, through which only gradients above zero go back.

    A copy, so that gradients of what else reads the input are left alone, and the ReLU may work in place.
    """
    values = inputs[0].clone()
    values.register_hook(torch.relu)
    return values
