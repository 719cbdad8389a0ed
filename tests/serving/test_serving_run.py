"""Starting and stopping: mistakes are one line before Serve starts, and nothing is left running."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests
import yaml
from ray import serve
from ray.serve.schema import ServeDeploySchema
from serving_samples import TOKEN, encoded, radiograph

from mskray.errors import UserError
from mskray.progress import Progress
from mskray.serving import run
from mskray.serving.run import Place, reserved, serve_forever, start, stop
from mskray.serving.settings import Limits, Offer
from mskray.serving.tokens import TOKEN_VARIABLE
from serve.app import ENSEMBLE_VARIABLE, Arguments, app

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "serve" / "config.yaml"


@pytest.fixture(autouse=True)
def no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    monkeypatch.delenv(ENSEMBLE_VARIABLE, raising=False)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("port in use", r"cannot listen on 127\.0\.0\.1 port \d+"),
        ("foreign address", r"cannot listen on 203\.0\.113\.1"),
        ("no token", TOKEN_VARIABLE),
        ("short token", TOKEN_VARIABLE),
        ("no ensemble", "holds neither"),
        ("tampered weights", "does not match the hash"),
        ("newer schema", "schema version 99"),
    ],
)
def test_what_is_refused_before_serve_starts(
    what: str, message: str, ray_cluster: str, ensemble_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, ensemble = "127.0.0.1", ensemble_uri
    with socket.socket() as taken:
        port = 0
        if what == "port in use":
            # As Ray's own server does: without it a second server of the same user would share the port in silence.
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            taken.bind((host, 0))
            taken.listen()
            port = taken.getsockname()[1]
        elif what == "foreign address":
            host = "203.0.113.1"
            monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
        elif what == "no token":
            host = "0.0.0.0"
        elif what == "short token":
            monkeypatch.setenv(TOKEN_VARIABLE, "secret")
        elif what == "no ensemble":
            ensemble = str(tmp_path)
        else:
            ensemble = str(damaged(Path(ensemble_uri).parent / "first", tmp_path / "bundle", what))
        with pytest.raises(UserError, match=message) as raised:
            start(Offer(ensemble=ensemble), Place(host, port))
    assert "\n" not in str(raised.value)
    assert not serve.status().proxies


def damaged(bundle: Path, copy: Path, what: str) -> Path:
    """Copy a bundle with one thing wrong."""
    copy.mkdir()
    for path in bundle.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    if what == "tampered weights":
        weights = bytearray((copy / "weights.safetensors").read_bytes())
        weights[-1] ^= 1
        (copy / "weights.safetensors").write_bytes(weights)
    else:
        description = json.loads((copy / "bundle.json").read_text())
        (copy / "bundle.json").write_text(json.dumps({**description, "schema_version": 99}))
    return copy


@pytest.mark.long
@pytest.mark.slow
def test_sigterm_stops_and_another_model_starts_on_the_same_port(ray_cluster: str, ensemble_uri: str) -> None:
    port = free_port()
    url, models = f"http://127.0.0.1:{port}", Path(ensemble_uri).parent

    def terminate_once_it_serves(progress: Progress) -> None:
        if progress.stage.startswith("serving"):
            assert url in progress.stage
            served.append(name_of_the_model(url))
            os.kill(os.getpid(), signal.SIGTERM)

    served: list[str] = []
    before = signal.getsignal(signal.SIGTERM)
    serve_forever(Offer(ensemble=str(models / "first")), Place(port=port), report=terminate_once_it_serves)
    assert signal.getsignal(signal.SIGTERM) is before
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{url}/healthz", timeout=60)
    assert start(Offer(ensemble=str(models / "second")), Place(port=port)) == url
    served.append(name_of_the_model(url))
    stop()
    assert served == ["first", "second"]
    stop()  # without a server it does nothing


def name_of_the_model(url: str) -> str:
    return str(requests.get(f"{url}/v1/models", timeout=60).json()["ensemble"]["name"])


SERVE = """
import sys
from mskray.serving.run import Place, serve_forever
from mskray.serving.settings import Offer
serve_forever(Offer(ensemble=sys.argv[1]), Place(port=int(sys.argv[2])), report=print)
"""


@pytest.mark.own_cluster
@pytest.mark.slow
def test_ctrl_c_stops_everything(ensemble_uri: str) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, ensemble_uri, str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        cwd=ROOT,
    )
    try:
        wait_until_healthy(url, process)
        files = [("views", ("a.png", encoded(radiograph(1), "PNG")))]
        assert requests.post(f"{url}/v1/studies", files=files, timeout=60).status_code == 200
        # Ctrl-C reaches the whole process group, Ray's processes too.
        os.killpg(process.pid, signal.SIGINT)
        output, _ = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 0, output
    assert "Traceback" not in output
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{url}/healthz", timeout=60)


@pytest.mark.long
@pytest.mark.own_cluster
@pytest.mark.slow
def test_the_serve_config_serves(ensemble_uri: str, tmp_path: Path) -> None:
    config = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    config["http_options"]["port"] = port = free_port()
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    environment = {**os.environ, ENSEMBLE_VARIABLE: ensemble_uri, TOKEN_VARIABLE: TOKEN, "RAY_ADDRESS": "local"}
    process = subprocess.Popen(
        [str(Path(sys.executable).parent / "serve"), "run", str(tmp_path / "config.yaml")],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        cwd=ROOT,
        env=environment,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until_healthy(url, process)
        assert requests.get(f"{url}/v1/models", timeout=60).status_code == 401
        models = requests.get(f"{url}/v1/models", headers={"Authorization": f"Bearer {TOKEN}"}, timeout=60).json()
        assert models["ensemble"]["name"] == "knees"
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=120)
    finally:
        process.kill()


def wait_until_healthy(url: str, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[0]
        try:
            if requests.get(f"{url}/readyz", timeout=5).status_code == 200:
                return
        except requests.RequestException:
            time.sleep(0.5)
    pytest.fail("not healthy in time")


@pytest.mark.parametrize(
    ("free", "expected"), [(0.0, (1, 1)), (1.0, (1, 1)), (2.0, (2, 1)), (4.0, (4, 3)), (16.0, (4, 4))]
)
def test_one_cpu_is_left_to_http_and_used_while_it_is_idle(
    free: float, expected: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    node = {"Alive": True, "Resources": {"CPU": 16.0}}
    monkeypatch.setattr(run, "ray", SimpleNamespace(nodes=lambda: [node], available_resources=lambda: {"CPU": free}))
    assert run._cpus() == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (["ensemble"], 3.0),
        (["spines", "vertebrae"], 3.0),
        (["ensemble", "spines", "vertebrae"], 1.5),
        (["ensemble", "pairs", "spines", "vertebrae"], 1.0),
    ],
)
def test_cpus_are_divided_by_deployments(fields: list[str], expected: float) -> None:
    assert reserved(Offer(**dict.fromkeys(fields, "s3://models/a")), 3) == expected


@pytest.mark.parametrize(
    ("ensemble", "token", "missing"),
    [
        ("", TOKEN, ENSEMBLE_VARIABLE),
        ("s3://models/knees", "", TOKEN_VARIABLE),
        ("s3://models/knees", "short", TOKEN_VARIABLE),
    ],
)
def test_the_serve_application_needs_an_ensemble_and_a_token(
    ensemble: str, token: str, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENSEMBLE_VARIABLE, ensemble)
    monkeypatch.setenv(TOKEN_VARIABLE, token)
    with pytest.raises(UserError, match=missing):
        app(Arguments())


def test_the_serve_config_is_valid() -> None:
    config = ServeDeploySchema.model_validate(yaml.safe_load(CONFIG.read_text(encoding="utf-8")))
    (application,) = config.applications
    arguments = Arguments.model_validate(application.args)
    assert arguments.limits == Limits(), "the config shows the defaults"
    assert config.http_options.host == "127.0.0.1"
    assert config.http_options.request_timeout_s > Limits().max_seconds
    assert application.import_path == "serve.app:app"
