"""The filesystem handed to Arrow and Ray: Arrow's own S3 client behind a door that pickles without secrets.

Arrow's S3FileSystem pickles its keys and keeps temporary ones until they expire. This one pickles nothing and asks the
connection of the process it is in at every call. Opened files are Arrow's own: their bytes do not pass through Python,
and their requests are retried by Arrow.
"""

from collections.abc import Callable
from functools import partial
from io import UnsupportedOperation
from typing import Any

from pyarrow.fs import FileInfo, FileSelector, FileSystem, FileSystemHandler, PyFileSystem

from mskray.storage.connection import connect
from mskray.storage.faults import retried


class S3Handler(FileSystemHandler):
    """Every call goes to the S3FileSystem that fits the path's bucket and the present credentials."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, S3Handler)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = None  # type: ignore[assignment]

    def get_type_name(self) -> str:
        return "mskray-s3"

    def normalize_path(self, path: str) -> str:
        return path

    def get_file_info(self, paths: list[str]) -> list[FileInfo]:
        return [_do("look at", path, partial(_info, path=path)) for path in paths]

    def get_file_info_selector(self, selector: FileSelector) -> list[FileInfo]:
        return _do("list", selector.base_dir, lambda arrow: arrow.get_file_info(selector))

    def create_dir(self, path: str, recursive: bool) -> None:
        _do("create", path, lambda arrow: arrow.create_dir(path, recursive=recursive))

    def delete_dir(self, path: str) -> None:
        _do("delete", path, lambda arrow: arrow.delete_dir(path))

    def delete_dir_contents(self, path: str, missing_dir_ok: bool = False) -> None:
        _do("delete", path, lambda arrow: arrow.delete_dir_contents(path, missing_dir_ok=missing_dir_ok))

    def delete_root_dir_contents(self) -> None:
        raise UnsupportedOperation("deleting every bucket is not offered")

    def delete_file(self, path: str) -> None:
        _do("delete", path, lambda arrow: arrow.delete_file(path))

    def move(self, src: str, dest: str) -> None:
        _do("write", dest, lambda arrow: arrow.move(src, dest))

    def copy_file(self, src: str, dest: str) -> None:
        _do("write", dest, lambda arrow: arrow.copy_file(src, dest))

    def open_input_file(self, path: str) -> Any:
        return _do("open", path, lambda arrow: arrow.open_input_file(path))

    # No compression here: PyFileSystem looks at the name (".gz") itself and would compress twice.
    def open_input_stream(self, path: str) -> Any:
        return _do("open", path, lambda arrow: arrow.open_input_stream(path, compression=None))

    def open_output_stream(self, path: str, metadata: Any) -> Any:
        return _do("open", path, lambda arrow: arrow.open_output_stream(path, compression=None, metadata=metadata))

    def open_append_stream(self, path: str, metadata: Any) -> Any:
        raise UnsupportedOperation("objects cannot be appended to: write them whole")


def s3_filesystem() -> PyFileSystem:
    return PyFileSystem(S3Handler())


def _info(arrow: FileSystem, path: str) -> FileInfo:
    return arrow.get_file_info(path)


def _do(what: str, path: str, operation: Callable[[FileSystem], Any]) -> Any:
    bucket = path.partition("/")[0]
    return retried(f"{what} s3://{path}", lambda: operation(connect().filesystem(bucket)))
