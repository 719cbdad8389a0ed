"""Whom boto3 takes us for, and that Arrow follows: profile files, renewal, TLS, web proxies; no secret gets out."""

import datetime
import json
import pickle
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from certificates import self_signed
from fault_proxy import FaultProxy

from infra.seaweedfs import ObjectStore
from mskray.errors import UserError
from mskray.storage import Location, check_access, locate

KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


def use(monkeypatch: pytest.MonkeyPatch, changes: Mapping[str, str | None]) -> None:
    for name, value in changes.items():
        if value is None:
            monkeypatch.delenv(name)
        else:
            monkeypatch.setenv(name, value)


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
    return self_signed(tmp_path / "store.pem")


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
