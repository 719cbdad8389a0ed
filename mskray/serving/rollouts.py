"""Which ensemble a server's replicas answer by: a file in the store that all of them read.

    mskray serve s3://models/knees-2 --roll-out

A replica that dies comes back with the ensemble that was rolled out last, not with the one that the server began with.
"""

from mskray.errors import UserError
from mskray.storage import Location, locate

_FILE = "serving.json"


class Pointer:
    """The file. Methods block."""

    def __init__(self, store: Location) -> None:
        self._place = store.join(_FILE)

    def read(self) -> str | None:
        """Return the URI of the ensemble that was rolled out, None where none was."""
        if not self._place.is_file():
            return None
        found = self._place.read_json()
        uri = found.get("ensemble") if isinstance(found, dict) else None
        if not isinstance(uri, str):
            raise UserError(f"{self._place} names no ensemble: delete it")
        return uri

    def write(self, ensemble: str) -> None:
        self._place.write_json({"ensemble": str(locate(ensemble))})

    def clear(self) -> None:
        self._place.delete()
