"""From shards in the bucket to batches, in the order of a `Plan`, with the next shards always under way.

A reader (`readers`: a task of the cluster, or a thread) reads one shard and makes samples of its rows, images of the
input size in uint8 or uint16. On a cluster they lie in the node's shared memory, from where every rank of that node
gathers its batches without a copy of the shard. Two ways to hold shards:

- `memory`: the driver asks for every shard once, before the workers start; nothing is read again. The trials of a
  search hold the same shards (`mskray.training.once`).
- `stream`: each rank asks for the shards of the next window while it trains on this one, across the ends of
  epochs, so that no epoch starts with a wait.

Both give the same batches. `choose_cache` decides by size.
"""

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from mskray.cohorts import Cohort, Shard
from mskray.cohorts.schema import is_pixels
from mskray.imaging.inputs import InputFormat
from mskray.training.digests import digest
from mskray.training.plan import Rows
from mskray.training.readers import Readers
from mskray.training.samples import Arrays, Samples

if TYPE_CHECKING:
    from mskray.training.once import Shared

LOADER_CPUS = 0.5
"""That a reader takes of a cluster."""


@dataclass(frozen=True)
class Split:
    """One split of a cohort as the loop reads it. It travels to every worker; what `only` returns, to every reader.

    Args:
        cohort: what reads shards, without a list of them.
        samples: how rows become samples.
        input: what the network is given of each image.
        counts: samples of each shard, in the order of `shards`.
        shards: the shards; those of a view know which of their rows it keeps.
    """

    cohort: Cohort
    name: str
    samples: Samples
    input: InputFormat
    counts: tuple[int, ...]
    shards: tuple[Shard, ...]

    @property
    def rows(self) -> int:
        return sum(self.counts)

    def load(self, shard: int) -> Arrays:
        """Read one shard: what `samples.load` makes of it."""
        rows = self.cohort.read_shard(self.shards[shard], ["image", *self.samples.columns])
        return self.samples.load(rows, self.input)

    def only(self, shard: int) -> "Split":
        """The split with one of its shards, as number 0."""
        return replace(self, counts=(self.counts[shard],), shards=(self.shards[shard],))


def describe_split(cohort: Cohort, name: str, samples: Samples, form: InputFormat) -> tuple[Split, np.ndarray]:
    """Return a split and the labels (n,) or (n, tasks) int64 of its samples."""
    pictures = {field.name for field in cohort.schema if is_pixels(field)}
    rows = cohort.columns(name, [column for column in samples.columns if column not in pictures])
    shards = cohort.shards(name)
    ends = np.cumsum([shard.rows for shard in shards])[:-1]
    parts = zip(*(np.split(values, ends) for values in rows.values()), strict=True)
    labels = [samples.labels(dict(zip(rows, part, strict=True))) for part in parts]
    split = Split(cohort.without_shards(), name, samples, form, tuple(len(each) for each in labels), shards)
    return split, np.concatenate(labels)


def request(readers: Readers, split: Split, shard: int) -> Any:
    """Start reading a shard; what the readers give for the handle is its arrays."""
    return readers.start(partial(split.only(shard).load, 0))


def hold(
    readers: Readers, split: Split, content_hash: str, bytes_per_pixel: int, shared: "Shared | None" = None
) -> tuple[Any, ...]:
    """Start reading every shard and return the handles; the trials of a search are given the same ones."""
    if shared is None:
        return _request_all(readers, split)
    address, size = digest([content_hash, split]), _held_bytes([split], bytes_per_pixel)
    return tuple(shared.hold(address, partial(_request_all, readers, split), size, readers.room()))


def _request_all(readers: Readers, split: Split) -> tuple[Any, ...]:
    return tuple(request(readers, split, shard) for shard in range(len(split.counts)))


def choose_cache(wanted: str, splits: Sequence[Split], bytes_per_pixel: int, readers: Readers) -> str:
    """Return "memory" or "stream": what `data.cache` says, or by size where it says "auto"."""
    if wanted != "auto":
        return wanted
    return "memory" if _held_bytes(splits, bytes_per_pixel) <= readers.room() else "stream"


def _held_bytes(splits: Sequence[Split], bytes_per_pixel: int) -> int:
    images = sum(split.rows * split.samples.images_each * split.input.size**2 for split in splits)
    return images * bytes_per_pixel


class Shards:
    """The shards that a rank holds or has asked for.

    Args:
        split: what to read.
        held: a handle for every shard in "memory" mode, empty in "stream" mode.
    """

    def __init__(self, readers: Readers, split: Split, held: Sequence[Any] = ()) -> None:
        self._readers, self._split = readers, split
        self._keep = bool(held)
        self._handles: dict[int, Any] = dict(enumerate(held))
        self._arrays: dict[int, Arrays] = {}
        self._uses: Counter[int] = Counter()

    def expect(self, shards: Iterable[int]) -> None:
        """Note a coming use of these shards and start reading those that are not at hand."""
        for shard in shards:
            self._uses[shard] += 1
            if shard not in self._handles:
                self._handles[shard] = request(self._readers, self._split, shard)

    def gather(self, rows: Rows) -> Arrays:
        """Copy the given rows, one at least, into new arrays, in order."""
        shards, places = rows.shard.tolist(), rows.row.tolist()
        for shard in shards:
            if shard not in self._arrays:
                self._arrays[shard] = self._readers.take(self._handles[shard])
        result: Arrays = {}
        for name, values in self._arrays[shards[0]].items():
            result[name] = gathered = np.empty((len(rows), *values.shape[1:]), values.dtype)
            for number, (shard, place) in enumerate(zip(shards, places, strict=True)):
                gathered[number] = self._arrays[shard][name][place]
        return result

    def release(self, shards: Iterable[int]) -> None:
        """Note that a use is over and let go of shards that no coming batch needs."""
        for shard in shards:
            self._uses[shard] -= 1
            if self._uses[shard] <= 0 and not self._keep:
                self._handles.pop(shard, None)
                self._arrays.pop(shard, None)


def feed(shards: Shards, batches: Iterable[tuple[Any, Rows]], ahead: int) -> Iterator[tuple[Any, Arrays]]:
    """Yield (tag, arrays) for each (tag, rows), asking for shards `ahead` batches before they are needed."""
    waiting: deque[tuple[Any, Rows, list[int]]] = deque()
    source = iter(batches)
    exhausted = False
    while True:
        while not exhausted and len(waiting) <= ahead:
            try:
                tag, rows = next(source)
            except StopIteration:
                exhausted = True
                break
            needed = [int(shard) for shard in np.unique(rows.shard)]
            shards.expect(needed)
            waiting.append((tag, rows, needed))
        if not waiting:
            return
        tag, rows, needed = waiting.popleft()
        yield tag, shards.gather(rows)
        shards.release(needed)
