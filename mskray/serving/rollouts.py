"""Which ensemble a server's replicas answer by, and which of them do: files in the store that all of them read.

    mskray serve s3://models/knees-2 --roll-out

A replica that dies comes back with the ensemble that was rolled out last, not with the one that the server began with.
Servers that began with different ensembles may share a store: each has a folder of its own there.
"""

import hashlib
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, ValidationError

from mskray.errors import UserError
from mskray.serving.schemas.models import Rollout
from mskray.storage import Location, locate

_FOLDER, _POINTER, _REPLICAS = "serving", "pointer.json", "replicas"
_MOST_BYTES = 64 * 2**10
BEAT_S = 20.0
"""How often a replica says that it lives."""
_SILENT_S = 3 * BEAT_S
"""Whoever was silent for so long is gone."""


class Wanted(BaseModel):
    """A change of the ensemble.

    Args:
        began: URI of the ensemble that the server began with.
        hash: of the ensemble as it was when it was asked for, see `answers.ensemble_hash`.
        id: of this change; the same ensemble can be asked for again.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    began: str
    ensemble: str
    hash: str
    id: str

    def said(self, state: str, reason: str | None = None) -> Rollout:
        """Return how far the change is, in one replica or in all."""
        return Rollout.model_validate(
            {"ensemble": self.ensemble, "hash": self.hash, "id": self.id, "state": state, "reason": reason}
        )


@dataclass(frozen=True)
class _Heard:
    """What a replica said last: the file's time, which changes with each beat, and when that was seen here."""

    written_ns: int
    seen_s: float


class Rollouts:
    """The folder of one server. Methods block, and raise UserError where the store is away.

    Args:
        began: URI of the ensemble that the server began with.
        clock: monotonic seconds; clocks of machines differ, so that a file's own time is compared with itself alone.
    """

    def __init__(self, store: Location, began: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.began, self._clock = str(locate(began)), clock
        self._folder = store.join(_FOLDER, hashlib.sha256(self.began.encode()).hexdigest()[:16])
        self._pointer = self._folder.join(_POINTER)
        self._heard: dict[str, _Heard] = {}

    def wanted(self) -> Wanted | None:
        """Return the last change, None where there was none."""
        if not self._pointer.is_file():
            return None
        try:
            found = Wanted.model_validate(self._pointer.read_json(_MOST_BYTES))
        except ValidationError:
            raise UserError(f"{self._pointer} names no ensemble: delete it") from None
        if found.began != self.began:
            raise UserError(f"{self._pointer} is of a server that began with {found.began}: delete it")
        return found

    def want(self, ensemble: str, digest: str) -> Wanted:
        """Ask every replica for another ensemble."""
        wanted = Wanted(began=self.began, ensemble=str(locate(ensemble)), hash=digest, id=uuid.uuid4().hex)
        self._pointer.write_json(wanted.model_dump())
        return wanted

    def say(self, replica: str, rollout: Rollout) -> None:
        """Say how far a replica is, and that it lives."""
        self._folder.join(_REPLICAS, f"{replica}.json").write_json(rollout.model_dump(mode="json"))

    def together(self, wanted: Wanted) -> Rollout:
        """Return how far all replicas are that live: one that refuses counts for all, and one that loads still."""
        said = self.living()
        there = [each for each in said if each.id == wanted.id]
        for each in there:
            if each.state == "refused":
                return each
        return wanted.said("served" if there == said and all(each.state == "served" for each in there) else "loading")

    def living(self) -> list[Rollout]:
        """Return how far each replica is that lives, and forget those that were silent for long: ask now and then."""
        now, folder, said = self._clock(), self._folder.join(_REPLICAS), list[Rollout]()
        for entry in folder.walk():
            heard = self._heard.get(entry.path)
            if heard is None or heard.written_ns != entry.mtime_ns:
                heard = self._heard[entry.path] = _Heard(entry.mtime_ns, now)
            if now - heard.seen_s <= _SILENT_S:
                said.append(Rollout.model_validate_json(folder.join(entry.path).read_bytes(_MOST_BYTES)))
            else:
                folder.join(entry.path).delete()
                del self._heard[entry.path]
        return said

    def clear(self) -> None:
        """Forget the changes and replicas of an earlier server that began with the same ensemble."""
        self._folder.delete_dir()
