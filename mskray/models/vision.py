"""Torchvision, imported without torch's compiler: `from mskray.models.vision import torchvision`.

`torchvision.ops.roi_align` takes one function of `torch._dynamo.utils` as it is imported. That loads the whole
compiler, sympy included, and doubles the start of every worker and command. Only a detector that is compiled calls the
function: until then a stand-in has its place, which asks the real one.
"""

import sys
from types import ModuleType

import torch  # noqa: F401  # loads what the stand-ins must not hide from it

_NAMES = ("torch._dynamo", "torch._dynamo.utils")


def _is_compile_supported(device_type: str) -> bool:
    from torch._dynamo.utils import is_compile_supported

    return bool(is_compile_supported(device_type))


if _NAMES[0] in sys.modules:
    import torchvision
else:
    sys.modules.update({name: ModuleType(name) for name in _NAMES})
    sys.modules[_NAMES[1]].is_compile_supported = _is_compile_supported  # type: ignore[attr-defined]
    try:
        import torchvision
    finally:
        for name in _NAMES:
            del sys.modules[name]

__all__ = ["torchvision"]
