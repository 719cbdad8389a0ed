"""A Ray cluster over three hosts, with token authentication and TLS, and an object store on a fourth (`hosts.py`).

Each Ray node is started again when it ends, as a service manager does on a real cluster. Clients reach the store
through a `FaultProxy` at its host's address: it can be slow, answer 503, cut, stall; the host's cable can be pulled.
"""

import os
import re
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from signal import Signals
from types import TracebackType
from typing import Any

import requests
from certificates import authority
from fault_proxy import FaultProxy
from hosts import Host, Switch, signal_inside

from infra.seaweedfs import ObjectStore, start_object_store

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
CPUS = 2
STORE_BYTES = 120 << 20
STARTS_S = 400.0

_RAY = {
    "RAY_AUTH_MODE": "token",
    "RAY_USE_TLS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SERVE_ENABLE_HA_PROXY": "0",
    "RAY_worker_niceness": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_raylet_start_wait_time_s": "150",
    # All hosts are one machine, whose memory is not theirs to judge; and each worker started ahead takes 100 MB of it.
    "RAY_memory_monitor_refresh_ms": "0",
    "RAY_enable_worker_prestart": "0",
    "RAY_prestart_worker_first_driver": "0",
}
# Started again a second after it ended, in whatever way; what is left of its processes goes first.
_SUPERVISED = 'while :; do "$@"; echo "ended: $?"; ray_left=$(pgrep -f "$RAY_LEFT") && kill -9 $ray_left; sleep 1; done'


