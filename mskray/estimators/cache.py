"""What is dear to compute from a cohort, kept in the bucket and found again by what it was computed from.

An entry is a folder named by a hash over everything that decides its content (`Cache.entry`): the cohort's content
hash, the network's hash or the descriptor's name, and every setting. It holds files, one a shard of a split, each
written whole or not at all, so that an extraction that was killed goes on with the shards that are left, and another
job with the same facts computes nothing. Nothing is ever changed in place: other facts are another entry.

    <cache>/<16 hex digits>/facts.json          what it was computed from; written again while used
    <cache>/<16 hex digits>/features-00000.npy  as `mskray.estimators.features.FeatureFiles` writes them
    <cache>/<16 hex digits>/part-00000.npz      as `Parts` writes them

The cache is bounded: before new files are written, entries that were not used for longest are deleted until
`cache.most_gb` is kept. No torch, no Ray.
"""

import hashlib
import json
import math
import re
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from mskray.cohorts import Cohort
from mskray.config import Section, setting
from mskray.errors import UserError
from mskray.estimators.arrays import packed, read_arrays
from mskray.progress import Progress, Report
from mskray.storage import Location, check_access, locate

FACTS = "facts.json"
_IN_COHORT = "_cache"
# Another job may be reading an entry that it opened a while ago.
_SPARED_S = 3600.0
_MOST_PART_BYTES = 4 << 30
_BEGAN = time.time() - time.monotonic()


class CacheSection(Section):
    """Where features and descriptors are kept between jobs."""

    uri: str = setting("", "folder that jobs share; empty: `_cache` in the cohort's folder")
    most_gb: float = setting(
        50.0, "what it may hold; entries unused for longest are deleted", unit="GB", gt=0, le=1_000_000
    )


@dataclass(frozen=True)
class Cache:
    """A folder of entries.

    Args:
        most_bytes: bound on all entries together; those used within the last hour are spared, because another job
            may be reading them.
    """

    folder: Location
    most_bytes: int

    @classmethod
    def of(cls, section: CacheSection, cohort: Cohort) -> "Cache":
        """Return the cache that a config names. Raises UserError where it cannot be written."""
        folder = locate(section.uri) if section.uri else cohort.location.join(_IN_COHORT)
        try:
            check_access(folder, write=True)
        except UserError as error:
            raise UserError(f"the cache: {error}; name another place with cache.uri") from None
        return cls(folder, int(section.most_gb * 1e9))

    def entry(self, facts: Mapping[str, Any]) -> Location:
        """Return the folder of the entry with these facts, made or marked as used now.

        Args:
            facts: JSON values; all that decides the content, such as the cohort's content hash.
        """
        place = self.folder.join(address(facts))
        place.join(FACTS).write_json(dict(facts))
        self.trim(keep=place.name)
        return place

    def trim(self, keep: str = "") -> list[str]:
        """Delete what was not used for longest until the bound is kept; return the names of what went.

        What is old is so by every clock: this machine's, the same as it runs on since this process began, and the
        store's, which is what `keep` was marked by just now. One that jumps ahead then deletes nothing that is in use.

        Args:
            keep: an entry that stays, whatever its size.
        """
        sizes: dict[str, int] = defaultdict(int)
        used: dict[str, float] = {}
        for file in self.folder.walk():
            name, _, rest = file.path.partition("/")
            if not _is_address(name):
                continue  # whatever else lies here is not ours to count or delete
            sizes[name] += file.size
            if rest == FACTS:
                used[name] = file.mtime_ns / 1e9
        clocks = [_now(), time.time(), used.get(keep, math.inf)]
        deleted = []
        for name in sorted(sizes, key=lambda each: used.get(each, 0.0)):
            if sum(sizes.values()) <= self.most_bytes:
                break
            if name == keep:
                continue
            if used.get(name, 0.0) > max(each for each in clocks if each < math.inf) + _SPARED_S:
                with suppress(UserError):  # gone, or damaged
                    _mark(self.folder.join(name))  # by a clock that was ahead: from now on it ages as the others do
            elif used.get(name, 0.0) < min(clocks) - _SPARED_S:
                self.folder.join(name).delete_dir()
                del sizes[name]
                deleted.append(name)
        return deleted


def _mark(entry: Location) -> None:
    """Mark an entry as used now."""
    place = entry.join(FACTS)
    place.write_json(place.read_json())


def _now() -> float:
    """The time by a clock that was set once, when this process began: nobody sets it on."""
    return _BEGAN + time.monotonic()


def kept_in_use(report: Report, entries: Sequence[Location], every_s: float = _SPARED_S / 6) -> Report:
    """Return a report that passes on what it is told and marks entries as used while the work goes on.

    Work that takes longer than an hour would otherwise lose what it still has to read to a job that trims.
    """
    last = time.monotonic()

    def told(progress: Progress) -> None:
        nonlocal last
        if time.monotonic() - last >= every_s:
            for entry in entries:
                _mark(entry)
            last = time.monotonic()
        report(progress)

    return told


@dataclass(frozen=True)
class Parts:
    """Named arrays of a split, one file a shard, for what is not one row an image (descriptors of key points).

    Args:
        folder: a folder of a cache entry.
        count: shards of the split.
    """

    folder: Location
    count: int

    def missing(self) -> list[int]:
        """Numbers of the files that have not been written."""
        there = set(self.written())
        return [number for number in range(self.count) if number not in there]

    def written(self) -> list[int]:
        """Numbers of the files that are there, ascending."""
        found = (_PART.fullmatch(entry.path) for entry in self.folder.walk())
        return sorted(int(each[1]) for each in found if each)

    def write(self, number: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Write one file; readers see all of it or nothing. Raises UserError for more than `read` takes."""
        place, content = self.folder.join(_part(number)), packed(arrays)
        if content.nbytes > _MOST_PART_BYTES:
            raise UserError(
                f"{place} would have {content.nbytes:,} bytes, {_MOST_PART_BYTES:,} are read at most: lower "
                "keypoints.most or augment.noise_copies, or ingest the cohort with fewer shard_rows"
            )
        place.write_bytes(content)

    def read(self, number: int) -> dict[str, np.ndarray]:
        """Read one file. Raises UserError where it is damaged or larger than 4 GiB."""
        return read_arrays(self.folder.join(_part(number)), _MOST_PART_BYTES)


def address(facts: Mapping[str, Any]) -> str:
    """Return 16 hex digits of a SHA-256 over JSON facts, whatever their order."""
    text = json.dumps(dict(facts), sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _is_address(name: str) -> bool:
    return len(name) == 16 and not set(name) - set("0123456789abcdef")


_PART = re.compile(r"part-(\d{5,})\.npz")


def _part(number: int) -> str:
    return f"part-{number:05d}.npz"
