"""The store behind file:// and plain paths: the folders of this machine (or a mounted share)."""

import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from pyarrow.fs import FileSystem, LocalFileSystem

from mskray.errors import Fault, UserError
from mskray.storage.entries import FileEntry, too_large

# A writer that was killed leaves its unfinished file under this name; `walk` does not show it.
PARTIAL = (".mskray-", ".partial")


@contextmanager
def _one_line(what: str, path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if isinstance(error, FileNotFoundError) and what != "write":
            raise UserError(f"there is nothing at {path}: check the path") from error
        place = error.filename if error.filename and PARTIAL[0] not in str(error.filename) else path
        raise Fault(
            f"cannot {what} {place}: {error.strerror or error}; check the path, its permissions and the disk"
        ) from error


class LocalStore:
    """Files of this machine; `path` is absolute everywhere."""

    def filesystem(self) -> FileSystem:
        return _arrow()

    def is_file(self, path: str) -> bool:
        return os.path.isfile(path)

    def is_dir(self, path: str) -> bool:
        return os.path.isdir(path)

    def read(self, path: str, max_bytes: int | None) -> bytes:
        with _one_line("read", path):
            found = os.stat(path)
            if not stat.S_ISREG(found.st_mode):  # opening a named pipe would wait for ever
                raise UserError(f"{path} is not a regular file: name a file")
            if max_bytes is not None and found.st_size > max_bytes:
                raise too_large(path, found.st_size, max_bytes)
            with open(path, "rb") as file:
                return file.read()

    def write(self, path: str, data: bytes) -> None:
        self._write(path, lambda file: file.write(data))

    def write_file(self, path: str, source: Path) -> None:
        with open(source, "rb") as data:
            self._write(path, lambda file: shutil.copyfileobj(data, file))

    def _write(self, path: str, fill: Callable[[BinaryIO], object]) -> None:
        folder, target = os.path.split(path)
        partial = os.path.join(folder, uuid4().hex.join(PARTIAL))
        with _one_line("write", path):
            os.makedirs(folder, exist_ok=True)
            if os.path.isdir(path):
                raise UserError(f"{path} is a folder: name a file ({target}/…) to write to")
            try:
                with open(partial, "xb") as file:
                    fill(file)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(partial, path)
            finally:
                Path(partial).unlink(missing_ok=True)
            _sync_folder(folder)

    def create(self, path: str, data: bytes) -> bool:
        folder = os.path.dirname(path)
        partial = os.path.join(folder, uuid4().hex.join(PARTIAL))
        with _one_line("write", path):
            os.makedirs(folder, exist_ok=True)
            try:
                with open(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                os.link(partial, path)
            except FileExistsError:
                return False
            finally:
                Path(partial).unlink(missing_ok=True)
            _sync_folder(folder)
        return True

    def delete(self, path: str, missing_ok: bool) -> None:
        with _one_line("delete", path):
            Path(path).unlink(missing_ok=missing_ok)

    def delete_dir(self, path: str) -> None:
        with _one_line("delete", path):
            if path == "/":
                raise UserError("refusing to delete /: name a folder")
            if os.path.lexists(path):
                shutil.rmtree(path)

    def delete_empty_dirs(self, path: str, before_ns: int) -> None:
        for folder, _, _ in os.walk(path, topdown=False):
            # One that is not empty, or that another has just deleted, stays.
            with suppress(OSError):
                if folder != path and os.stat(folder).st_mtime_ns < before_ns:
                    os.rmdir(folder)

    def make_private(self, path: str) -> None:
        with _one_line("write", path):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with suppress(FileExistsError):
                os.mkdir(path, 0o700)
            if stat.S_IMODE(os.stat(path).st_mode) & 0o077:
                os.chmod(path, 0o700)

    def walk(self, path: str) -> Iterator[FileEntry]:
        with _one_line("list", path):
            if os.path.isdir(path):
                yield from _walk(path, "", ())

    def check(self, path: str, write: bool) -> None:
        """UserError if nothing is there to read, or a file could not be written there."""
        if not write:
            with _one_line("read", path):
                readable = os.access(path, os.R_OK | os.X_OK if stat.S_ISDIR(os.stat(path).st_mode) else os.R_OK)
            if not readable:
                raise UserError(f"no permission to read {path}: change its permissions or use another user")
            return
        folder = path
        while not os.path.lexists(folder):
            folder = os.path.dirname(folder)
        if not os.path.isdir(folder):
            if folder == path and os.path.isfile(path):
                folder = os.path.dirname(path)
            else:
                raise UserError(f"cannot write {path}: {folder} is not a folder; choose another place")
        probe = Path(folder, uuid4().hex.join(PARTIAL))
        with _one_line("write", path):  # asks the kernel: permission bits say nothing of read-only mounts or root
            probe.touch(exist_ok=False)
            probe.unlink()


@cache
def _arrow() -> FileSystem:
    return LocalFileSystem()


def _sync_folder(folder: str) -> None:
    """Make a rename survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _walk(folder: str, relative: str, above: tuple[tuple[int, int], ...]) -> Iterator[FileEntry]:
    """Files below `folder`, links followed; `above` holds (device, inode) of the folders on the way, against cycles."""
    here = os.stat(folder)
    identity = (here.st_dev, here.st_ino)
    if identity in above:
        return
    with os.scandir(folder) as scan:
        # A folder sorts as "name/": the files then come in the order of their whole paths, as on S3.
        entries = sorted((entry.name + "/" if entry.is_dir() else entry.name, entry) for entry in scan)
    for name, entry in entries:
        if name.endswith("/"):
            yield from _walk(entry.path, relative + name, (*above, identity))
        elif not (name.startswith(PARTIAL[0]) and name.endswith(PARTIAL[1])):
            try:
                found = entry.stat()
            except FileNotFoundError:
                found = entry.stat(follow_symlinks=False)  # a dead link is listed; whoever reads it learns why
            yield FileEntry(relative + name, found.st_size, found.st_mtime_ns)
