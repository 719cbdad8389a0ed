"""How exactly and how fast a network computes: the number format of its forward pass, kernels, torch's compiler.

Weights and gradients stay fp32.
"""

import torch
from torch import nn


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """Return the format of the forward pass, None for fp32; "auto" takes bf16 on GPUs that know it, else fp16."""
    if precision == "auto":
        if device.type != "cuda":
            return None
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def prepare(network: nn.Module, device: torch.device, compile_as: str) -> None:
    """Have a network compute as fast as its device can, before it is wrapped; its parameters keep their names.

    Args:
        compile_as: "off", "on" or "graphs" (`Resources.compile`).
    """
    # Convolutions run about half as fast again in this layout, on CPU and GPU; results differ by rounding only.
    network.to(device).to(memory_format=torch.channels_last)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True  # a training's batches have one shape: the fastest kernel is tried for
    if compile_as != "off":
        # In place, so that the network stays what it is for the family and for checkpoints.
        network.compile(mode="reduce-overhead" if compile_as == "graphs" else None)
