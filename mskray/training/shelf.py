"""A run's checkpoints: `<run>/checkpoints/<epoch>-<step>-<6 hex digits>/`, each whole or known not to be.

A checkpoint is its files and `checkpoint.json`, written last, with the size and SHA-256 of each. One without it was cut
off and is no checkpoint; one whose files are not what it says is damaged: that is told in a line and the one before
is taken. Ray Train keeps a list of checkpoints in one file that a kill breaks
(https://github.com/ray-project/ray/issues/58179), and no hashes: here every folder stands for itself.
"""

import hashlib
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mskray.errors import UserError
from mskray.storage import Location
from mskray.training.keeping import Entry, best_first, latest_first, superfluous

FOLDER, DESCRIPTION = "checkpoints", "checkpoint.json"
_NAME = re.compile(r"(\d+)-(\d+)-[0-9a-f]{6}")
# A damaged checkpoint is deleted (`tidy`): not for what was damaged on its way here alone.
_READS = 2
_FileName = Annotated[str, Field(pattern=r"^[a-z]+\.[a-z]+$")]  # nothing of a path
Tell = Callable[[str], None]


class Damaged(Exception):
    """A checkpoint is not what its description says."""


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class _Description(BaseModel):
    """`checkpoint.json`."""

    model_config = ConfigDict(extra="forbid")
    schema_version: int = Field(default=1, ge=1, le=1)
    epoch: int = Field(ge=0)
    step: int = Field(ge=0)
    score: float | None
    files: dict[_FileName, _File] = Field(min_length=1)


class Shelf:
    """The checkpoints of one run. Every method raises UserError where the storage fails for longer than its retries.

    Args:
        run: the run's own folder.
    """

    def __init__(self, run: Location) -> None:
        self._folder = run.join(FOLDER)
        self._known: list[Entry] = []
        self._damaged: set[str] = set()

    def newest(self, into: Path, tell: Tell) -> Entry | None:
        """Copy the latest whole checkpoint into a folder; None where there is none. Tells of each that is damaged."""
        return self._first(latest_first(self.entries()), into, tell, "the one before it")

    def best(self, into: Path, tell: Tell) -> Entry | None:
        """As `newest`, of those that end an epoch the one with the highest score."""
        return self._first(best_first(self.entries()), into, tell, "the next best")

    def take(self, name: str, into: Path) -> None:
        """Copy one checkpoint into a folder. Raises Damaged."""
        found = next((each for each in self.entries() if each.name == name), None)
        if found is None:
            raise Damaged(f"checkpoint {name} is gone")
        self._take(found, into)

    def put(self, epoch: int, step: int, score: float | None, files: Mapping[str, bytes]) -> Entry:
        """Write a checkpoint, whole or not at all, and delete those that are not kept any longer.

        It may be called again after it raised: a name is never used twice, so two writers cannot mix their files.
        """
        name = f"{epoch:05d}-{step:08d}-{secrets.token_hex(3)}"
        place = self._folder.join(name)
        known = {each: (len(data), hashlib.sha256(data).hexdigest()) for each, data in files.items()}
        try:
            for each, data in files.items():
                place.join(each).write_bytes(data)
            described = {each: _File(bytes=size, sha256=digest) for each, (size, digest) in known.items()}
            text = _Description(epoch=epoch, step=step, score=score, files=described)
            place.join(DESCRIPTION).write_json(text.model_dump(mode="json"))
        except BaseException:
            with suppress(UserError, OSError):
                place.delete_dir()
            raise
        entry = Entry(name, epoch, step, score, known)
        self._known.append(entry)
        self._clear()
        return entry

    def tidy(self) -> None:
        """Delete what cannot be used: folders that were cut off, and damaged ones. By the one writer, at its start."""
        listed = self._listed()
        entries = self.entries(listed)
        self._known = [each for each in entries if not each.damage and each.name not in self._damaged]
        whole = {each.name for each in self._known}
        for name in listed.keys() - whole:
            self._delete(name)
        self._clear()

    def entries(self, listed: Mapping[str, Mapping[str, int]] | None = None) -> list[Entry]:
        """What lies on the shelf and has a description, damaged or not."""
        listed = self._listed() if listed is None else listed
        return [self._described(name, sizes) for name, sizes in listed.items() if DESCRIPTION in sizes]

    def _listed(self) -> dict[str, dict[str, int]]:
        """The sizes of the files of each folder."""
        found: dict[str, dict[str, int]] = {}
        for each in self._folder.walk():
            name, _, file = each.path.partition("/")
            if _NAME.fullmatch(name):
                found.setdefault(name, {})[file] = each.size
        return found

    def _described(self, name: str, sizes: Mapping[str, int]) -> Entry:
        epoch, step = (int(number) for number in name.split("-")[:2])
        data = self._folder.join(name, DESCRIPTION).read_bytes()
        try:
            text = _Description.model_validate_json(data)
        except ValidationError as error:
            if any(each["type"] == "less_than_equal" and each["loc"] == ("schema_version",) for each in error.errors()):
                place = self._folder.join(name)
                raise UserError(
                    f"the checkpoint {place} was written by a newer mskray: go on with that, or train into another out"
                ) from None
            return Entry(name, epoch, step, None, {}, f"{DESCRIPTION} cannot be read")
        files = {each: (file.bytes, file.sha256) for each, file in text.files.items()}
        damage = ""
        for each, (size, _) in files.items():
            if each not in sizes:
                damage = damage or f"{each} is missing"
            elif sizes[each] != size:
                damage = damage or f"{each} has {sizes[each]:,} bytes in place of {size:,}"
        return Entry(name, text.epoch, text.step, text.score, files, damage)

    def _first(self, entries: Sequence[Entry], into: Path, tell: Tell, instead: str) -> Entry | None:
        for entry in entries:
            try:
                self._take(entry, into)
                return entry
            except Damaged as error:
                self._damaged.add(entry.name)
                tell(f"the checkpoint at {entry.place} is damaged ({error}): {instead} is taken")
        return None

    def _take(self, entry: Entry, into: Path) -> None:
        if entry.damage:
            raise Damaged(entry.damage)
        for name, (_, digest) in entry.files.items():
            for _ in range(_READS):
                data = self._folder.join(entry.name, name).read_bytes()
                if hashlib.sha256(data).hexdigest() == digest:
                    break
            else:
                raise Damaged(f"{name} is not what was written")
            (into / name).write_bytes(data)

    def _clear(self) -> None:
        for entry in superfluous(self._known):
            if self._delete(entry.name):
                self._known.remove(entry)

    def _delete(self, name: str) -> bool:
        """Whether it is gone. Its description goes first: what is half deleted is then one that was cut off."""
        try:
            self._folder.join(name, DESCRIPTION).delete()
            self._folder.join(name).delete_dir()
        except (UserError, OSError):
            return False
        return True
