"""What a driver is told before it joins a cluster: each mistake in one line, within seconds."""

import http.server
import os
import platform
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import ray
from certificates import self_signed
from gcs_stand_in import head
from ray import _raylet

from mskray.cluster import asking, doors, session, wire
from mskray.cluster.asking import ask
from mskray.errors import UserError

SAME = {"ray_version": ray.__version__, "python_version": platform.python_version()}
NODE = "ab" * 28
AT_ONCE_S = 12.0


@pytest.fixture
def token() -> str:
    """The one that this process sends."""
    return os.environ["RAY_AUTH_TOKEN"]


@pytest.fixture
def started() -> Iterator[Callable[..., str]]:
    """Starts heads; they end with the test."""
    with ExitStack() as stack:
        yield lambda *given, **more: stack.enter_context(head(*given, **more))


@pytest.fixture
def on_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking.services, "find_node_ids", lambda: {NODE})


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine in no network."""
    monkeypatch.setattr(doors, "own_address", lambda: None)


@pytest.fixture
def no_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
            patch.delenv(name, raising=False)
        patch.setenv("HOME", str(tmp_path))
        _raylet.AuthenticationTokenLoader.instance().reset_cache()
        yield
    _raylet.AuthenticationTokenLoader.instance().reset_cache()


def refusal(address: str) -> str:
    """What is said of an address, which must be one line and come at once."""
    began = time.monotonic()
    with pytest.raises(UserError) as raised:
        ask(address)
    assert time.monotonic() - began < AT_ONCE_S
    assert "\n" not in str(raised.value)
    return str(raised.value)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("https://ray.example:8265", "`mskray submit`"),
        ("ray://10.0.0.1:10001", "Ray Client, which mskray does not use: set RAY_ADDRESS=HOST:6379"),
        ("10.0.0.1", "give its address as HOST:PORT"),
        ("10.0.0.1:port", "give its address as HOST:PORT"),
        ("10.0.0.1:70000", "give its address as HOST:PORT"),
        ("no-such-machine.invalid:6379", "no machine is called no-such-machine.invalid"),
    ],
)
def test_addresses_that_are_none(address: str, words: str) -> None:
    assert words in refusal(address)


def test_where_nothing_listens() -> None:
    port = free_port()
    assert f"nothing listens on port {port} there" in refusal(f"127.0.0.1:{port}")


def test_where_nothing_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full queue of connections is as silent as a firewall."""
    monkeypatch.setattr(wire, "WAIT_S", 1.0)
    with socket.socket() as deaf, ExitStack() as stack:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(deaf.getsockname())
        told = refusal(f"127.0.0.1:{deaf.getsockname()[1]}")
    assert "no answer within 1 s" in told


def test_what_listens_is_no_ray() -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        told = refusal(f"127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
        server.server_close()
    assert "does not answer as the head of a Ray cluster" in told


def test_a_cluster_that_may_be_joined(started: Callable[..., str], token: str, on_node: None) -> None:
    ask(started(SAME, token, [NODE]))


def test_another_token(started: Callable[..., str], token: str, on_node: None) -> None:
    told = refusal(started(SAME, "another", [NODE]))
    assert "does not accept the token of RAY_AUTH_TOKEN" in told
    assert token not in told


def test_no_token(started: Callable[..., str], on_node: None, no_token: None) -> None:
    told = refusal(started(SAME, "another", [NODE]))
    assert "asks for a token, and there is none here: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH" in told


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({**SAME, "ray_version": "2.9.3"}, "runs Ray 2.9.3 with Python"),
        ({**SAME, "python_version": "3.9.1"}, f"with Python 3.9.1, here are Ray {ray.__version__} and Python"),
    ],
)
def test_other_versions(
    started: Callable[..., str], token: str, metadata: dict[str, str], words: str, on_node: None
) -> None:
    assert words in refusal(started(metadata, token, [NODE]))


