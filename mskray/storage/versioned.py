"""JSON files that say which version of their layout they have."""

from typing import Any

import mskray
from mskray.errors import UserError
from mskray.storage.locations import Location


def read_versioned(location: Location, what: str, newest: int) -> dict[str, Any]:
    """Read a JSON object whose `schema_version` this program knows, or raise one UserError."""
    if not location.is_file():
        raise UserError(f"{location} does not exist: give the folder of a finished {what}")
    content = location.read_json()
    version = content.get("schema_version") if isinstance(content, dict) else None
    if not isinstance(version, int) or version < 1:
        raise UserError(f"{location} has no schema_version: it is not a {what}")
    if version > newest:
        raise UserError(
            f"{location} has schema version {version}, this mskray {mskray.__version__} reads up to {newest}: "
            "update mskray"
        )
    return content
