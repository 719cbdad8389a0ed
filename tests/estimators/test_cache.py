"""Entries are found by what they were computed from, hold whole files, and are bounded together."""

import os
import time
from pathlib import Path

import numpy as np
import pytest

from mskray.errors import UserError
from mskray.estimators import cache as cache_module
from mskray.estimators.cache import FACTS, Cache, Parts, address, kept_in_use
from mskray.progress import Progress
from mskray.storage import Location, locate

FACTS_OF = {"cohort": "ab12", "network": "cd34", "size": 299, "noise": 0.02}


@pytest.mark.parametrize(
    ("facts", "same"),
    [
        ({"noise": 0.02, "size": 299, "network": "cd34", "cohort": "ab12"}, True),
        ({**FACTS_OF, "cohort": "ab13"}, False),
        ({**FACTS_OF, "size": 224}, False),
        ({**FACTS_OF, "size": "299"}, False),
        ({**FACTS_OF, "more": None}, False),
    ],
)
def test_an_address_follows_every_fact_and_not_their_order(facts: dict[str, object], same: bool) -> None:
    assert (address(facts) == address(FACTS_OF)) is same


def test_an_entry_says_what_it_was_computed_from(tmp_path: Path) -> None:
    cache = Cache(locate(tmp_path), 1000)
    place = cache.entry(FACTS_OF)
    assert place == cache.entry(dict(reversed(FACTS_OF.items())))
    assert place.join(FACTS).read_json() == FACTS_OF


def test_parts_are_whole_and_the_missing_ones_are_known(tmp_path: Path) -> None:
    parts = Parts(locate(tmp_path), 3)
    arrays = {"counts": np.array([2, 0]), "descriptors": np.arange(64, dtype=np.uint8).reshape(2, 32)}
    parts.write(1, arrays)
    assert parts.missing() == [0, 2]
    found = parts.read(1)
    assert found.keys() == arrays.keys()
    for name, values in arrays.items():
        np.testing.assert_array_equal(found[name], values)
        assert found[name].dtype == values.dtype


def test_a_damaged_part_is_one_line(tmp_path: Path) -> None:
    parts = Parts(locate(tmp_path), 1)
    parts.write(0, {"a": np.zeros(1000)})
    whole = (tmp_path / "part-00000.npz").read_bytes()
    for data in (whole[:500], b"nothing", b""):
        (tmp_path / "part-00000.npz").write_bytes(data)
        with pytest.raises(UserError, match=r"part-00000\.npz is damaged .*delete it"):
            parts.read(0)
    with pytest.raises(ValueError, match="Object arrays"):
        parts.write(0, {"a": np.array([{}], object)})


def test_what_could_not_be_read_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "_MOST_PART_BYTES", 2000)
    parts = Parts(locate(tmp_path), 2)
    parts.write(0, {"a": np.zeros(100)})
    assert parts.read(0)["a"].shape == (100,)
    with pytest.raises(UserError, match=r"part-00001\.npz would have .* lower keypoints\.most"):
        parts.write(1, {"a": np.zeros(1000)})
    assert parts.missing() == [1]


def old_entry(cache: Cache, number: int, age_s: float) -> Location:
    """An entry of 1,000 bytes and its facts, last used so long ago."""
    place = cache.entry({"number": number})
    place.join("train", "part-00000.npz").write_bytes(bytes(1000))
    then = time.time() - age_s
    os.utime(place.join(FACTS).path, (then, then))
    return place


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path) -> None:
    wide = Cache(locate(tmp_path), 10**9)
    oldest, used, recent = (old_entry(wide, number, age) for number, age in enumerate((9e5, 8e5, 60)))
    (tmp_path / "notes.txt").write_bytes(bytes(9000))
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "model.bin").write_bytes(bytes(9000))
    narrow = Cache(locate(tmp_path), 2500)
    narrow.entry({"number": 1})  # a use
    assert not oldest.exists()
    assert used.join("train", "part-00000.npz").is_file()
    assert recent.exists()
    assert Cache(locate(tmp_path), 1).trim() == [], "what was used within the hour may be in another job's hands"
    assert (tmp_path / "notes.txt").exists()
    assert (tmp_path / "others" / "model.bin").exists()


def test_long_work_keeps_what_it_uses(tmp_path: Path) -> None:
    cache = Cache(locate(tmp_path), 10**9)
    held, other = (old_entry(cache, number, 2 * 3600) for number in range(2))
    seen: list[Progress] = []
    kept_in_use(seen.append, [held], every_s=0)(Progress("learning words"))
    assert seen == [Progress("learning words")]
    assert Cache(locate(tmp_path), 1).trim() == [other.name]
    assert held.join("train", "part-00000.npz").is_file()
    assert held.join(FACTS).read_json() == {"number": 0}


@pytest.mark.parametrize("jump_s", [-5 * 3600.0, 5 * 3600.0])
def test_a_clock_that_jumps_deletes_nothing_that_is_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump_s: float
) -> None:
    """This machine's clock jumps, or the store's: each says of an entry that was used just now that it is old."""
    cache, now = Cache(locate(tmp_path), 10**9), time.time
    held = old_entry(cache, 0, 60)
    narrow = Cache(locate(tmp_path), 1)
    monkeypatch.setattr(time, "time", lambda: now() + jump_s)
    assert narrow.trim() == []
    monkeypatch.undo()
    kept = cache.entry({"number": 1})
    then = now() + jump_s
    os.utime(kept.join(FACTS).path, (then, then))
    assert narrow.trim(keep=kept.name) == []
    assert held.join("train", "part-00000.npz").is_file()


def test_an_entry_of_tomorrow_ages_from_today(tmp_path: Path) -> None:
    """A clock that was a day ahead when it was used: it is neither kept for ever nor deleted at once."""
    cache = Cache(locate(tmp_path), 10**9)
    ahead = old_entry(cache, 0, -86_400)
    assert Cache(locate(tmp_path), 1).trim() == []
    assert abs(os.stat(ahead.join(FACTS).path).st_mtime - time.time()) < 60
    then = time.time() - 7200
    os.utime(ahead.join(FACTS).path, (then, then))
    assert Cache(locate(tmp_path), 1).trim() == [ahead.name]
