"""Clusters that grow: what is asked of the autoscaler, what it could never bring, and what a cluster of one says."""

import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from google.protobuf import json_format
from ray.cluster_utils import FAKE_HEAD_NODE_ID
from ray.core.generated import autoscaler_pb2

from mskray.cluster import Need, grows, require
from mskray.cluster.growing import Growth
from mskray.errors import UserError

BIN = Path(sys.executable).parent
PORT = 6379  # where the stand-in for a cloud has its nodes look for the head
DRIVER = """
import ray, sys, time
from mskray.cluster import Need, grows, require, session
from mskray.errors import UserError
with session():
    print("grows", grows(), flush=True)
    for workers, cpus in ((9, 2), (1, 8), (3, 2)):
        began = time.monotonic()
        try:
            require(Need("training", workers, cpus), 0.5)
            print("fits", sum(node["Alive"] for node in ray.nodes()), flush=True)
        except UserError as error:
            print(f"{time.monotonic() - began:.0f} s", error, flush=True)
"""


CONFIG = {
    "cluster_name": "growing",
    "max_workers": 8,
    "provider": {
        "type": "external",  # the wheel lacks the defaults of "fake_multinode"
        "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
        "use_node_id_as_ip": True,
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
        "launch_multiple": True,
        "head_node_id": FAKE_HEAD_NODE_ID,
    },
    "available_node_types": {
        "worker": {"resources": {"CPU": 2}, "node_config": {}, "min_workers": 0, "max_workers": 3},
        "ray.head.default": {"resources": {"CPU": 1}, "node_config": {}, "max_workers": 0},
    },
    "head_node_type": "ray.head.default",
    "upscaling_speed": 1.0,
    "idle_timeout_minutes": 1,
    "auth": {},
    "cluster_synced_files": [],
    "file_mounts": {},
    **{f"{kind}setup_commands": [] for kind in ("", "head_", "worker_")},
    **{f"{kind}start_ray_commands": [] for kind in ("head_", "worker_")},
    "initialization_commands": [],
}


def test_what_ray_has_to_place() -> None:
    assert Need("training", 2, 1.5, 1).bundles(0.5) == [{"CPU": 1.5, "GPU": 1}, {"CPU": 1.5, "GPU": 1}, {"CPU": 0.5}]
    assert Need("reading", 0, 0).bundles(0.5) == [{"CPU": 0.5}]
    assert Need("driver", 3, 0).bundles(0.0) == []


def test_what_the_autoscaler_says_of_a_request() -> None:
    """Its word counts where it is on this very request, and was said after it was made."""
    growth = Growth("training", Need("training", 2, 1.5).bundles(0.5), lambda _: None)

    def said(version: int, *bundles: tuple[float, int]) -> object:
        requests = [{"request": {"resources_bundle": {"CPU": cpus}}, "count": count} for cpus, count in bundles]
        constraints = [{"resource_requests": requests}] if requests else []
        return json_format.ParseDict(
            {
                "last_seen_cluster_resource_state_version": version,
                "infeasible_cluster_resource_constraints": constraints,
            },
            autoscaler_pb2.AutoscalingState(),
        )

    for state, impossible in (
        (said(7, (1.5, 2), (0.5, 1)), True),
        (said(5, (1.5, 2), (0.5, 1)), False),
        (said(7, (1.5, 3), (0.5, 1)), False),
        (said(7), False),
        (None, False),
    ):
        assert growth._is_impossible(state, 5) is impossible


@pytest.mark.slow
def test_a_cluster_of_one_does_not_grow(ray_cluster: str) -> None:
    began = time.monotonic()
    assert not grows()
    with pytest.raises(UserError, match=r"training needs 64 × 1 CPU and 0\.5 to read data, the cluster has 3"):
        require(Need("training", 64, 1.0))
    assert time.monotonic() - began < 1.0


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture
def growing_cluster(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A head of one CPU to which Ray's own stand-in for a cloud adds at most three nodes of two; yields variables.

    As `ray.cluster_utils.AutoscalingCluster` has it, which would stop every other cluster of this machine first.
    """
    file = tmp_path / "autoscaling.json"
    file.write_text(json.dumps(CONFIG))
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1",
        "RAY_NODE_TYPE_NAME": "ray.head.default",  # as `ray up` and KubeRay have it
        "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
    }
    words = [str(BIN / "ray"), "start", "--head", "--block", "--num-cpus=1", f"--autoscaling-config={file}"]
    names = ("dashboard-port", "ray-client-server-port", "dashboard-agent-listen-port", "metrics-export-port")
    words += [f"--port={PORT}", *(f"--{name}={free_port()}" for name in names)]
    log = (tmp_path / "head.log").open("w")
    process = subprocess.Popen(words, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 90
        while "Ray runtime started" not in (tmp_path / "head.log").read_text():
            assert process.poll() is None, (tmp_path / "head.log").read_text()[-3000:]
            assert time.monotonic() < deadline
            time.sleep(0.5)
        yield {**environment, "RAY_ADDRESS": f"127.0.0.1:{PORT}"}
    finally:
        started = [process, *psutil.Process(process.pid).children(recursive=True)]
        for each in started:
            if each.pid in psutil.pids():
                each.terminate()
        _, left = psutil.wait_procs(started, timeout=10)
        for each in left:
            each.kill()
        log.close()


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.own_cluster
@pytest.mark.timeout(400)
def test_nodes_are_asked_for_and_waited_for(growing_cluster: dict[str, str]) -> None:
    """3 × 2 CPU fit on what may be added; 9 × 2 and a worker of 8 CPUs never do, which is said at once."""
    environment = {**growing_cluster, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", DRIVER], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    grow, many, large, fits = done.stdout.splitlines()
    assert grow == "grows True"
    for told in (many, large):
        assert int(told.partition(" s ")[0]) < 60
        assert "the autoscaler has no nodes for it either" in told
    assert fits == "fits 4"
    assert "waiting for nodes: training has 1 of 6.5 CPU on 1" in done.stderr
    assert "4 nodes are there" in done.stderr