def test_pythons_last_number_counts_as_it_does_for_ray(
    started: Callable[..., str], token: str, on_node: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    near = ".".join(platform.python_version().split(".")[:2]) + ".99"
    address = started({**SAME, "python_version": near}, token, [NODE])
    assert f"with Python {near}" in refusal(address)
    monkeypatch.setenv("RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL", "minor")
    ask(address)


def test_a_machine_that_is_no_node(started: Callable[..., str], token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "_NODE_WAIT_S", 0.5)
    told = refusal(started(SAME, token, [NODE]))
    assert "this machine is no node of the cluster" in told
    assert "mskray submit --address" in told


def test_a_head_that_falls_silent(
    started: Callable[..., str], token: str, on_node: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(head: wire.Head) -> set[str]:
        raise wire.NoAnswer("deadline exceeded: too late")

    monkeypatch.setattr(wire.Head, "node_ids", silent)
    assert "is too busy or ends (deadline exceeded: too late): try again" in refusal(started(SAME, token, [NODE]))


def test_an_open_cluster_is_refused_where_others_reach_it(
    started: Callable[..., str], on_node: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    address = started(SAME, None, [NODE])
    monkeypatch.setattr(doors, "reachable_by_others", lambda host, port: True)
    assert f"anyone who reaches {address} can run code there: it asks for no token" in refusal(address)
    monkeypatch.setenv("MSKRAY_OPEN_CLUSTER", "allowed")
    ask(address)
    assert f"warning: anyone who reaches {address}" in capsys.readouterr().err


def test_an_open_cluster_on_a_machine_alone(started: Callable[..., str], on_node: None, alone: None) -> None:
    ask(started(SAME, None, [NODE]))


def test_who_reaches_a_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether a socket on loopback alone is told from one on all interfaces: here 127.0.0.2 is the own address."""
    monkeypatch.setattr(doors, "own_address", lambda: "127.0.0.2")
    for bound, reached in (("127.0.0.1", False), ("0.0.0.0", True)):
        with socket.socket() as door:
            door.bind((bound, 0))
            door.listen()
            assert doors.reachable_by_others("127.0.0.1", door.getsockname()[1]) is reached
    assert doors.reachable_by_others("10.0.0.1", 6379)


@pytest.mark.parametrize("mode", ["disabled", "off", ""])
def test_a_session_of_ones_own_without_a_token(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr(doors, "own_address", lambda: "10.0.0.9")
    monkeypatch.setenv("RAY_AUTH_MODE", mode)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(UserError, match=r"anyone who reaches 10\.0\.0\.9 could run code here"), session():
        pass


def test_a_dashboard_without_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    class Answers(http.server.BaseHTTPRequestHandler):
        status = 200

        def do_GET(self) -> None:
            self.send_response(self.status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"127.0.0.1:{server.server_port}"
    try:
        doors.check_dashboard_door(url)  # loopback: nobody else's
        monkeypatch.setattr(doors, "is_loopback", lambda host: False)
        with pytest.raises(UserError, match=f"anyone who reaches {url} can run code there"):
            doors.check_dashboard_door(url)
        Answers.status = 401
        doors.check_dashboard_door(url)
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def pem(tmp_path: Path) -> Path:
    return self_signed(tmp_path / "cluster.pem")


@pytest.fixture
def with_tls(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    def set_tls(pem: Path) -> None:
        monkeypatch.setenv("RAY_USE_TLS", "1")
        for name in wire.TLS_FILES:
            monkeypatch.setenv(name, str(pem))

    return set_tls


def test_tls_on_both_sides(
    started: Callable[..., str], token: str, pem: Path, with_tls: Callable[[Path], None], on_node: None
) -> None:
    with_tls(pem)
    ask(started(SAME, token, [NODE], pem=pem))


def test_tls_on_their_side_alone(started: Callable[..., str], token: str, pem: Path, on_node: None) -> None:
    assert "speaks TLS: set RAY_USE_TLS=1" in refusal(started(SAME, token, [NODE], pem=pem))


def test_tls_on_ones_own_side_alone(
    started: Callable[..., str], token: str, pem: Path, with_tls: Callable[[Path], None], on_node: None
) -> None:
    with_tls(pem)
    assert "speaks no TLS: unset it, or set it there" in refusal(started(SAME, token, [NODE]))


def test_another_authority(
    started: Callable[..., str], token: str, pem: Path, with_tls: Callable[[Path], None], tmp_path: Path, on_node: None
) -> None:
    with_tls(self_signed(tmp_path / "other.pem"))
    told = refusal(started(SAME, token, [NODE], pem=pem))
    assert "is not accepted" in told
    assert "RAY_TLS_CA_CERT" in told


def test_tls_without_its_files(
    started: Callable[..., str], token: str, pem: Path, monkeypatch: pytest.MonkeyPatch, on_node: None
) -> None:
    monkeypatch.setenv("RAY_USE_TLS", "true")
    monkeypatch.setenv("RAY_TLS_CA_CERT", str(pem))
    told = refusal(started(SAME, token, [NODE], pem=pem))
    assert "RAY_TLS_SERVER_CERT, RAY_TLS_SERVER_KEY names no file" in told
