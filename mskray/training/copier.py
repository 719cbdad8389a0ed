"""Batches on their way to the device: the next one is copied while it computes on this one.

To a GPU a batch travels as the cohort stores it, one or two bytes a pixel, from page-locked memory and in a stream of
its own; there it becomes what the network is given (`recipe.scaled`). On a CPU nothing is copied.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from mskray.training.recipe import as_tensor
from mskray.training.samples import Arrays

Tensors = dict[str, Tensor]


class Copier:
    """Gives batches as tensors on a device, each with its arrays.

    Args:
        device: of the network.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, batches: Iterable[tuple[Any, Arrays]]) -> Iterator[tuple[Any, Arrays, Tensors]]:
        """Yield (tag, arrays, tensors) for each (tag, arrays); to a GPU the batch after it is under way by then."""
        if self._stream is None:
            for tag, arrays in batches:
                yield tag, arrays, {name: as_tensor(values) for name, values in arrays.items()}
            return
        before: tuple[Any, Arrays, Tensors, torch.cuda.Event] | None = None
        for tag, arrays in batches:
            following = tag, arrays, *self._sent(arrays, self._stream)
            if before is not None:
                yield self._arrived(*before)
            before = following
        if before is not None:
            yield self._arrived(*before)

    def wait(self) -> None:
        """Wait until all that was begun on the device has ended, copies from it included."""
        if self._stream is not None:
            torch.cuda.synchronize(self._device)

    def _sent(self, arrays: Arrays, stream: torch.cuda.Stream) -> tuple[Tensors, torch.cuda.Event]:
        """Begin to copy; the event passes when all has come."""
        # The allocator of page-locked memory gives it to nobody else before the copy has ended.
        with torch.cuda.stream(stream):
            sent = {
                name: as_tensor(values).pin_memory().to(self._device, non_blocking=True)
                for name, values in arrays.items()
            }
            return sent, stream.record_event()

    def _arrived(
        self, tag: Any, arrays: Arrays, tensors: Tensors, event: torch.cuda.Event
    ) -> tuple[Any, Arrays, Tensors]:
        """Have what is computed next wait for the copy; the host does not."""
        computing = torch.cuda.current_stream(self._device)
        computing.wait_event(event)
        for tensor in tensors.values():
            tensor.record_stream(computing)  # its memory is given to no later copy before that is done with it
        return tag, arrays, tensors
