"""The loop's view of where it runs: its rank, its device, what it reports, what it goes on from.

As it stands, one rank alone in its process (`local`); `on_ray.session` is one of Ray Train's workers.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from mskray.errors import Fault, UserError
from mskray.scratch import scratch
from mskray.storage import Location
from mskray.training.checkpoint import FILES
from mskray.training.group import Group
from mskray.training.meters import Meters
from mskray.training.news import Say
from mskray.training.readers import Readers
from mskray.training.run import Part
from mskray.training.shelf import Damaged, Shelf
from mskray.training.writer import Make, Writer

_GOES_ON, _WRITES, _STOPS = range(3)


class Halted(Fault):
    """No checkpoint can be written any more; every rank raises it at the same point."""


class Session(Group):
    """One training worker.

    Args:
        run: the run's own folder.
        say: called on rank 0 only.
        readers: of its shards.
        stored: called on rank 0 whenever a checkpoint is on the storage.
    """

    def __init__(
        self,
        run: Location,
        say: Say,
        readers: Readers,
        device: torch.device,
        rank: int = 0,
        world: int = 1,
        stored: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(rank, world, device)
        self.readers, self.meters = readers, Meters()
        self._say, self._stored = say, stored
        self._said = float("-inf")
        self._shelf = Shelf(run)
        self._writer = Writer(self._shelf, self._trouble)
        self._kept = time.monotonic()

    @contextmanager
    def restored(self, part: Part | None = None) -> Iterator[Path | None]:
        """Give the folder of this run's latest whole checkpoint, at its beginning of that which its part goes on from.

        None where there is neither. Rank 0 chooses and may take its time over it: the others wait for it, and all for
        the last to have loaded, by means that have no time-out; torch's have.
        """
        with scratch("checkpoint") as folder:
            if self._chosen(folder):
                yield folder
            elif part is not None and part.start is not None:
                for name in FILES:
                    (folder / name).write_bytes(part.start.join(name).read_bytes())
                yield folder
            else:
                yield None
        self._meet()

    def _chosen(self, folder: Path) -> bool:
        """Put the run's checkpoint into a folder, the same on every rank; whether there is one."""
        name = ""
        if self.rank == 0:
            damaged: list[str] = []
            found = self._shelf.newest(folder, damaged.append)
            for line in damaged:
                self._trouble(line)
            if damaged and found is None:
                self._trouble("no checkpoint is whole: the training begins anew")
            self._shelf.tidy()
            name = found.name if found else ""
        name = self._first(name)
        if name and self.rank:
            try:
                self._shelf.take(name, folder)
            except Damaged as error:  # between rank 0's reading and this one's: begin again, with another choice
                raise UserError(f"checkpoint {name}: {error}") from error
        return bool(name)

    def _first(self, value: str) -> str:
        """Return what rank 0 gives, on every rank, without a time-out."""
        return value

    def _meet(self) -> None:
        """Wait for every rank, without a time-out."""

    def due(self, every_s: float) -> bool:
        """Tell rank 0 whether its last event is at least `every_s` seconds ago; other ranks never say anything."""
        return self.rank == 0 and time.monotonic() - self._said >= every_s

    def say(self, event: dict[str, Any]) -> None:
        """Send an event to the driver, from rank 0 only."""
        if self.rank == 0:
            self._said = time.monotonic()
            self._say(event)

    def checkpoint_now(self, minutes: float) -> bool:
        """Tell all ranks, at the same step, whether rank 0's last checkpoint is so many minutes old; 0 for never.

        Raises:
            Halted: checkpoints cannot be written.
        """
        wish = _GOES_ON
        if self.rank == 0:
            if self._writer.failed:
                wish = _STOPS
            elif minutes and time.monotonic() - self._kept >= 60 * minutes:
                # Counted from the wish: its answer comes a step later, and it would be wished for twice.
                wish, self._kept = _WRITES, time.monotonic()
        found = self.agree(wish)
        if found == _STOPS:
            self.check()
        return found == _WRITES

    def keep(self, epoch: int, step: int, score: float | None, snapshot: Callable[[], Make], event: Any = None) -> None:
        """Write a checkpoint while the training goes on. Every rank must call it at the same step.

        Args:
            snapshot: copies what is kept, on rank 0, and returns what makes its files.
            event: said when it is stored, so that no later stop loses what was told.
        """
        if self.rank:
            return
        self._writer.wait()  # before the copy: one at a time in memory

        def stored() -> None:
            self._stored()
            if event is not None:
                self._say(event)

        self._writer.put(epoch, step, score, snapshot(), stored)
        self._kept = time.monotonic()

    def check(self) -> None:
        """Raise Halted on every rank where checkpoints cannot be written; every rank must call it at the same step."""
        failed = self.gather(self._writer.failed)[0]
        if failed:
            raise Halted(failed)

    def finish(self) -> None:
        """Wait for the last checkpoint to be stored. Raises Halted, on every rank, where it could not be."""
        self._writer.wait()
        self.meters.flush()
        self.check()

    def leave(self, seconds: float) -> None:
        """Give a checkpoint that is being written this time to end: the process, or the training in it, is about to."""
        self._writer.leave(seconds)

    def _trouble(self, line: str) -> None:
        self._say({"kind": "trouble", "text": line})
