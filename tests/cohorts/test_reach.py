"""What a node lacks is refused before any work: a folder of one machine, a bucket, a version of the code."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

import mskray
from infra.seaweedfs import ObjectStore
from mskray.cohorts.reach import Seen, check_everywhere, refusals
from mskray.cohorts.schema import MANIFEST
from mskray.storage import locate

RAY = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--num-cpus=1"]
DRIVER = """
import sys, time, ray
from mskray.cohorts.reach import check_everywhere
from mskray.errors import UserError
from mskray.storage import locate
ray.init(sys.argv[1], logging_level="ERROR")
deadline = time.monotonic() + 90
while sum(node["Alive"] for node in ray.nodes()) < int(sys.argv[2]) and time.monotonic() < deadline:
    time.sleep(0.5)
for what, place in zip(sys.argv[3::2], sys.argv[4::2]):
    try:
        check_everywhere(**{what: [locate(place)]})
        print("passes")
    except UserError as error:
        print(error)
"""
HERE = Seen(".".join(map(str, sys.version_info[:3])), mskray.__version__)


@pytest.mark.parametrize(
    ("told", "reasons"),
    [
        ({"10.0.0.1": HERE, "10.0.0.2": HERE}, []),
        (
            {"10.0.0.1": HERE, "10.0.0.2": Seen(HERE.python, "0.0.1"), "10.0.0.3": Seen(HERE.python, "")},
            [r"the driver has mskray \S+, node 10\.0\.0\.2 \(0\.0\.1\), 10\.0\.0\.3 \(none\) has not: install"],
        ),
        (
            {"10.0.0.1": HERE, "10.0.0.2": Seen("3.9.1", HERE.mskray)},
            [r"the driver has Python 3\.1\d, node 10\.0\.0\.2 \(3\.9\) has not"],
        ),
        (
            {"10.0.0.1": HERE, "10.0.0.2": Seen(HERE.python, HERE.mskray, {"s3://bucket/a": "no credentials"})},
            [r"node 10\.0\.0\.2 cannot use s3://bucket/a, which the driver can: no credentials"],
        ),
        (
            {f"10.0.0.{last}": Seen(HERE.python, HERE.mskray, {"file:///data": ""}) for last in range(1, 7)},
            [r"/data is a folder of this machine that node 10\.0\.0\.1, .*10\.0\.0\.4 and 2 more does not see: give a"],
        ),
    ],
)
def test_what_is_said_of_nodes(told: dict[str, Seen], reasons: list[str]) -> None:
    found = refusals(told)
    assert len(found) == len(reasons)
    for reason, words in zip(found, reasons, strict=True):
        assert re.search(words, reason), reason


@pytest.mark.slow
def test_one_node_is_asked_nothing(ray_cluster: str, tmp_path: Path) -> None:
    began = time.monotonic()
    check_everywhere([locate("s3://nobody-has-this/bucket")], [locate(tmp_path)])
    assert time.monotonic() - began < 1.0
    assert not list(tmp_path.iterdir())


@contextmanager
def daemon(words: list[str], environment: dict[str, str]) -> Iterator[None]:
    process = subprocess.Popen(
        words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, env=environment
    )
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def ports() -> list[str]:
    """Free ones: another cluster of this machine may hold the usual ones."""
    return [f"--{name}={free_port()}" for name in ("dashboard-agent-listen-port", "metrics-export-port")]


def wait_for(port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
            return
        time.sleep(0.5)
    raise AssertionError("the first node did not start")


def told_by_driver(address: str, nodes: int, *asked: str | Path, environment: dict[str, str]) -> list[str]:
    words = [sys.executable, "-c", DRIVER, address, str(nodes), *map(str, asked)]
    # From elsewhere: Ray has workers look for modules in the driver's folder first.
    root, paths = Path(mskray.__file__).parents[1], os.environ.get("PYTHONPATH", "")
    environment = {**environment, "PYTHONPATH": f"{root}:{paths}".rstrip(":")}
    done = subprocess.run(words, capture_output=True, text=True, timeout=200, env=environment, cwd="/")
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def older_mskray(folder: Path) -> Path:
    """A folder in which this very package calls itself another version."""
    (folder / "mskray").mkdir(parents=True)
    real = Path(mskray.__file__).parent
    (folder / "mskray" / "__init__.py").write_text(f'__version__ = "0.0.1"\n__path__.append({str(real)!r})\n')
    return folder


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.own_cluster
@pytest.mark.timeout(400)
@pytest.mark.skipif(
    not shutil.which("unshare") or os.geteuid() != 0, reason="a second view of the disk takes unshare and root"
)
def test_what_another_node_lacks_is_refused_and_nothing_is_left(tmp_path: Path, object_store: ObjectStore) -> None:
    """Three nodes; the second has no credentials and a disk of its own in one place, the third another mskray."""
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    for folder in (alone, shared):
        folder.mkdir()
        (folder / MANIFEST).touch()
    bare = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    bare |= {"AWS_CONFIG_FILE": "/nonexistent/config", "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent/credentials"}
    bare |= {"AWS_EC2_METADATA_DISABLED": "true"}
    environment = {**bare, **object_store.env}
    port = free_port()
    address = f"127.0.0.1:{port}"
    hidden = f'mount -t tmpfs none {alone} && exec "$@"'
    head = ["--head", "--include-dashboard=false", f"--port={port}", f"--ray-client-server-port={free_port()}"]
    bucket = f"s3://{object_store.bucket}"
    with ExitStack() as stack:
        stack.enter_context(daemon([*RAY, *ports(), *head], environment))
        wait_for(port)
        second = ["unshare", "-m", "sh", "-c", hidden, "sh", *RAY, *ports(), f"--address={address}"]
        stack.enter_context(daemon(second, bare))
        asked = ("writes", alone, "reads", alone, "reads", shared, "writes", shared, "writes", bucket)
        of_out, of_cohort, *passed, of_bucket = told_by_driver(address, 2, *asked, environment=environment)
        assert f"{alone} is a folder of this machine that node " in of_out
        assert f"{alone} is a folder of this machine that node " in of_cohort
        assert passed == ["passes", "passes"]
        assert f"cannot use {bucket}, which the driver can: " in of_bucket
        assert "credentials" in of_bucket
        paths = [
            str(older_mskray(tmp_path / "older")),
            os.environ.get("PYTHONPATH", ""),
            str(Path(mskray.__file__).parents[1]),
        ]
        third = {**environment, "PYTHONPATH": ":".join(filter(None, paths))}
        stack.enter_context(daemon([*RAY, *ports(), f"--address={address}"], third))
        (of_version,) = told_by_driver(address, 3, "reads", shared, environment=environment)
        assert f"the driver has mskray {mskray.__version__}, node " in of_version
        assert "(0.0.1) has not: install the same on all nodes" in of_version
    assert [file.name for file in (*shared.iterdir(), *alone.iterdir())] == [MANIFEST] * 2
