"""The store behind s3://: AWS, SeaweedFS, MinIO or Ceph, as the AWS variables and config files say.

Single requests are retried by botocore, whole operations by `faults.retried`. Every operation here is idempotent: a
PUT whose answer was lost is sent again and replaces the object with the same bytes.
"""

import io
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from boto3.s3.transfer import TransferConfig
from botocore import exceptions as boto
from pyarrow.fs import FileSystem

from mskray.errors import UserError
from mskray.storage import faults
from mskray.storage.arrow import s3_filesystem
from mskray.storage.connection import connect
from mskray.storage.entries import FileEntry, too_large

# Larger objects go up in parts of this size, which are retried one by one and become visible together at the end.
PART_BYTES = 32 * 2**20

T = TypeVar("T")


class S3Store:
    """Objects; `path` is "bucket/key" everywhere."""

    def filesystem(self) -> FileSystem:
        return s3_filesystem()

    def is_file(self, path: str) -> bool:
        bucket, key = _object(path)
        return bool(key) and self._try("look at", path, lambda s3: _head(s3, bucket, key))

    def is_dir(self, path: str) -> bool:
        def operation(s3: Any) -> bool:
            try:
                page = s3.list_objects_v2(Bucket=bucket, Prefix=_prefix(key), MaxKeys=1)
            except boto.ClientError as error:
                if faults.code_and_status(error)[0] == "NoSuchBucket":
                    return False
                raise
            return not key or bool(page.get("Contents"))

        bucket, key = _object(path)
        return self._try("list", path, operation)

    def read(self, path: str, max_bytes: int | None) -> bytes:
        bucket, key = _object(path, needs_key=True)

        def operation(s3: Any) -> bytes:
            answer = s3.get_object(Bucket=bucket, Key=key)
            size = answer["ContentLength"]
            with closing(answer["Body"]) as body:
                if max_bytes is not None and size > max_bytes:
                    raise too_large(f"s3://{path}", size, max_bytes)
                data: bytes = body.read()
            if len(data) != size:
                raise boto.IncompleteReadError(actual_bytes=len(data), expected_bytes=size)
            return data

        return self._try("read", path, operation)

    def write(self, path: str, data: bytes) -> None:
        bucket, key = _object(path, needs_key=True)

        def operation(s3: Any) -> None:
            if len(data) <= PART_BYTES:
                s3.put_object(Bucket=bucket, Key=key, Body=data)
                return
            s3.upload_fileobj(io.BytesIO(data), bucket, key, Config=_parts())

        self._try("write", path, operation)

    def write_file(self, path: str, source: Path) -> None:
        bucket, key = _object(path, needs_key=True)

        def operation(s3: Any) -> None:
            with open(source, "rb") as file:  # boto3's upload_file would hide what went wrong
                s3.upload_fileobj(file, bucket, key, Config=_parts())

        self._try("write", path, operation)

    def create(self, path: str, data: bytes) -> bool:
        bucket, key = _object(path, needs_key=True)

        def operation(s3: Any) -> bool:
            try:
                s3.put_object(Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")
            except boto.ClientError as error:
                if faults.code_and_status(error)[1] in (409, 412):  # another is at it, or was
                    return False
                raise
            return True

        return self._try("write", path, operation)

    def delete(self, path: str, missing_ok: bool) -> None:
        bucket, key = _object(path, needs_key=True)
        if not missing_ok and not self.is_file(path):
            raise UserError(f"there is nothing at s3://{path} ({connect().endpoint}): check the path")
        self._try("delete", path, lambda s3: s3.delete_object(Bucket=bucket, Key=key))

    def delete_dir(self, path: str) -> None:
        bucket, key = _object(path)
        if not key:
            raise UserError(f"refusing to delete the whole bucket s3://{path}: name a folder in it")
        for page in self._pages(path):
            answer = self._try("delete", path, partial(_delete, bucket=bucket, keys=[entry["Key"] for entry in page]))
            for error in answer.get("Errors", []):
                raise UserError(
                    f"could not delete s3://{bucket}/{error['Key']}: {error['Code']}; check your permissions"
                )

    def delete_empty_dirs(self, path: str, before_ns: int) -> None:
        """There are no folders."""

    def make_private(self, path: str) -> None:
        """Whoever owns the bucket says who may read it."""

    def walk(self, path: str) -> Iterator[FileEntry]:
        start = len(_prefix(_object(path)[1]))
        for page in self._pages(path):
            for found in page:
                if not found["Key"].endswith("/"):  # an empty object of that name stands for a folder
                    yield FileEntry(found["Key"][start:], found["Size"], int(found["LastModified"].timestamp() * 1e9))

    def check(self, path: str, write: bool) -> None:
        """UserError if nothing is there to read, or an object could not be written there; in seconds."""
        bucket, key = _object(path)
        connection = connect()
        s3 = connection.probe_client()
        what = "write" if write else "read"
        if write:
            rehearse = partial(_rehearse_write, s3, bucket, f"{_prefix(key)}.mskray-{uuid4().hex}")
        else:
            rehearse = partial(_rehearse_read, s3, bucket, key)
        patiently = partial(faults.retried, f"{what} s3://{path}", seconds=faults.BUSY_SECONDS, passing=faults.is_busy)
        try:
            patiently(rehearse)
        except faults.FAILURES as error:
            raise faults.explain(error, what, f"s3://{path}", connection.endpoint, connection.source) from error
        try:
            patiently(partial(connection.probe_filesystem(bucket).get_file_info, path))
        except OSError as error:
            raise UserError(
                f"boto3 reaches s3://{path} but Arrow does not: {error}; check proxies and certificates"
            ) from error

    def _pages(self, path: str) -> Iterator[list[dict[str, Any]]]:
        """Listings of up to 1,000 objects. A failed request asks for its own page again, so each object comes once."""
        bucket, key = _object(path)
        position: dict[str, str] = {}
        while True:
            page = self._try("list", path, partial(_list, bucket=bucket, prefix=_prefix(key), position=position))
            if page.get("Contents"):
                yield page["Contents"]
            if not page.get("IsTruncated"):
                return
            position = {"ContinuationToken": page["NextContinuationToken"]}

    def _try(self, what: str, path: str, operation: Callable[[Any], T]) -> T:
        connection = connect()
        try:
            return faults.retried(f"{what} s3://{path}", lambda: operation(connection.client))
        except faults.FAILURES as error:
            raise faults.explain(error, what, f"s3://{path}", connection.endpoint, connection.source) from error


def _parts() -> TransferConfig:
    """Takes its parts back (AbortMultipartUpload) on any failure, so that none are stored and paid for."""
    return TransferConfig(multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES, max_concurrency=4)


def _object(path: str, needs_key: bool = False) -> tuple[str, str]:
    bucket, _, key = path.partition("/")
    if needs_key and not key:
        raise UserError(f"s3://{path} is a bucket, not a file: name an object in it")
    return bucket, key


def _prefix(key: str) -> str:
    return key + "/" if key else ""


def _list(s3: Any, bucket: str, prefix: str, position: dict[str, str]) -> Any:
    return s3.list_objects_v2(Bucket=bucket, Prefix=prefix, **position)


def _delete(s3: Any, bucket: str, keys: list[str]) -> Any:
    return s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key} for key in keys]})


def _head(s3: Any, bucket: str, key: str) -> bool:
    try:
        s3.head_object(Bucket=bucket, Key=key)
    except boto.ClientError as error:
        if faults.code_and_status(error)[1] == 404:
            return False
        raise
    return True


def _rehearse_read(s3: Any, bucket: str, key: str) -> None:
    """Look at the object itself, or at the first one below the prefix; an empty bucket is fine to read."""
    listed = s3.list_objects_v2(Bucket=bucket, Prefix=_prefix(key), MaxKeys=1).get("Contents")
    if listed or key:
        s3.head_object(Bucket=bucket, Key=listed[0]["Key"] if listed else key)


def _rehearse_write(s3: Any, bucket: str, key: str) -> None:
    """Begin an upload and take it back: it takes the permission to write, and no object or version ever exists."""
    upload = s3.create_multipart_upload(Bucket=bucket, Key=key)
    s3.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload["UploadId"])
