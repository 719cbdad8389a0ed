"""The memory of large tensors on the CPU: kept, not given back to the kernel after every layer."""

import ctypes
import sys

# glibc's mallopt(3).
_MMAP_MAX, _TRIM_THRESHOLD, _ARENA_MAX = -4, -1, -8


def keep_memory() -> None:
    """Have glibc keep the memory of large tensors, for the whole process: whose process it is does so.

    Left to itself it gives it back to the kernel and faults it in again: on the CPU nearly half the time of a training
    step, a third of that of a mobilenet's batch of 32.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(_MMAP_MAX, 0)
        libc.mallopt(_TRIM_THRESHOLD, -1)
        libc.mallopt(_ARENA_MAX, 1)
