"""The number format in which a network computes forward; weights and gradients stay fp32."""

import torch


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """Return the format of the forward pass, None for fp32; "auto" takes bf16 on GPUs that know it, else fp16."""
    if precision == "auto":
        if device.type != "cuda":
            return None
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
