"""The ranks that train together: what they tell each other, without Ray."""

from collections.abc import Iterable
from contextlib import nullcontext
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

GROUP_TIMEOUT = timedelta(minutes=15)
"""After which a rank gives up on another in a collective operation. The last resort: a worker that died breaks its
connections, and one whose node is gone is noticed by Ray within half a minute. It must outlast what a healthy rank may
wait for: a checkpoint that the store does not take (`writer.PATIENCE_S`), a shard that it does not give."""


class Group:
    """One rank among `world`.

    Args:
        device: of its network.
    """

    def __init__(self, rank: int, world: int, device: torch.device) -> None:
        self.rank, self.world, self.device = rank, world, device
        self._flag: tuple[Tensor, Any] | None = None
        self._aside = torch.cuda.Stream(device) if device.type == "cuda" and world > 1 else None

    def gather(self, value: Any) -> list[Any]:
        """Return every rank's value, on every rank, in rank order."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors with those of rank 0, on every rank."""
        if self.world > 1:
            for tensor in tensors:
                dist.broadcast(tensor, src=0)

    def agree(self, wish: int) -> int:
        """Return what rank 0 wished for at the call before, 0 at first; alone, `wish` itself.

        Every rank must call it at the same steps. The answer of one call travels while the next step is computed, so
        that no rank waits for it.
        """
        if self.world == 1:
            return wish
        before = self.settle()
        # Filled, not copied: a copy to a GPU would wait for all steps that are queued there.
        flag = torch.full((1,), wish, dtype=torch.int32, device=self.device)
        self._flag = flag, dist.broadcast(flag, src=0, async_op=True)
        return before

    def settle(self) -> int:
        """Take the answer that is still on its way; 0 where none is."""
        if self._flag is None:
            return 0
        (flag, work), self._flag = self._flag, None
        # Read in a stream of its own: in the training's the host would wait for the step that was just queued.
        with torch.cuda.stream(self._aside) if self._aside else nullcontext():
            work.wait()
            return int(flag)
