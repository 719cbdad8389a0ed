"""S3 against a real SeaweedFS: one line for all that is wrong, pages, parts, and what Arrow writes and reads."""

import http.server
import socket
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fault_proxy import Fault, FaultProxy

from infra.seaweedfs import ObjectStore
from mskray.errors import UserError
from mskray.storage import Location, check_access, connection, locate, s3
from mskray.storage.connection import connect

KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


def use(monkeypatch: pytest.MonkeyPatch, changes: Mapping[str, str | None]) -> None:
    for name, value in changes.items():
        if value is None:
            monkeypatch.delenv(name)
        else:
            monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"AWS_ACCESS_KEY_ID": "UNKNOWN"},
            "{endpoint} does not know the access key from the environment:"
            " for {uri} set AWS_ACCESS_KEY_ID or AWS_PROFILE",
        ),
        (
            {"AWS_SECRET_ACCESS_KEY": "wrong"},
            "the secret key from the environment is wrong for {endpoint}:"
            " for {uri} set AWS_SECRET_ACCESS_KEY or AWS_PROFILE",
        ),
        (
            dict.fromkeys(KEYS),
            "no credentials for S3: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
        ),
        (
            {"AWS_SECRET_ACCESS_KEY": None},
            "the S3 configuration is unusable: Partial credentials found in env, missing: AWS_SECRET_ACCESS_KEY;"
            " check the AWS variables and ~/.aws/config",
        ),
        (
            {"AWS_PROFILE": "nobody"},
            "the S3 configuration is unusable: The config profile (nobody) could not be found;"
            " check the AWS variables and ~/.aws/config",
        ),
        (
            {"AWS_ENDPOINT_URL": "127.0.0.1:9000"},
            "the S3 configuration is unusable: Invalid endpoint: 127.0.0.1:9000;"
            " check the AWS variables and ~/.aws/config",
        ),
        (
            {"AWS_ENDPOINT_URL": "http://127.0.0.1:1"},
            "no answer from http://127.0.0.1:1 for {uri} (Connection refused):"
            " check that the store runs, the network, and AWS_ENDPOINT_URL",
        ),
        (
            {"AWS_ENDPOINT_URL": "https://127.0.0.1:{port}"},
            "TLS with https://127.0.0.1:{port} failed (wrong version number): set AWS_CA_BUNDLE to the store's"
            " certificate authority, or write http:// in AWS_ENDPOINT_URL if the store has no TLS",
        ),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
@pytest.mark.parametrize("write", [False, True], ids=["read", "write"])
def test_check_access_says_in_one_line_what_is_wrong(
    s3_folder: Location,
    object_store: ObjectStore,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, str | None],
    line: str,
    write: bool,
) -> None:
    known = {"endpoint": object_store.endpoint, "port": str(object_store.port), "uri": s3_folder.uri}
    use(monkeypatch, {name: value and value.format(**known) for name, value in changes.items()})
    with pytest.raises(UserError) as error:
        check_access(s3_folder, write)
    assert str(error.value) == line.format(**known)


@pytest.mark.parametrize("write", [False, True], ids=["read", "write"])
def test_missing_bucket(s3_folder: Location, object_store: ObjectStore, write: bool) -> None:
    place = locate("s3://no-such-bucket/x")
    says = (
        f"bucket no-such-bucket does not exist at {object_store.endpoint}: create it, or correct s3://no-such-bucket/x"
    )
    actions: list[Callable[[], object]] = [
        lambda: check_access(place, write),
        place.read_bytes,
        lambda: place.write_bytes(b"x"),
        lambda: list(place.walk()),
    ]
    for action in actions:
        with pytest.raises(UserError) as error:
            action()
        assert str(error.value) == says
    assert not place.exists()
    assert not locate("s3://no-such-bucket").exists()


