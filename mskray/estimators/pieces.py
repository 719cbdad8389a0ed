"""Rows that are read piece by piece, and what runs over them: in this process, or on Ray tasks.

A function over pieces takes an iterator of arrays (rows, width) and returns one small result, so that a process holds
one piece at a time however many rows there are. `Here` gives it all pieces, `Spread` gives each task some of them.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import ray

from mskray.progress import Report, silent
from mskray.training.waiting import gather

HELD_HERE = 256 << 20
"""Bytes of pieces that `Here` holds."""
_HELD_SHARE = 0.3
"""Share of a cluster's shared memory that pieces may fill."""
_TASKS_PER_CPU = 2
_BLOCK = 1 << 16

T = TypeVar("T")
OverPieces = Callable[[Iterator[np.ndarray]], T]


class Pieces(Protocol):
    """Rows in pieces; small, so that it travels to every task."""

    @property
    def numbers(self) -> Sequence[int]:
        """Numbers of the pieces, none of which is empty."""

    def read(self, number: int) -> np.ndarray:
        """Read one piece: (rows, width) float32."""


class Each(Protocol):
    """Something that runs a function over all pieces, in one part or in several.

    It `remembers` where the function runs in this process over the same pieces in the same order each time: what it
    keeps of them is there the next time.
    """

    remembers: bool

    def __call__(self, function: OverPieces[T], whole: bool = False) -> list[T]:
        """Return the results of the parts, in order; `whole` asks for one part."""


@dataclass(frozen=True)
class Arrays:
    """Pieces that are in memory already."""

    arrays: tuple[np.ndarray, ...]

    @property
    def numbers(self) -> Sequence[int]:
        return [number for number, each in enumerate(self.arrays) if len(each)]

    def read(self, number: int) -> np.ndarray:
        return np.asarray(self.arrays[number], np.float32)


@dataclass(frozen=True)
class Chained:
    """Pieces of several sources, one source after the other."""

    sources: tuple[Pieces, ...]

    @property
    def numbers(self) -> Sequence[int]:
        return range(sum(len(source.numbers) for source in self.sources))

    def read(self, number: int) -> np.ndarray:
        for source in self.sources:
            if number < len(source.numbers):
                return source.read(source.numbers[number])
            number -= len(source.numbers)
        raise IndexError(number)


@dataclass(frozen=True)
class Sampled:
    """The rows of other pieces whose `row_hashes` are at most `limit`: a sample that no order or cut changes."""

    pieces: Pieces
    seed: int
    limit: int

    @property
    def numbers(self) -> Sequence[int]:
        return self.pieces.numbers

    def read(self, number: int) -> np.ndarray:
        rows = self.pieces.read(number)
        return rows[row_hashes(rows, self.seed) <= np.uint64(self.limit)]


def row_hashes(rows: np.ndarray, seed: int) -> np.ndarray:
    """Return a number (n,) uint64 of each row (n, width) float32 that depends on its values and the seed alone.

    Multiply-shift over the row's 32-bit words (Dietzfelbinger 1996), mixed so that all bits count in comparisons.
    """
    factors = np.random.default_rng(seed).integers(2**63, size=rows.shape[1], dtype=np.uint64) * 2 + 1
    result = np.empty(len(rows), np.uint64)
    for start in range(0, len(rows), _BLOCK):
        block = np.ascontiguousarray(rows[start : start + _BLOCK], np.float32)
        result[start : start + _BLOCK] = block.view(np.uint32).astype(np.uint64) @ factors
    result ^= result >> np.uint64(29)
    result *= np.uint64(0xBF58476D1CE4E5B9)
    return result ^ (result >> np.uint64(32))


class Here:
    """Run in this process; the first pieces are held, up to 256 MB, and the others read again each time."""

    remembers = True

    def __init__(self, pieces: Pieces) -> None:
        self._pieces = pieces
        self._held: dict[int, np.ndarray] = {}
        self._bytes = 0

    def __call__(self, function: OverPieces[T], whole: bool = False) -> list[T]:
        return [function(self._read())]

    def _read(self) -> Iterator[np.ndarray]:
        for number in self._pieces.numbers:
            rows = self._held[number] if number in self._held else self._pieces.read(number)
            if number not in self._held and self._bytes + rows.nbytes <= HELD_HERE:
                self._held[number] = rows
                self._bytes += rows.nbytes
            if len(rows):
                yield rows


class Spread:
    """Run on Ray tasks, a few for each CPU, each over some of the pieces.

    The first run reads the pieces. Where they fill less than 30 % of the cluster's shared memory they stay there for
    the next, otherwise each run reads them again.
    """

    remembers = False

    def __init__(self, pieces: Pieces, report: Report = silent) -> None:
        self._pieces = pieces
        self._report = report
        self._held: dict[int, Any] = {}

    def __call__(self, function: OverPieces[T], whole: bool = False) -> list[T]:
        numbers = list(self._pieces.numbers)
        parts = 1 if whole else max(1, min(len(numbers), _TASKS_PER_CPU * int(ray.cluster_resources().get("CPU", 1))))
        shared = ray.put(function)
        if numbers and not self._held:
            self._hold(numbers)
        given = [
            {int(number): [self._held[int(number)]] if self._held else [] for number in part}
            for part in np.array_split(numbers, parts)
        ]
        return gather([_run.remote(shared, self._pieces, part) for part in given], "passing over rows", self._report)

    def _hold(self, numbers: list[int]) -> None:
        """Read every piece into shared memory, if the largest of the first tells that all will fit."""
        first = _read.remote(self._pieces, numbers[0])
        room = _HELD_SHARE * ray.cluster_resources().get("object_store_memory", 0.0)
        (rows,) = gather([first], "reading rows", self._report)
        if rows.nbytes * len(numbers) <= room:
            self._held = {numbers[0]: first, **{each: _read.remote(self._pieces, each) for each in numbers[1:]}}


@ray.remote(num_cpus=0.5, max_retries=3, scheduling_strategy="SPREAD")
def _read(pieces: Pieces, number: int) -> np.ndarray:
    return pieces.read(number)


@ray.remote(num_cpus=1, max_retries=3, scheduling_strategy="SPREAD")
def _run(function: OverPieces[Any], pieces: Pieces, part: dict[int, list[Any]]) -> Any:
    def rows() -> Iterator[np.ndarray]:
        for number, held in part.items():
            piece = ray.get(held[0]) if held else pieces.read(number)
            if len(piece):
                yield piece

    return function(rows())
