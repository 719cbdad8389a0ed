"""Features of a split as float32 files, one a shard of the cohort, and the passes over them.

Nothing here holds more than one file and what it returns, however many images there are. The rows of all files
together, in the order of the shards, are numbered from 0: that number is a row's name everywhere else.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from mskray.errors import UserError
from mskray.estimators.arrays import damaged, packed_array, read_array
from mskray.storage import Location

_MOST_BYTES = 4 << 30


@dataclass(frozen=True)
class FeatureFiles:
    """The features of one split; small, so that it travels to every task.

    Args:
        folder: where the files are.
        counts: rows of each file.
    """

    folder: Location
    counts: tuple[int, ...]

    @property
    def rows(self) -> int:
        return sum(self.counts)

    @property
    def starts(self) -> np.ndarray:
        """Number of each file's first row, and the number of all rows last: (files + 1,) int64."""
        return np.concatenate([[0], np.cumsum(self.counts)]).astype(np.int64)

    @property
    def numbers(self) -> list[int]:
        """Numbers of the files; a shard without a labelled image has none."""
        return [number for number, count in enumerate(self.counts) if count]

    def missing(self) -> list[int]:
        """Files that have not been written."""
        there = {entry.path for entry in self.folder.walk()}
        return [number for number in self.numbers if _name(number) not in there]

    def write(self, number: int, values: np.ndarray) -> None:
        """Write one file from (rows, features); readers see all of it or nothing.

        Raises:
            UserError: more than `read` takes.
        """
        place, content = self.folder.join(_name(number)), packed_array(values.astype(np.float32, copy=False))
        if content.nbytes > _MOST_BYTES:
            raise UserError(
                f"{place} would have {content.nbytes:,} bytes, {_MOST_BYTES:,} are read at most: ingest the cohort "
                "with fewer shard_rows"
            )
        place.write_bytes(content)

    def read(self, number: int) -> np.ndarray:
        """Read one file: (rows, features) float32. Raises UserError where it is damaged or larger than 4 GiB."""
        place, rows = self.folder.join(_name(number)), self.counts[number]
        values = read_array(place, _MOST_BYTES)
        if values.ndim != 2 or len(values) != rows or values.dtype != np.float32:
            raise damaged(place, f"{values.dtype} {values.shape} where {rows} rows of float32 are expected")
        return values

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """Read some rows, their numbers ascending: (len(rows), features) float32."""
        result = np.empty((0, 0), np.float32)
        for number, inside in self.where(rows):
            values = self.read(number)
            if not result.size:
                result = np.empty((len(rows), values.shape[1]), np.float32)
            result[inside] = values[rows[inside] - self.starts[number]]
        return result

    def moments(self, groups: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Sum up the rows of each group in one pass.

        Args:
            groups: (rows,) group of each row, from 0 to count − 1.
        Returns:
            Rows (count,), sums (count, features) and sums of squares (count, features), float64.
        """
        sums = squares = np.zeros((count, 0))
        starts = self.starts
        for number in self.numbers:
            values, start = self.read(number), starts[number]
            if not sums.size:
                sums, squares = (np.zeros((count, values.shape[1])) for _ in range(2))
            inside = groups[start : start + len(values)]
            for group in np.unique(inside):
                part = values[inside == group].astype(np.float64)
                sums[group] += part.sum(axis=0)
                squares[group] += np.square(part, out=part).sum(axis=0)
        return np.bincount(groups, minlength=count).astype(np.float64), sums, squares

    def where(self, rows: np.ndarray) -> Iterator[tuple[int, slice]]:
        """Yield each file that holds some of the rows, with their places among the rows."""
        cuts = np.searchsorted(rows, self.starts)
        for number, (first, end) in enumerate(pairwise(cuts)):
            if first < end:
                yield number, slice(int(first), int(end))


def _name(number: int) -> str:
    return f"features-{number:05d}.npy"
