"""`locate` turns what a user wrote into a `Location`; a `Location` is all that the other rooms know of storage.

A Location holds its URI alone. Pickled into another process it carries no secret: that process asks its own AWS
variables and config files. `(location.filesystem, location.path)` is what Ray Train takes as
`RunConfig(storage_filesystem=, storage_path=)` and what Ray Data and pyarrow take beside a path.

pyarrow's own output streams complete the object even when the code that writes into them fails half-way. Write
files that matter with `write_bytes`.
"""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote_from_bytes, unquote_to_bytes

from pyarrow.fs import FileSystem

from mskray.errors import UserError
from mskray.storage.entries import FileEntry
from mskray.storage.local import LocalStore
from mskray.storage.s3 import S3Store

JSON_BYTES = 64 * 2**20
SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://(.*)", re.DOTALL)
# Where Ray unpacks what `ray job submit --working-dir` sent; it deletes it after the job.
_JOB_COPY = "/runtime_resources/working_dir_files/"
BUCKET = re.compile(r"[a-zA-Z0-9._-]{3,255}")


class Store(Protocol):
    """What stands behind a Location; `path` is a path inside `filesystem()`. Failures are UserErrors."""

    def filesystem(self) -> FileSystem: ...
    def is_file(self, path: str) -> bool: ...
    def is_dir(self, path: str) -> bool: ...
    def read(self, path: str, max_bytes: int | None) -> bytes: ...
    def write(self, path: str, data: bytes) -> None: ...
    def write_file(self, path: str, source: Path) -> None: ...
    def create(self, path: str, data: bytes) -> bool: ...
    def delete(self, path: str, missing_ok: bool) -> None: ...
    def delete_dir(self, path: str) -> None: ...
    def delete_empty_dirs(self, path: str, before_ns: int) -> None: ...
    def make_private(self, path: str) -> None: ...
    def walk(self, path: str) -> Iterator[FileEntry]: ...
    def check(self, path: str, write: bool) -> None: ...


@dataclass(frozen=True)
class Location:
    """A file, folder, object or prefix. Make one with `locate` or `join`; `uri` is normalised.

    Every method raises UserError (one line) for what a user can mend, after transient errors of an object store
    were retried for up to two minutes.
    """

    uri: str

    def __str__(self) -> str:
        return self.uri

    @property
    def path(self) -> str:
        """The path inside `filesystem`: "bucket/key", or "/absolute/path"."""
        if self.uri.startswith("s3://"):
            return self.uri.removeprefix("s3://")
        return os.fsdecode(unquote_to_bytes(self.uri.removeprefix("file://")))

    @property
    def name(self) -> str:
        """The last component; the bucket's name for a bucket."""
        return self.path.rpartition("/")[2]

    @property
    def filesystem(self) -> FileSystem:
        """For Arrow and Ray. It pickles without secrets and renews temporary credentials."""
        return self._store.filesystem()

    @property
    def _store(self) -> Store:
        return S3Store() if self.uri.startswith("s3://") else LocalStore()

    def join(self, *parts: str) -> "Location":
        """The place below this one. Parts are plain names or relative paths: nothing in them is an escape."""
        names = []
        for part in parts:
            if part.startswith("/") or "\0" in part or ".." in part.split("/"):
                raise UserError(f"{part!r} does not lie below {self.uri}: give a relative path without '..'")
            names += [name for name in part.split("/") if name not in ("", ".")]
        path = "/".join([self.path.rstrip("/"), *names])
        return Location("s3://" + path if self.uri.startswith("s3://") else _file_uri(path or "/"))

    def exists(self) -> bool:
        return self.is_file() or self.is_dir()

    def is_file(self) -> bool:
        return self._store.is_file(self.path)

    def is_dir(self) -> bool:
        """Whether this is a folder; on S3, whether any object lies below it (or the bucket exists)."""
        return self._store.is_dir(self.path)

    def read_bytes(self, max_bytes: int | None = None) -> bytes:
        """The whole file, its length verified. A file of more than `max_bytes` is refused, not cut."""
        return self._store.read(self.path, max_bytes)

    def write_bytes(self, data: bytes | bytearray | memoryview) -> None:
        """Replace the file as a whole: readers see the old bytes or the new ones. Folders are made as needed."""
        self._store.write(self.path, bytes(data))

    def write_file(self, source: Path) -> None:
        """As `write_bytes`, with the content of a file of this machine, which is not read into memory."""
        self._store.write_file(self.path, source)

    def create(self, data: bytes) -> bool:
        """Write a small file that is not there yet, readable by its owner alone on disk; False where it is there.

        Of several that try at once one succeeds. A request that was answered into a cut connection is repeated, and
        then says False to the one who wrote it: read what is there.
        """
        return self._store.create(self.path, data)

    def read_json(self, max_bytes: int = JSON_BYTES) -> Any:
        """The parsed content of a JSON file of at most `max_bytes` (64 MiB)."""
        try:
            return json.loads(self.read_bytes(max_bytes))
        except ValueError as error:
            raise UserError(f"{self.uri} is not valid JSON ({error}): restore or rewrite it") from error

    def write_json(self, value: Any) -> None:
        """Indented, keys sorted, newline at the end. NaN and infinity are no JSON: ValueError."""
        text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
        self.write_bytes((text + "\n").encode())

    def delete(self, missing_ok: bool = True) -> None:
        """Delete one file."""
        self._store.delete(self.path, missing_ok)

    def delete_dir(self) -> None:
        """Delete everything below this folder or prefix, if there is anything. A bucket's root or "/" is refused."""
        self._store.delete_dir(self.path)

    def delete_empty_dirs(self, before_ns: int) -> None:
        """Delete folders below this one that have been empty since before a time, in ns since 1970, on disk: elsewhere
        there are none."""
        self._store.delete_empty_dirs(self.path, before_ns)

    def make_private(self) -> None:
        """Make this folder, on disk, one that its owner alone can look into; an object store has policies for that."""
        self._store.make_private(self.path)

    def walk(self) -> Iterator[FileEntry]:
        """Every file below this folder or prefix, once, streamed a folder or a page (1,000 objects) at a time.

        Sorted by whole path on disk and on AWS, MinIO and Ceph; SeaweedFS lists folder by folder ("a/x" before
        "a-b"). Whoever needs the same order on every store sorts. Nothing there: an empty iterator.
        """
        return self._store.walk(self.path)


