"""What a server keeps: feedback for good; for a day pictures that answers link to, jobs, answers by idempotency key.

    mskray serve ENSEMBLE --store s3://msk/serving

    <store>/results/<whose>/<id>/<name>.png     <store>/jobs/<id>/…     <store>/keys/<id>.json     <store>/feedback/…

All replicas share it; on disk it is for its owner alone. Whoever asks sees what was made for them alone: `whose` is a
hash of the token's name. Names of files stand in no order; in an answer they stand as it was given, made safe.
"""

import hashlib
import re
import time
import uuid
from collections.abc import Mapping
from datetime import timedelta

from mskray.errors import Fault, UserError
from mskray.storage import Location

KEPT = timedelta(days=1)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}\.png")
_ID = re.compile(r"[0-9a-f]{32}")
_MOST_BYTES = 256 << 20


class Store:
    """Folders below one place, on disk for their owner alone. Methods block: call them in a thread."""

    def __init__(self, folder: Location) -> None:
        self.jobs, self.keys = folder.join("jobs"), folder.join("keys")
        self._results = folder.join("results")
        self._make_private()

    def keep(self, who: str, pictures: Mapping[str, bytes]) -> dict[str, str]:
        """Keep PNGs by plain names; return the link of each."""
        place, identifier = self._results.join(_whose(who)), new_id()
        for name, content in pictures.items():
            place.join(identifier, name).write_bytes(content)
        return {name: f"/v1/results/{identifier}/{name}" for name in pictures}

    def read(self, who: str, identifier: str, name: str) -> bytes | None:
        """Return a PNG that was kept for this asker, None where there is none."""
        if not (_ID.fullmatch(identifier) and _NAME.fullmatch(name)):
            return None
        place = self._results.join(_whose(who), identifier, name)
        return place.read_bytes(_MOST_BYTES) if place.is_file() else None

    def forget(self) -> int:
        """Delete what is older than a day; return how many files that were."""
        self._make_private()  # somebody may have emptied the store
        before, gone = time.time_ns() - int(KEPT.total_seconds() * 1e9), 0
        for folder in (self._results, self.jobs, self.keys):
            for entry in list(folder.walk()):
                if entry.mtime_ns < before:
                    folder.join(entry.path).delete()
                    gone += 1
            folder.delete_empty_dirs(before)
        return gone

    def _make_private(self) -> None:
        for folder in (self._results, self.jobs, self.keys):
            folder.make_private()


def new_id() -> str:
    """Return a name that nobody can guess: 32 hex digits."""
    return uuid.uuid4().hex


def is_id(text: str) -> bool:
    return _ID.fullmatch(text) is not None


def try_read_json(place: Location) -> dict[str, object] | None:
    """Return a JSON object, None where there is none or a damaged one. Raises Fault: the store does not answer."""
    try:
        found = place.read_json() if place.is_file() else None
    except Fault:
        raise
    except UserError:
        return None
    return found if isinstance(found, dict) else None


def _whose(who: str) -> str:
    return hashlib.sha256(who.encode()).hexdigest()[:16]
