"""Which row is seen when: a pure function of (seed, epoch), so that a run can stop and go on at any step.

Each epoch lays the shards in a random order on one line of rows and cuts it into equal segments, a segment a
rank. A rank walks its segment in windows of `window` rows and shuffles inside each. So

- every rank makes the same number of steps, whatever the shards' sizes;
- a rank reads about 1/world of the shards, and holds at most two windows;
- the rows dropped at the end (fewer than one step of all ranks) differ from epoch to epoch;
- nothing depends on timing: the same seed gives the same batches, streamed or in memory, resumed or not.

Cost: O(rows of the segment) integers an epoch.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mskray.errors import UserError


@dataclass(frozen=True)
class Rows:
    """References to rows: two int64 arrays of the same length, shard number and row number inside the shard."""

    shard: np.ndarray
    row: np.ndarray

    def __len__(self) -> int:
        return len(self.shard)

    def __getitem__(self, part: slice | np.ndarray) -> "Rows":
        return Rows(self.shard[part], self.row[part])


@dataclass(frozen=True)
class Plan:
    """The order of a training split for one rank.

    Args:
        shard_rows: rows of each shard.
        batch: rows per rank and step.
        window: rows among which a rank shuffles.
    Raises:
        UserError: when the split is smaller than one step of all ranks.
    """

    shard_rows: tuple[int, ...]
    batch: int
    window: int
    seed: int
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if self.steps == 0:
            raise UserError(
                f"the training split has {sum(self.shard_rows)} labelled samples, fewer than one step of {self.world} "
                f"worker(s) × {self.batch}: lower data.batch_size or resources.workers"
            )

    @property
    def steps(self) -> int:
        """Steps an epoch, the same on every rank."""
        return sum(self.shard_rows) // (self.batch * self.world)

    def windows(self, epoch: int) -> Iterator[Rows]:
        """The rank's rows of one epoch, window by window, each already shuffled."""
        line = self._segment(epoch)
        random = np.random.default_rng([self.seed, epoch, self.rank, 1])
        for start in range(0, len(line), self.window):
            part = line[start : start + self.window]
            yield part[random.permutation(len(part))]

    def batches(self, epoch: int, first: int = 0) -> Iterator[Rows]:
        """The rank's batches of one epoch from step `first` on."""
        shard, row = [], []
        for window in self.windows(epoch):
            shard.append(window.shard)
            row.append(window.row)
        line = Rows(np.concatenate(shard), np.concatenate(row))
        for step in range(first, self.steps):
            yield line[step * self.batch : (step + 1) * self.batch]

    def _segment(self, epoch: int) -> Rows:
        order = np.random.default_rng([self.seed, epoch, 0]).permutation(len(self.shard_rows))
        return segment([(int(shard), self.shard_rows[shard]) for shard in order], self.rank, self.world)


def segment(shards: list[tuple[int, int]], rank: int, world: int) -> Rows:
    """Rows of the `rank`-th of `world` equal cuts of the line made of (shard number, rows)."""
    total = sum(rows for _, rows in shards)
    begin, end = rank * total // world, (rank + 1) * total // world
    numbers, rows, position = [], [], 0
    for shard, count in shards:
        low, high = max(begin - position, 0), min(end - position, count)
        if low < high:
            numbers.append(np.full(high - low, shard))
            rows.append(np.arange(low, high))
        position += count
    if not numbers:
        return Rows(np.empty(0, np.int64), np.empty(0, np.int64))
    return Rows(np.concatenate(numbers), np.concatenate(rows))
