"""Checkpoints on the storage: whole or known not to be, on disk and in an object store."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mskray.errors import UserError
from mskray.storage import Location, locate
from mskray.training.shelf import DESCRIPTION, Damaged, Shelf

FILES = {"weights.safetensors": b"w" * 1000, "optimizer.pt": b"o" * 500, "position.json": b"{}"}


def files_of(number: int) -> dict[str, bytes]:
    return {name: data + str(number).encode() for name, data in FILES.items()}


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    """Epochs 1 to 3, of which the second is the best, then a step of the fourth."""
    made = Shelf(locate(tmp_path / "run"))
    for epoch, score in ((1, 0.4), (2, 0.9), (3, 0.6)):
        made.put(epoch, 0, score, files_of(epoch))
    made.put(3, 20, None, files_of(320))
    return made


def folder_of(tmp_path: Path, prefix: str) -> Path:
    (found,) = (tmp_path / "run" / "checkpoints").glob(f"{prefix}-*")
    return found


def taken(shelf: Shelf, tmp_path: Path, best: bool = False) -> tuple[tuple[int, int] | None, list[str]]:
    """Where the checkpoint that a new shelf over the same folder gives stands, and what it tells."""
    into, said = tmp_path / "into", list[str]()
    into.mkdir(exist_ok=True)
    found = (shelf.best if best else shelf.newest)(into, said.append)
    if found is None:
        return None, said
    number = 320 if found.step else found.epoch
    assert {each.name: each.read_bytes() for each in into.iterdir()} == files_of(number)
    return (found.epoch, found.step), said


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def rewrite(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def outside(path: Path) -> None:
    secret = path.parent.parent / "secret"
    secret.write_bytes(b"s")
    rewrite(path, files={"../secret": {"bytes": 1, "sha256": hashlib.sha256(b"s").hexdigest()}})


DAMAGES: list[tuple[str, Callable[[Path], object], str]] = [
    ("weights.safetensors", flip, "weights.safetensors is not what was written"),
    ("position.json", flip, "position.json is not what was written"),
    (
        "optimizer.pt",
        lambda path: path.write_bytes(path.read_bytes()[:-3]),
        "optimizer.pt has 500 bytes in place of 503",
    ),
    ("optimizer.pt", lambda path: path.write_bytes(b""), "optimizer.pt has 0 bytes"),
    ("weights.safetensors", Path.unlink, "weights.safetensors is missing"),
    (DESCRIPTION, lambda path: path.write_bytes(b""), "checkpoint.json cannot be read"),
    (DESCRIPTION, lambda path: path.write_bytes(b"\xff{"), "checkpoint.json cannot be read"),
    (DESCRIPTION, lambda path: rewrite(path, files={}), "checkpoint.json cannot be read"),
    (DESCRIPTION, outside, "checkpoint.json cannot be read"),
]


def test_the_newest_and_the_best(shelf: Shelf, tmp_path: Path) -> None:
    again = Shelf(locate(tmp_path / "run"))
    assert taken(again, tmp_path) == ((3, 20), [])
    assert taken(again, tmp_path, best=True) == ((2, 0), [])
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) == 3, "the first epoch is neither"


@pytest.mark.parametrize(("file", "damage", "reason"), DAMAGES)
def test_a_damaged_one_is_told_and_the_one_before_is_taken(
    shelf: Shelf, tmp_path: Path, file: str, damage: Callable[[Path], object], reason: str
) -> None:
    damage(folder_of(tmp_path, "00003-00000020") / file)
    again = Shelf(locate(tmp_path / "run"))
    place, (said,) = taken(again, tmp_path)
    assert place == (3, 0)
    assert said.startswith(f"the checkpoint at epoch 4, step 20 is damaged ({reason}")
    assert said.endswith("the one before it is taken")
    # The writer clears it away: it is neither told again nor kept in place of a whole one.
    again.tidy()
    assert taken(Shelf(locate(tmp_path / "run")), tmp_path) == ((3, 0), [])


def test_a_damaged_best_one_is_told_and_the_next_best_is_taken(shelf: Shelf, tmp_path: Path) -> None:
    flip(folder_of(tmp_path, "00002-00000000") / "weights.safetensors")
    place, (said,) = taken(Shelf(locate(tmp_path / "run")), tmp_path, best=True)
    assert place == (3, 0)
    assert said.startswith("the checkpoint at the end of epoch 2 is damaged")
    assert said.endswith("the next best is taken")


def test_what_is_damaged_on_its_way_alone_is_read_again(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, asked = Location.read_bytes, list[str]()

    def noisy(self: Location, *given: int) -> bytes:
        asked.append(self.name)
        data = read(self, *given)
        return data if asked.count("weights.safetensors") != 1 else data[:-1] + b"!"

    monkeypatch.setattr(Location, "read_bytes", noisy)
    assert taken(Shelf(locate(tmp_path / "run")), tmp_path) == ((3, 20), [])
    assert asked.count("weights.safetensors") == 2


def test_where_all_are_damaged_there_is_none(shelf: Shelf, tmp_path: Path) -> None:
    for folder in (tmp_path / "run" / "checkpoints").iterdir():
        flip(folder / "optimizer.pt")
    place, said = taken(Shelf(locate(tmp_path / "run")), tmp_path)
    assert place is None
    assert len(said) == 3


def test_one_that_was_cut_off_is_none_and_is_cleared_away(shelf: Shelf, tmp_path: Path) -> None:
    (folder_of(tmp_path, "00003-00000020") / DESCRIPTION).unlink()
    again = Shelf(locate(tmp_path / "run"))
    assert taken(again, tmp_path) == ((3, 0), [])
    again.tidy()
    assert not list((tmp_path / "run" / "checkpoints").glob("00003-00000020-*"))


def test_what_another_rank_chose_is_taken_or_refused(shelf: Shelf, tmp_path: Path) -> None:
    name, into = folder_of(tmp_path, "00002").name, tmp_path / "into"
    into.mkdir()
    Shelf(locate(tmp_path / "run")).take(name, into)
    assert (into / "position.json").read_bytes() == b"{}2"
    flip(tmp_path / "run" / "checkpoints" / name / "position.json")
    with pytest.raises(Damaged, match="not what was written"):
        shelf.take(name, into)
    with pytest.raises(Damaged, match="is gone"):
        shelf.take("00009-00000000-000000", into)


def test_a_new_shelf_goes_on_with_what_it_finds(shelf: Shelf, tmp_path: Path) -> None:
    again = Shelf(locate(tmp_path / "run"))
    again.tidy()
    again.put(4, 0, 0.95, files_of(4))
    again.put(5, 0, 0.1, files_of(5))
    kept = sorted(each.name[:14] for each in (tmp_path / "run" / "checkpoints").iterdir())
    assert kept == ["00002-00000000", "00004-00000000", "00005-00000000"]


def test_what_cannot_be_written_leaves_nothing_behind(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted((tmp_path / "run" / "checkpoints").iterdir())
    write = Location.write_bytes

    def full(self: Location, data: bytes) -> None:
        if self.name == "optimizer.pt":
            raise UserError("no room")
        write(self, data)

    monkeypatch.setattr(Location, "write_bytes", full)
    with pytest.raises(UserError, match="no room"):
        shelf.put(9, 0, 1.0, files_of(9))
    assert sorted((tmp_path / "run" / "checkpoints").iterdir()) == before


def test_an_empty_shelf(tmp_path: Path) -> None:
    empty = Shelf(locate(tmp_path / "run"))
    assert taken(empty, tmp_path) == (None, [])
    empty.tidy()


@pytest.mark.slow
def test_in_an_object_store(s3_folder: Location, tmp_path: Path) -> None:
    shelf, said, into = Shelf(s3_folder.join("run")), list[str](), tmp_path / "into"
    into.mkdir()
    first = shelf.put(1, 0, 0.4, files_of(1))
    second = shelf.put(2, 0, 0.2, files_of(2))
    s3_folder.join("run", "checkpoints", second.name, "optimizer.pt").delete()
    again = Shelf(s3_folder.join("run"))
    assert again.newest(into, said.append) == first
    assert "optimizer.pt is missing" in said[0]
    again.tidy()
    assert [each.name for each in again.entries()] == [first.name]


def test_a_checkpoint_of_a_newer_version_is_refused_and_kept(shelf: Shelf, tmp_path: Path) -> None:
    newer = folder_of(tmp_path, "00003-00000020")
    rewrite(newer / DESCRIPTION, schema_version=2)
    with pytest.raises(UserError, match=r"00003-00000020-\w+ was written by a newer mskray"):
        Shelf(locate(tmp_path / "run")).tidy()
    assert (newer / DESCRIPTION).exists()
