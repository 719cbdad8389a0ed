"""Torchvision without torch's compiler: fast to import, whole in use."""

import subprocess
import sys

_IMPORT = """
import sys
from mskray.models.vision import torchvision
assert "torch._dynamo" not in sys.modules, "the compiler was loaded"
"""


def run(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", _IMPORT + code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_the_compiler_is_not_loaded() -> None:
    run("")


def test_the_compiler_can_be_had_afterwards() -> None:
    run(
        "import torch\n"
        "from torchvision.ops import roi_align\n"
        "optimizer = torch.optim.SGD(torch.nn.Linear(2, 1).parameters(), 0.1)\n"
        "optimizer.zero_grad()\n"
        "assert torch._dynamo.utils.is_compile_supported('cpu') == "
        "sys.modules['torchvision.ops.roi_align'].is_compile_supported('cpu')\n"
        "boxes = torch.tensor([[0.0, 0, 0, 3, 3]])\n"
        "assert roi_align(torch.ones(1, 1, 4, 4), boxes, 2).shape == (1, 1, 2, 2)\n"
    )