def test_credentials_that_may_only_read(
    s3_folder: Location, object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = s3_folder.join("x")
    file.write_bytes(b"kept")
    use(monkeypatch, object_store.reader_env)
    check_access(s3_folder)
    assert file.read_bytes() == b"kept"
    end = f"{object_store.endpoint} with the credentials from the environment: ask for it, or use others"
    table: list[tuple[Callable[[], object], str]] = [
        (lambda: check_access(s3_folder, write=True), f"no permission to write {s3_folder.uri} at {end}"),
        (lambda: file.write_bytes(b"new"), f"no permission to write {file.uri} at {end}"),
        (file.delete, f"no permission to delete {file.uri} at {end}"),
        (s3_folder.delete_dir, f"could not delete {file.uri}: AccessDenied; check your permissions"),
    ]
    for action, says in table:
        with pytest.raises(UserError) as error:
            action()
        assert str(error.value) == says
    assert file.read_bytes() == b"kept"


def test_an_endpoint_that_is_no_object_store(s3_folder: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        for write in (False, True):
            with pytest.raises(UserError, match=r"does not answer like an S3 store \(.*\): set AWS_ENDPOINT_URL"):
                check_access(s3_folder, write)
        server.shutdown()


def test_an_endpoint_that_never_answers(s3_folder: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "PROBE_READ_TIMEOUT", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(UserError, match=r"no answer from .* \(timed out\)"):
            check_access(s3_folder)


def test_write_check_leaves_nothing_behind(s3_folder: Location, object_store: ObjectStore) -> None:
    with FaultProxy(object_store.port) as proxy, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        check_access(s3_folder, write=True)
        assert not [entry for entry in proxy.log if entry[0] == "PUT"]
    bucket, _, prefix = s3_folder.path.partition("/")
    assert "Contents" not in connect().client.list_objects_v2(Bucket=bucket, Prefix=prefix)
    assert "Uploads" not in connect().client.list_multipart_uploads(Bucket=bucket, Prefix=prefix)


@pytest.mark.slow
def test_walk_and_delete_beyond_one_page(s3_folder: Location) -> None:
    names = [f"{number % 7}/{number:05d}.png" for number in range(1050)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: s3_folder.join(name).write_bytes(name.encode()), names))
    assert [entry.path for entry in s3_folder.walk()] == sorted(names)
    s3_folder.delete_dir()
    assert list(s3_folder.walk()) == []


def test_seaweedfs_lists_folder_by_folder(s3_folder: Location) -> None:
    names = ["a/x", "a b", "a-b", "a.txt", "a0"]
    for name in names:
        s3_folder.join(name).write_bytes(b"")
    assert [entry.path for entry in s3_folder.walk()] == sorted(names, key=lambda name: name.split("/"))


def test_large_objects_go_up_in_parts(s3_folder: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "PART_BYTES", 5 * 2**20)
    data = bytes(range(256)) * (12 * 2**12)
    file = s3_folder.join("weights")
    file.write_bytes(data)
    head = connect().client.head_object(Bucket=file.path.split("/")[0], Key=file.path.partition("/")[2])
    assert head["ETag"].strip('"').endswith("-3")
    assert file.read_bytes() == data


def test_arrow_writes_and_reads_through_the_filesystem(s3_folder: Location) -> None:
    table = pa.table({"x": list(range(1000))})
    file = s3_folder.join("split=train/part 0.parquet")
    pq.write_table(table, file.path, filesystem=file.filesystem)
    assert pq.read_table(s3_folder.path, filesystem=s3_folder.filesystem).column("x").to_pylist() == list(range(1000))
    zipped = s3_folder.join("x.csv.gz")
    with zipped.filesystem.open_output_stream(zipped.path) as stream:
        stream.write(b"a,b\n")
    with zipped.filesystem.open_input_stream(zipped.path) as stream:
        assert stream.read() == b"a,b\n"
    assert zipped.read_bytes()[:2] == b"\x1f\x8b"  # compressed once


def test_folders_that_arrow_makes_are_no_files(s3_folder: Location) -> None:
    s3_folder.filesystem.create_dir(s3_folder.join("run/checkpoint").path)
    assert list(s3_folder.walk()) == []
    s3_folder.delete_dir()
    assert not s3_folder.exists()


@pytest.mark.parametrize(("status", "first"), [(503, 1), (500, 1), (503, 7)])
def test_check_access_stands_a_store_that_is_busy(
    s3_folder: Location, object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch, status: int, first: int
) -> None:
    with FaultProxy(object_store.port) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        proxy.inject(Fault("status", methods="GET|POST", status=status, first=first))
        check_access(s3_folder, write=True)
        assert proxy.hits("status") == first
