"""Paths that people write into a CSV: kept inside the root, and looked up by one listing of the folder they share.

A number after a path is that of one of several volumes in a folder, as `mskray find-vertebrae` and `mskray montage`
call them ("folder#2"), or of a slice.
"""

import posixpath
import re
from collections.abc import Collection

from mskray.cohorts.sources import fingerprint
from mskray.storage import Location

# Another store's URI or a Windows drive.
_FOREIGN = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[/\\]")

# Nothing to normalise, as in nearly all paths: found out in a fifth of the time that it takes to try.
_PLAIN = re.compile(r"(?:[\w-][\w.-]*/)*[\w-][\w.-]*")

_NUMBERED = re.compile(r"(?P<name>.+)#(?P<number>\d{1,6})")


def numbered(text: str) -> tuple[str, int | None]:
    """Take the number off a name such as "folder#2"; None where it has none."""
    found = _NUMBERED.fullmatch(text)
    return (text, None) if found is None else (found["name"].rstrip("/"), int(found["number"]))


def inside(path: str, root: Location) -> str | None:
    """The path relative to the root, "." for the root itself; None where it is empty or leads out of the root."""
    if _PLAIN.fullmatch(path):
        return path
    path = path.removeprefix(root.uri.rstrip("/") + "/")
    if not path or _FOREIGN.match(path):
        return None
    folder = posixpath.normpath(root.path).rstrip("/") + "/"
    whole = posixpath.normpath(posixpath.join(folder, path.replace("\\", "/")))
    if f"{whole}/" == folder:
        return "."
    return whole.removeprefix(folder) if whole.startswith(folder) else None


def fingerprints(root: Location, wanted: Collection[str]) -> dict[str, dict[str, str]]:
    """Each wanted path that is a file or a folder of files → fingerprints by path, those of a folder sorted."""
    if not wanted:
        return {}
    shared = posixpath.commonpath([posixpath.dirname(path) for path in wanted])
    place, prefix = (root.join(shared), f"{shared}/") if shared else (root, "")
    found: dict[str, dict[str, str]] = {}
    if place.is_dir():
        for entry in place.walk():
            path = prefix + entry.path
            for name in (path, posixpath.dirname(path) or "."):
                if name in wanted:
                    found.setdefault(name, {})[path] = fingerprint(entry)
    return {name: dict(sorted(files.items())) for name, files in found.items()}
