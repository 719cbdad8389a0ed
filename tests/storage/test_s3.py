"""S3 against a real SeaweedFS: who the AWS variables and files say we are, and one line for all that is wrong."""

import datetime
import http.server
import ipaddress
import json
import pickle
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
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


def profile_keys(tmp_path: Path, store: ObjectStore) -> dict[str, str]:
    path = tmp_path / "credentials"
    path.write_text(
        f"[knees]\naws_access_key_id = {store.env['AWS_ACCESS_KEY_ID']}\n"
        f"aws_secret_access_key = {store.env['AWS_SECRET_ACCESS_KEY']}\n"
    )
    return {"AWS_SHARED_CREDENTIALS_FILE": str(path), "AWS_PROFILE": "knees"}


@pytest.mark.parametrize(
    ("config", "variables"),
    [
        ("", {"AWS_ENDPOINT_URL": "{endpoint}"}),
        ("", {"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_ENDPOINT_URL_S3": "{endpoint}"}),
        ("[profile knees]\nregion = eu-west-1\nendpoint_url = {endpoint}\n", {}),
        ("[profile knees]\nservices = local\n[services local]\ns3 =\n  endpoint_url = {endpoint}\n", {}),
    ],
    ids=["variable", "variable for S3", "profile", "services section"],
)
def test_endpoint_and_credentials_from_profile_files(
    object_store: ObjectStore,
    aws_nothing: pytest.MonkeyPatch,
    tmp_path: Path,
    config: str,
    variables: dict[str, str],
) -> None:
    (tmp_path / "config").write_text(config.replace("{endpoint}", object_store.endpoint))
    use(aws_nothing, profile_keys(tmp_path, object_store) | {"AWS_CONFIG_FILE": str(tmp_path / "config")})
    use(aws_nothing, {name: value.replace("{endpoint}", object_store.endpoint) for name, value in variables.items()})
    file = locate(f"s3://{object_store.bucket}/{tmp_path.name}/x")
    check_access(file, write=True)
    file.write_bytes(b"profile")
    with file.filesystem.open_input_file(file.path) as stream:
        assert stream.read() == b"profile"


def test_temporary_credentials_are_renewed_for_arrow_too(
    s3_folder: Location, object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The process behind the profile hands out a reader at first and an administrator later, each for a few minutes."""

    def hand_out(env: dict[str, str]) -> None:
        soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(minutes=5)  # within botocore's renewal window
        keys = {"AccessKeyId": env[KEYS[0]], "SecretAccessKey": env[KEYS[1]], "Expiration": soon.isoformat()}
        (tmp_path / "keys.json").write_text(json.dumps({"Version": 1} | keys))

    printer = f"{sys.executable} -c 'print(open(\"{tmp_path}/keys.json\").read())'"
    (tmp_path / "config").write_text(f"[profile role]\ncredential_process = {printer}\n")
    hand_out(object_store.reader_env)
    use(monkeypatch, dict.fromkeys(KEYS))
    use(monkeypatch, {"AWS_PROFILE": "role", "AWS_CONFIG_FILE": str(tmp_path / "config")})
    filesystem, path = s3_folder.filesystem, s3_folder.join("x").path
    with pytest.raises(OSError, match="ACCESS_DENIED"):
        filesystem.open_output_stream(path)
    hand_out(object_store.env)
    with filesystem.open_output_stream(path) as stream:
        stream.write(b"renewed")
    assert s3_folder.join("x").read_bytes() == b"renewed"


def test_nothing_pickled_or_printed_holds_a_secret(s3_folder: Location, object_store: ObjectStore) -> None:
    s3_folder.join("x").write_bytes(b"x")  # the connection now holds them
    assert s3_folder.filesystem.get_file_info(s3_folder.join("x").path).size == 1
    for thing in (s3_folder, s3_folder.filesystem):
        for secret in (object_store.env[key].encode() for key in KEYS):
            assert secret not in pickle.dumps(thing)
            assert secret not in repr(thing).encode()
    assert object_store.env[KEYS[1]] not in repr(object_store)


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A self-signed certificate for 127.0.0.1 and its key, in one PEM file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "local store")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now - datetime.timedelta(hours=1))
    builder = builder.not_valid_after(now + datetime.timedelta(hours=1)).add_extension(address, critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = tmp_path / "store.pem"
    path.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(pem) + private)
    return path


def test_tls_with_the_stores_own_authority(
    s3_folder: Location, object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch, certificate: Path
) -> None:
    with FaultProxy(object_store.port, certificate=certificate) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        with pytest.raises(
            UserError, match=r"TLS with .* failed \(certificate verify failed: self-signed certificate\)"
        ):
            check_access(s3_folder, write=True)
        monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
        check_access(s3_folder, write=True)
        s3_folder.join("x").write_bytes(b"over TLS")
        with s3_folder.filesystem.open_input_file(s3_folder.join("x").path) as stream:
            assert stream.read() == b"over TLS"


def test_arrow_goes_through_the_same_web_proxy(
    s3_folder: Location, object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FaultProxy(object_store.port) as proxy:
        monkeypatch.setenv("http_proxy", proxy.endpoint)
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://localhost:{object_store.port}")
        s3_folder.join("x").write_bytes(b"x")
        through_boto3 = len(proxy.log)
        assert s3_folder.filesystem.get_file_info(s3_folder.join("x").path).size == 1
        assert 0 < through_boto3 < len(proxy.log)


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


@pytest.mark.parametrize("status", [503, 500])
def test_check_access_stands_one_hiccup(
    s3_folder: Location, object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    with FaultProxy(object_store.port) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        proxy.inject(Fault("status", methods="GET|POST", status=status, first=1))
        check_access(s3_folder, write=True)
        assert proxy.hits("status") == 1