def locate(uri: "str | Path | Location") -> Location:
    """Normalise s3://bucket/key, file:///path or a path (relative: to the working directory; ~ is the home folder).

    S3 keys are taken as written. file: URIs are percent-decoded, plain paths are not. Raises UserError for anything
    else.
    """
    if isinstance(uri, Location):
        return uri
    text = os.fspath(uri)
    if not text.strip() or "\0" in text:
        raise UserError("an empty path or URI: give s3://bucket/key, file:///path or a path")
    found = SCHEME.fullmatch(text)
    scheme, rest = (found[1].lower(), found[2]) if found and not isinstance(uri, Path) else ("", text)
    if scheme == "s3":
        return Location("s3://" + _s3_path(text, rest))
    if scheme == "file":
        if not rest.startswith(("/", "localhost/")):
            raise UserError(f"{text} names another machine or a relative path: write file:///absolute/path")
        return _local(os.fsdecode(unquote_to_bytes(rest.removeprefix("localhost"))))
    if scheme or text.lower().startswith(("s3:", "file:")):
        raise UserError(f"cannot read {text}: give s3://bucket/key, file:///path or a path")
    return _local(os.path.expanduser(text))


def check_access(location: Location, write: bool = False) -> None:
    """Raise UserError, in seconds and before any work, if `location` cannot be used.

    For reading, something must be there. For writing (`write=True`) it may be empty or missing; nothing is left
    behind by the test. Covers: no credentials, wrong keys, expired session, no permission, missing bucket, an
    endpoint that does not answer or has the wrong certificate; a file inside a submitted job's copy of your folder.
    """
    if write and location.uri.startswith("file:") and _JOB_COPY in location.path:
        raise UserError(
            f"{location.path.partition(_JOB_COPY)[2].partition('/')[2] or location} would be lost: a submitted job "
            "runs in a copy of your folder that Ray deletes; give an absolute URI such as s3://bucket/key"
        )
    location._store.check(location.path, write)


def _local(path: str) -> Location:
    return Location(_file_uri(os.path.abspath(path)))


def _file_uri(path: str) -> str:
    # As Path.as_uri, in a third of its time: an ingest makes one for each file.
    return "file://" + quote_from_bytes(os.fsencode(path))


def _s3_path(text: str, rest: str) -> str:
    bucket, _, key = rest.partition("/")
    if not BUCKET.fullmatch(bucket):
        raise UserError(f"{text} names no valid bucket: write s3://bucket/key")
    key = key.rstrip("/")
    if key and any(name in ("", ".", "..") for name in key.split("/")):
        raise UserError(f"{text} has an empty, '.' or '..' folder in its key: write s3://bucket/key without it")
    return f"{bucket}/{key}" if key else bucket
