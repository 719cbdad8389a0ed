"""A real SeaweedFS behind a network that fails: nothing is lost, nothing is half written, nothing comes twice."""

import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fault_proxy import Fault, FaultProxy
from pyarrow.fs import FileSelector

from infra.seaweedfs import ObjectStore
from mskray.errors import UserError
from mskray.storage import Location, connection, faults, s3
from mskray.storage.connection import connect
from mskray.storage.tables import read_parquet

BODY = random.Random(1).randbytes(600_000)


@pytest.fixture(scope="module")
def way(object_store: ObjectStore) -> Iterator[FaultProxy]:
    with FaultProxy(object_store.port, seed=7) as running:
        yield running


@pytest.fixture
def proxy(way: FaultProxy, s3_folder: Location, monkeypatch: pytest.MonkeyPatch) -> FaultProxy:
    """The way to the store; it fails as told by `inject`. Reads time out after 1 s."""
    monkeypatch.setattr(connection, "READ_TIMEOUT", 1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", way.endpoint)
    way.inject()
    return way


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give up after a second."""
    monkeypatch.setattr(faults, "RETRY_SECONDS", 1.0)
    monkeypatch.setattr(connection, "BOTO_ATTEMPTS", 1)
    connection._connect.cache_clear()
    yield
    connection._connect.cache_clear()


def contents(folder: Location) -> dict[str, int]:
    return {entry.path: entry.size for entry in folder.walk()}


GET_FAULTS = [
    Fault("latency", "GET", seconds=3, first=1),
    Fault("status", "GET", status=503, code="SlowDown", first=3),
    Fault("status", "GET", status=503, code="ServiceUnavailable", first=1),
    Fault("status", "GET", status=500, code="InternalError", first=1),
    Fault("status", "GET", status=502, code="", first=1),
    Fault("status", "GET", status=504, code="", first=1),
    Fault("status", "GET", status=429, code="", first=1),
    Fault("cut_before_answer", "GET", first=2),
    Fault("cut_before_answer", "GET", first=1, reset=True),
    Fault("cut_get_body", "GET", first=2),
    Fault("cut_get_body", "GET", first=1, reset=True),
    Fault("stall_get_body", "GET", seconds=3, first=1),
]
PUT_FAULTS = [
    Fault("latency", "PUT", seconds=3, first=1),
    Fault("status", "PUT", status=503, code="SlowDown", first=2),
    Fault("status", "PUT", status=500, code="InternalError", first=1),
    Fault("status", "PUT", status=502, code="", first=1),
    Fault("status", "PUT", status=400, code="RequestTimeout", first=1),
    Fault("cut_before_answer", "PUT", first=1),
    Fault("cut_put_body", "PUT", first=2),
    Fault("cut_put_body", "PUT", first=1, reset=True),
    Fault("cut_after_put", "PUT", first=2),
]


def name(fault: Fault) -> str:
    detail = f"{fault.status} {fault.code or 'gateway'}" if fault.kind == "status" else "reset" * fault.reset
    return f"{fault.kind} {detail}".strip()


def strike(proxy: FaultProxy, fault: Fault) -> int:
    """Inject a fresh copy; gives how often it must have struck in the end."""
    proxy.inject(Fault(**vars(fault)))
    assert fault.first
    return fault.first


@pytest.mark.parametrize("fault", GET_FAULTS, ids=name)
def test_reads_survive(s3_folder: Location, proxy: FaultProxy, fault: Fault) -> None:
    file = s3_folder.join("image.png")
    file.write_bytes(BODY)
    strikes = strike(proxy, fault)
    assert file.read_bytes() == BODY
    file.read_bytes()
    assert proxy.hits(fault.kind) == strikes


@pytest.mark.parametrize("fault", PUT_FAULTS, ids=name)
def test_writes_survive(s3_folder: Location, proxy: FaultProxy, fault: Fault) -> None:
    file = s3_folder.join("shard.parquet")
    file.write_bytes(b"the version before")
    strikes = strike(proxy, fault)
    file.write_bytes(BODY)
    assert proxy.hits(fault.kind) == strikes
    assert file.read_bytes() == BODY
    assert contents(s3_folder) == {"shard.parquet": len(BODY)}


@pytest.mark.parametrize(
    "fault",
    [
        Fault("status", "PUT", first=2),
        Fault("cut_put_body", "PUT", first=2),
        Fault("cut_after_put", "PUT", first=2),
        Fault("cut_after_put", "POST", path=r"\?uploads", first=1),
        Fault("cut_after_put", "POST", path="uploadId=", first=1),
        Fault("status", "POST", path="uploadId=", status=404, code="NoSuchUpload", first=1),
    ],
    ids=lambda fault: f"{name(fault)} {fault.methods}{fault.path}",
)
@pytest.mark.parametrize("from_disk", [False, True], ids=["memory", "disk"])
def test_writes_in_parts_survive(
    s3_folder: Location,
    proxy: FaultProxy,
    monkeypatch: pytest.MonkeyPatch,
    fault: Fault,
    from_disk: bool,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(s3, "PART_BYTES", 5 * 2**20)
    data = BODY * 20
    (tmp_path / "weights").write_bytes(data)
    strikes = strike(proxy, fault)
    if from_disk:
        s3_folder.join("weights").write_file(tmp_path / "weights")
    else:
        s3_folder.join("weights").write_bytes(data)
    assert proxy.hits(fault.kind) == strikes
    assert s3_folder.join("weights").read_bytes() == data
    assert contents(s3_folder) == {"weights": len(data)}


def long_table(file: Location) -> pa.Table:
    """A Parquet file of two columns, which is now in the store."""
    numbers = random.Random(2).sample(range(10**6), 200_000)
    table = pa.table({"x": numbers, "y": numbers[::-1]})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    file.write_bytes(memoryview(sink.getvalue()))
    return table


@pytest.mark.parametrize("fault", [GET_FAULTS[number] for number in (0, 1, 4, 7, 9, 11)], ids=name)
def test_arrow_reads_survive(s3_folder: Location, proxy: FaultProxy, fault: Fault) -> None:
    file = s3_folder.join("shard.parquet")
    table = long_table(file)
    strikes = strike(proxy, fault)
    assert pq.read_table(file.path, filesystem=file.filesystem).equals(table)
    assert proxy.hits(fault.kind) == strikes


@pytest.mark.parametrize("first", [2, 6])
def test_a_column_is_read_again_where_arrow_gives_up(s3_folder: Location, proxy: FaultProxy, first: int) -> None:
    file = s3_folder.join("shard.parquet")
    table = long_table(file)
    proxy.inject(Fault("status", "GET", status=503, code="SlowDownRead", first=first))
    found = read_parquet(file, lambda opened: opened.read(["y"]))
    assert found.equals(table.select(["y"]))
    assert proxy.hits("status") == first


@pytest.mark.usefixtures("impatient")
def test_a_column_that_stays_unreadable_is_a_line(s3_folder: Location, proxy: FaultProxy) -> None:
    file = s3_folder.join("shard.parquet")
    long_table(file)
    proxy.inject(Fault("status", "GET", status=503, code="SlowDownRead"))
    with pytest.raises(UserError, match=r"shard.parquet cannot be read \(.*503.*\): check the path and the store$"):
        read_parquet(file, lambda opened: opened.read(["y"]))


@pytest.mark.parametrize("methods", ["HEAD", "GET"])
def test_arrow_listings_survive_codes_that_arrow_does_not_know(
    s3_folder: Location, proxy: FaultProxy, methods: str
) -> None:
    s3_folder.join("x").write_bytes(b"x")
    proxy.inject(Fault("status", methods, status=503, code="SlowDownRead", first=2))
    found = s3_folder.filesystem.get_file_info(
        FileSelector(s3_folder.path) if methods == "GET" else s3_folder.join("x").path
    )
    assert [info.size for info in (found if methods == "GET" else [found])] == [1]
    assert proxy.hits("status") == 2


@pytest.mark.parametrize("fault", [PUT_FAULTS[number] for number in (1, 3, 6, 8)], ids=name)
def test_arrow_writes_survive(s3_folder: Location, proxy: FaultProxy, fault: Fault) -> None:
    file = s3_folder.join("checkpoint")
    strikes = strike(proxy, fault)
    with file.filesystem.open_output_stream(file.path) as stream:
        stream.write(BODY)
    assert proxy.hits(fault.kind) == strikes
    assert file.read_bytes() == BODY
    assert contents(s3_folder) == {"checkpoint": len(BODY)}


@pytest.mark.parametrize("kind", ["status", "cut_before_answer", "cut_get_body"])
def test_listing_beyond_one_page_lists_each_once(
    s3_folder: Location, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    names = [f"{number:03d}" for number in range(25)]
    for each in names:
        s3_folder.join(each).write_bytes(each.encode())
    whole = s3._list

    def ten(client: object, bucket: str, prefix: str, position: dict[str, str]) -> object:
        return whole(client, bucket, prefix, {**position, "MaxKeys": 10})  # type: ignore[dict-item]

    monkeypatch.setattr(s3, "_list", ten)
    proxy.inject(Fault(kind, "GET", path="continuation-token", first=2))
    assert [entry.path for entry in s3_folder.walk()] == names
    assert proxy.hits(kind) == 2


def test_deletions_survive(s3_folder: Location, proxy: FaultProxy) -> None:
    for each in ("a/1", "a/2", "b", "c"):
        s3_folder.join(each).write_bytes(b"x")
    proxy.inject(Fault("cut_after_put", "DELETE", first=1), Fault("cut_after_put", "POST", first=1))
    s3_folder.join("b").delete()
    s3_folder.join("a").delete_dir()
    assert proxy.hits("cut_after_put") == 2
    assert contents(s3_folder) == {"c": 1}


@pytest.mark.slow
def test_forty_objects_through_a_bad_network(s3_folder: Location, proxy: FaultProxy) -> None:
    """One request in four fails, in every way there is; four writers and readers at once."""
    rng = random.Random(3)
    files = {f"{number % 5}/{number}.bin": rng.randbytes(rng.randrange(200_000)) for number in range(40)}
    everything = [
        Fault(kind, methods, probability=0.06, seconds=0.05)
        for kind, methods in [
            ("latency", ".*"),
            ("status", ".*"),
            ("cut_before_answer", ".*"),
            ("cut_get_body", "GET"),
            ("cut_put_body", "PUT"),
            ("cut_after_put", "PUT"),
        ]
    ]
    proxy.inject(*everything)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda item: s3_folder.join(item[0]).write_bytes(item[1]), files.items()))
        read = dict(zip(files, pool.map(lambda each: s3_folder.join(each).read_bytes(), files), strict=True))
    listed = contents(s3_folder)
    struck = sum(1 for *_, kind in proxy.log if kind)
    assert struck > 10
    assert read == files
    assert listed == {each: len(data) for each, data in files.items()}


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (
            Fault("status", ".*"),
            "{endpoint} could not {what} {uri} for now (SlowDown, HTTP 503): try again later or check the store",
        ),
        (
            Fault("cut_before_answer", ".*"),
            "no answer from {endpoint} for {uri} (connection closed):"
            " check that the store runs, the network, and AWS_ENDPOINT_URL",
        ),
        (
            Fault("latency", ".*", seconds=3),
            "no answer from {endpoint} for {uri} (timed out):"
            " check that the store runs, the network, and AWS_ENDPOINT_URL",
        ),
        (
            Fault("cut_get_body", "GET"),
            "{uri} arrived incomplete or damaged each time from {endpoint}: check the network",
        ),
    ],
    ids=lambda value: name(value) if isinstance(value, Fault) else "",
)
def test_a_store_that_stays_away_ends_in_one_line(
    s3_folder: Location, proxy: FaultProxy, impatient: None, fault: Fault, says: str
) -> None:
    file = s3_folder.join("x")
    file.write_bytes(BODY)
    proxy.inject(fault)
    actions: dict[str, Callable[[], object]] = {"read": file.read_bytes}
    if fault.methods == ".*":
        actions["write"] = lambda: file.write_bytes(b"new")
    for what, action in actions.items():
        with pytest.raises(UserError) as error:
            action()
        assert str(error.value) == says.format(endpoint=proxy.endpoint, uri=file.uri, what=what)


def test_a_write_that_never_gets_through_leaves_the_old_object(
    s3_folder: Location, proxy: FaultProxy, impatient: None
) -> None:
    file = s3_folder.join("cohort.json")
    file.write_bytes(b"old")
    proxy.inject(Fault("cut_put_body", "PUT"))
    with pytest.raises(UserError, match="no answer"):
        file.write_bytes(BODY)
    proxy.inject()
    assert file.read_bytes() == b"old"
    assert contents(s3_folder) == {"cohort.json": 3}


def test_errors_that_stay_are_not_retried(s3_folder: Location, proxy: FaultProxy) -> None:
    s3_folder.join("x").write_bytes(b"x")
    proxy.inject()
    with pytest.raises(UserError, match="there is nothing"):
        s3_folder.join("y").read_bytes()
    assert [entry[0] for entry in proxy.log] == ["GET"]


def test_a_write_in_parts_that_fails_takes_its_parts_back(
    s3_folder: Location, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "PART_BYTES", 5 * 2**20)
    proxy.inject(Fault("status", "PUT", path="partNumber=2", status=403, code="AccessDenied"))
    with pytest.raises(UserError, match="no permission to write"):
        s3_folder.join("weights").write_bytes(BODY * 20)
    bucket, _, prefix = s3_folder.path.partition("/")
    assert "Uploads" not in connect().client.list_multipart_uploads(Bucket=bucket, Prefix=prefix)
    assert contents(s3_folder) == {}