class RayHosts:
    """Hosts `head`, `second` and `third` with Ray, `store_host` with the object store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shared = folder / "shared"
        self._stack = ExitStack()
        self._drivers: list[Driver] = []

    def __enter__(self) -> "RayHosts":
        with ExitStack() as stack:
            self._build(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()

    def _build(self, stack: ExitStack) -> None:
        self.shared.mkdir(parents=True)
        self.switch = stack.enter_context(Switch(self.folder, [ROOT]))
        self.store_host = self.switch.host("store")
        with self.store_host.network():
            place = self.store_host.address
            self.store: ObjectStore = stack.enter_context(start_object_store(self.folder / "weed", host=place))
            self.proxy: FaultProxy = stack.enter_context(FaultProxy(self.store.port, host=place))
        self.nodes = [self.switch.host(name) for name in ("head", "second", "third")]
        self.head, self.second, self.third = self.nodes
        self.environment = self._environment()
        self._start_all()

    def _environment(self) -> dict[str, str]:
        token = self.shared / "token"
        token.write_text(secrets.token_hex(32))
        token.chmod(0o600)
        self._ask = requests.Session()
        self._ask.headers["Authorization"] = f"Bearer {token.read_text()}"
        trusted = authority(self.shared / "authority.pem")
        for host in self.nodes:
            folder = self.shared / host.name
            folder.mkdir()
            trusted.sign(folder, [host.address, "127.0.0.1"])
        return {
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "LANG": "C.UTF-8",
            "HOME": "/tmp/home",
            "OMP_NUM_THREADS": "1",
            "MSKRAY_HASH_KEY": "a key for tests only",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_TLS_CA_CERT": str(trusted.certificate),
            **self.store.env,
            "AWS_ENDPOINT_URL": self.proxy.endpoint,
            **_RAY,
        }

    def environment_of(self, host: Host) -> dict[str, str]:
        """What a command needs in a host: its own certificate, the token, the store."""
        mine = {
            "RAY_TLS_SERVER_CERT": str(self.shared / host.name / "certificate.pem"),
            "RAY_TLS_SERVER_KEY": str(self.shared / host.name / "key.pem"),
        }
        return {**self.environment, **mine}

    @property
    def address(self) -> str:
        return f"{self.head.address}:6379"

    @property
    def dashboard(self) -> str:
        return f"http://{self.head.address}:8265"

    def _start_ray(self, host: Host, environment: dict[str, str] | None = None) -> None:
        log = (self.shared / f"{host.name}.log").open("a")
        common = ["--block", f"--node-ip-address={host.address}", f"--num-cpus={CPUS}"]
        common += [f"--object-store-memory={STORE_BYTES}", "--disable-usage-stats"]
        if host is self.head:
            own = ["--head", "--port=6379", f"--dashboard-host={host.address}", "--dashboard-port=8265"]
        else:
            own = [f"--address={self.address}"]
        command = ["bash", "-c", _SUPERVISED, "ray", str(BIN / "ray"), "start", *own, *common]
        settings = {**self.environment_of(host), "RAY_LEFT": "[r]ay/|[r]ay::", **(environment or {})}
        home = host.disk / "home"
        home.mkdir(exist_ok=True)
        host.popen(command, env=settings, stdout=log, stderr=log)
        log.close()

    def _start_all(self) -> None:
        """The head first: what comes before it answers is started again and again, on few cores a load for all."""
        self._start_ray(self.head)
        self.wait([self.head])
        for host in self.nodes[1:]:
            self._start_ray(host)
        self.wait()

    # What the cluster says of itself

    def ask(self, path: str, timeout: float = 20.0, **parameters: Any) -> Any:
        """A list of Ray's state API. Raises requests.RequestException where the dashboard does not answer."""
        answer = self._ask.get(f"{self.dashboard}/api/v0/{path}", params=parameters, timeout=timeout)
        answer.raise_for_status()
        return answer.json()["data"]["result"]["result"]

    def alive(self) -> dict[str, str]:
        """Hosts that Ray has as alive, by node."""
        names = {host.address: host.name for host in self.nodes}
        nodes = [node for node in self.ask("nodes", limit=100) if node["state"] == "ALIVE"]
        return {node["node_id"]: names[node["node_ip"]] for node in nodes}

    def ran(self, name: str, since: float = 0.0) -> set[str]:
        """The hosts on which tasks whose name contains `name` ran; `since`: started after this time, of time.time()."""
        names = {host.address: host.name for host in self.nodes}
        where = {node["node_id"]: names[node["node_ip"]] for node in self.ask("nodes", limit=100)}
        tasks = self.ask("tasks", detail=1, limit=10000, exclude_driver=True)
        started = [task for task in tasks if (task.get("start_time_ms") or 0) >= since * 1000]
        return {where[task["node_id"]] for task in started if name in task["name"] and task.get("node_id") in where}

    def wait(self, hosts: Sequence[Host] = (), timeout: float = STARTS_S) -> None:
        """Wait until these hosts, by default all that are up, and no others are nodes of the cluster."""
        awaited = sorted(host.name for host in hosts or self.nodes if host.up)
        deadline = time.monotonic() + timeout
        found: Any = "no answer"
        while time.monotonic() < deadline:
            with suppress(requests.RequestException, TypeError, KeyError):
                found = self.alive()
                if sorted(found.values()) == awaited:
                    return
            time.sleep(1)
        logs = [self.shared / f"{host.name}.log" for host in self.nodes]
        told = "\n\n".join(log.read_text()[-700:] for log in logs if log.exists())
        raise AssertionError(f"{awaited} were awaited, there are {found}:\n{told}")

    # What is done to it

    def lose(self, host: Host) -> None:
        """A power cut at a host."""
        host.lose()

    def boot(self, host: Host, environment: dict[str, str] | None = None) -> None:
        """Start a lost host, and Ray on it."""
        host.boot()
        self._start_ray(host, environment)

    def restart_ray(self, host: Host, environment: dict[str, str] | None = None) -> None:
        """Kill all that runs in a host, Ray with it, and start Ray again: once the cluster, if it still answers, has
        taken note of the loss, so that the node that is awaited next is the new one."""
        with suppress(AssertionError):  # the shell that kills may be told of what it did
            host.run(["bash", "-c", "kill -9 -1"], timeout=20)
        if host is not self.head:
            self.wait([other for other in self.nodes if other is not host])
        self._start_ray(host, environment)

    def workers(self, host: Host, title: str = "RayTrainWorker") -> list[int]:
        """Process ids, as this machine counts them, of a host's workers with this title."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                words = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if title in words and os.readlink(process / "ns/pid") == os.readlink(f"/proc/{host.pid}/ns/pid"):
                    found.append(int(process.name))
        return found

    def heal(self) -> None:
        """Make everything whole: no fault, no driver, every host up and in the cluster."""
        self.proxy.inject()
        for driver in self._drivers:
            print(driver.text, end="\n\n")  # pytest shows it where the test failed
            driver.kill()
        self._drivers.clear()
        for host in (*self.nodes, self.store_host):
            host.plug() if host.up else None
        for host in self.nodes:
            if not host.up:
                self.boot(host)
        try:
            self.wait(timeout=90)
        except AssertionError:
            self.restart()

    def restart(self) -> None:
        """Boot every host of the cluster anew."""
        for host in self.nodes:
            if host.up:
                host.lose()
        for host in self.nodes:
            host.boot()
        self._start_all()

    def driver(
        self, words: Sequence[str], host: Host | None = None, environment: dict[str, str] | None = None
    ) -> "Driver":
        """Run `mskray words` as a driver in a host, the head if not given."""
        command = [sys.executable, "-m", "mskray.cli", *words]
        return self.command(command, host, {"RAY_ADDRESS": self.address, **(environment or {})})

    def command(
        self, command: Sequence[str], host: Host | None = None, environment: dict[str, str] | None = None
    ) -> "Driver":
        """Run any command in a host, the head if not given."""
        host = host or self.head
        made = Driver(host, command, {**self.environment_of(host), **(environment or {})})
        self._drivers.append(made)
        return made

    def job(self, words: Sequence[str], script: str) -> "Driver":
        """Run `ray job submit … python jobs/SCRIPT.py words`; it follows the job."""
        submit = [str(BIN / "ray"), "job", "submit", "--address", self.dashboard, "--working-dir", str(ROOT), "--"]
        return self.command([*submit, "python", f"jobs/{script}.py", *words])


@dataclass
class Driver:
    """A command that runs in a host; its output is collected line by line."""

    host: Host
    command: Sequence[str]
    environment: dict[str, str]
    lines: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.started = time.time()
        self._process = self.host.popen(
            self.command, cwd=ROOT, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(f"{time.time() - self.started:6.1f} {line.rstrip()}")

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def until(self, pattern: str, timeout: float, after: int = 0) -> str:
        """Wait for a line that matches, from line number `after` on, and return it."""
        return self._until(
            lambda: next((line for line in self.lines[after:] if re.search(pattern, line)), ""), timeout, pattern
        )

    def _until(self, found: Callable[[], str], timeout: float, what: str) -> str:
        deadline = time.monotonic() + timeout
        while not (line := found()):
            assert time.monotonic() < deadline, f"{what} was awaited for {timeout:.0f} s:\n{self.text[-2500:]}"
            if not self.running:
                self._reader.join(5)
                assert found(), f"ended with {self._process.returncode} before {what}:\n{self.text[-2500:]}"
            time.sleep(0.05)
        return line

    def ends(self, timeout: float) -> int:
        """Wait until it has ended and return its exit code."""
        try:
            code = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"not at an end after {timeout:.0f} s:\n{self.text[-2500:]}") from None
        self._reader.join(10)
        return code

    def done(self, timeout: float) -> "Driver":
        """Wait for its end, which must be a success."""
        code = self.ends(timeout)
        assert code == 0, f"exit code {code}:\n{self.text[-2500:]}"
        return self

    def signal(self, number: Signals) -> None:
        signal_inside(self._process, number)

    def kill(self) -> None:
        """End it at once, without a word to anyone."""
        self._process.kill()
        self._process.wait(20)
