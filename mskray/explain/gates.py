"""The gates of guided backprop: at each ReLU only gradients above zero go back."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from captum.attr import GuidedBackprop
from torch import Tensor, nn

from mskray.errors import UserError


class Guided(GuidedBackprop):
    """captum's, which hooks nn.ReLU alone, for mobilenet_v2's ReLU6 too."""

    def _register_hooks(self, module: nn.Module) -> None:
        if isinstance(module, nn.ReLU | nn.ReLU6):
            self.backward_hooks.append(module.register_forward_pre_hook(_guide))


@contextmanager
def guided_gates(network: nn.Module) -> Iterator[None]:
    """Let every gradient that is taken inside pass through guided ReLUs; afterwards the network is as it was.

    Raises UserError where the network has no nn.ReLU that could be guided.
    """
    gates = [module for module in network.modules() if isinstance(module, nn.ReLU | nn.ReLU6)]
    if not gates:
        raise UserError(f"guided backprop has nothing to guide: {type(network).__name__} has no ReLU")
    handles = [gate.register_forward_pre_hook(_guide) for gate in gates]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _guide(module: nn.Module, inputs: tuple[Tensor]) -> Tensor:
    """Give a ReLU a copy of its input, through which only gradients above zero go back.

    A copy, so that gradients of what else reads the input are left alone, and the ReLU may work in place.
    """
    values = inputs[0].clone()
    if values.requires_grad:
        values.register_hook(torch.relu)
    return values
