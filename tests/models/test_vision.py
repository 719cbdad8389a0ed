"""Torchvision without torch's compiler: fast to import, whole in use."""

import subprocess
import sys

_PROGRAM = """
import sys
import torch
from mskray.models.vision import torchvision
assert "torch._dynamo" not in sys.modules, "the compiler was loaded"

boxes = torch.tensor([[0.0, 0, 0, 3, 3]])
assert torchvision.ops.roi_align(torch.ones(1, 1, 4, 4), boxes, 2).shape == (1, 1, 2, 2)
stand_in = sys.modules["torchvision.ops.roi_align"].is_compile_supported
assert stand_in("cpu") == torch._dynamo.utils.is_compile_supported("cpu")
torch.optim.SGD(torch.nn.Linear(2, 1).parameters(), 0.1).zero_grad()
"""


def test_the_compiler_is_loaded_when_it_is_asked_for() -> None:
    done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
