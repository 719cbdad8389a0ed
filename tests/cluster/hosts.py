"""Several hosts on one machine, for tests of what only a network between machines can show or break.

A host is a process in namespaces of its own: network (an address, a cable to a switch), mounts (its own /tmp, /dev/shm
and /etc/hosts), processes, name, IPC. The switch is a bridge in yet another network namespace, with a cable to this
machine, so that a test reaches the hosts too. All of it lives as long as two processes do, and these end with the test,
however it ends: nothing is left behind, and no other setting of the machine is touched.

    with Switch(folder) as switch:                # switch.small is a disk of 128 MB that all hosts share
        one, two = switch.host("one"), switch.host("two")
        one.run(["curl", f"http://{two.address}"], timeout=10)
        two.cut()         # the cable is out: packets vanish, nobody is told
        two.plug()
        two.lose()        # the host is gone with all its processes; its disk stays
        two.boot()

It needs root, iproute2 (ip) and util-linux (unshare, nsenter, setpriv, taskset); `why_not` says what is missing.
"""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG, _CLONE_NEWNET = 1, 0x40000000
SMALL_MB = 128
_PROGRAMS = ("ip", "unshare", "nsenter", "setpriv", "taskset", "mount", "hostname")

# The first process of a host. Bash, as it reaps orphans; it ends with what started it (unshare --kill-child).
_INIT = """
set -e
mount --make-rprivate /
mount --bind "$DISK/hosts" /etc/hosts
hostname "$NAME"
for place in $KEPT; do
    inside="$DISK/tmp${place#/tmp}"
    mkdir -p "$inside"
    mount --bind "$place" "$inside"
done
mount --rbind "$DISK/tmp" /tmp
mount -t tmpfs -o "size=$SHARED_MEMORY" tmpfs /dev/shm
ip link set lo up
echo ready
while :; do sleep infinity & wait; done
"""


def why_not() -> str:
    """Why no host can be made here, in one line; empty where it can."""
    if os.geteuid() != 0:
        return "hosts as namespaces need root"
    if missing := [name for name in _PROGRAMS if shutil.which(name) is None]:
        return f"hosts as namespaces need {', '.join(missing)}"
    # Made and thrown away: containers are often allowed neither.
    script = "ip link add name a type bridge && ip link add name b type veth peer name c && mount -t tmpfs none /mnt"
    command = ["unshare", "--net", "--mount", "--pid", "--uts", "--ipc", "--fork", "sh", "-c", script]
    tried = subprocess.run(command, capture_output=True, text=True, timeout=30)
    return f"namespaces are not allowed here: {tried.stderr.strip()[:200]}" if tried.returncode else ""


class Switch:
    """The network between the hosts; `address` is this machine's on it.

    Args:
        folder: for the hosts' disks.
        kept: folders under /tmp that each host sees as this machine does, beside those of Python; all that is outside
            /tmp it sees anyway.
    """

    def __init__(self, folder: Path, kept: Sequence[Path] = ()) -> None:
        self.folder, self.small = folder, folder / "small"
        self.kept = [str(path.resolve()) for path in (folder, self.small, Path(sys.prefix), *kept)]
        self.name = f"msk{os.getpid()}"
        self.net = f"10.{200 + os.getpid() // 250 % 50}.{os.getpid() % 250 + 1}"
        self.address = f"{self.net}.254"
        self.hosts: list[Host] = []

    def __enter__(self) -> "Switch":
        self.small.mkdir(parents=True)
        script = f'mount --make-rprivate / && mount -t tmpfs -o size={SMALL_MB}m none "$SMALL" && echo ready'
        command = ["unshare", "--net", "--mount", "--", "sh", "-c", f"{script} && exec sleep infinity"]
        self._process = _start(command, {"SMALL": str(self.small)})
        pid = self._process.pid
        self.inside(["ip", "link", "add", "name", "bridge", "type", "bridge"])
        self.inside(["ip", "link", "set", "bridge", "up"])
        _ip("link", "add", self.name, "type", "veth", "peer", "name", "machine", "netns", str(pid))
        self.inside(["ip", "link", "set", "machine", "master", "bridge", "up"])
        _ip("addr", "add", f"{self.address}/24", "dev", self.name)
        _ip("link", "set", self.name, "up")
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, trace: TracebackType | None) -> None:
        for host in self.hosts:
            host.lose()
        _ip("link", "del", self.name)  # the kernel takes a namespace apart in its own time
        _end(self._process)

    def host(self, name: str, shared_memory: str = "512m") -> "Host":
        """Boot a host that knows the earlier ones by name, and they it.

        Args:
            shared_memory: size of its /dev/shm, which bounds Ray's object store.
        """
        host = Host(self, name, len(self.hosts) + 1, shared_memory)
        self.hosts.append(host)
        names = "".join(f"{each.address} {each.name}\n" for each in self.hosts)
        for each in self.hosts:
            each.names.parent.mkdir(parents=True, exist_ok=True)
            each.names.write_text(f"127.0.0.1 localhost\n{names}{self.address} machine\n")
        host.boot()
        return host

    @property
    def small_here(self) -> Path:
        """Where this machine finds what the hosts see at `small`."""
        return Path(f"/proc/{self._process.pid}/root{self.small}")

    def inside(self, command: Sequence[str]) -> None:
        """Run a command on the switch."""
        _check(["nsenter", f"--net=/proc/{self._process.pid}/ns/net", "--", *command])

    def born(self, command: Sequence[str]) -> list[str]:
        """The command that runs another where the small file system is mounted."""
        return ["nsenter", f"--mount=/proc/{self._process.pid}/ns/mnt", "--", *command]


class Host:
    """One host; see the module. `disk` is what it sees as /tmp, also after it was lost."""

    def __init__(self, switch: Switch, name: str, number: int, shared_memory: str) -> None:
        self.switch, self.name, self.number = switch, name, number
        self.address = f"{switch.net}.{number}"
        self.core = sorted(os.sched_getaffinity(0))[(number - 1) % len(os.sched_getaffinity(0))]
        self._shared_memory = shared_memory
        self._folder = switch.folder / name
        self.disk, self.names = self._folder / "tmp", self._folder / "hosts"
        self._unshare: subprocess.Popen[str] | None = None
        self.pid = 0

    @property
    def up(self) -> bool:
        return self._unshare is not None and self._unshare.poll() is None

    def boot(self) -> None:
        """Start it, with its cable in."""
        assert not self.up, f"{self.name} runs already"
        self.disk.mkdir(parents=True, exist_ok=True)
        kinds = ["--net", "--mount", "--pid", "--uts", "--ipc"]
        under_tmp = [place for place in self.switch.kept if place.startswith("/tmp/")]
        settings = {
            "DISK": str(self._folder),
            "NAME": self.name,
            "KEPT": " ".join(under_tmp),
            "SHARED_MEMORY": self._shared_memory,
        }
        command = ["unshare", *kinds, "--fork", "--kill-child", "--mount-proc", "bash", "-c", _INIT]
        self._unshare = _start(self.switch.born(command), settings)
        self.pid = _children(self._unshare.pid)[0]
        # The same hardware address after each boot, as a machine has.
        end = ["name", "eth0", "address", f"02:6d:73:6b:00:{self.number:02x}", "netns", str(self.pid)]
        self.switch.inside(["ip", "link", "add", self._cable, "type", "veth", "peer", *end])
        self.switch.inside(["ip", "link", "set", self._cable, "master", "bridge", "up"])
        self.run(["ip", "addr", "add", f"{self.address}/24", "dev", "eth0"], timeout=20)
        self.run(["ip", "link", "set", "eth0", "up"], timeout=20)

    def lose(self) -> None:
        """Kill all its processes and take its network away, as a power cut does."""
        if self._unshare is not None:
            _end(self._unshare)
            self._unshare = None
            # The other end goes with the host's namespace, which the kernel may keep for a while.
            with suppress(subprocess.CalledProcessError):
                self.switch.inside(["ip", "link", "del", self._cable])

    def cut(self) -> None:
        """Pull its cable: what is sent either way is lost in silence."""
        self.switch.inside(["ip", "link", "set", self._cable, "down"])

    def plug(self) -> None:
        """Put its cable back."""
        self.switch.inside(["ip", "link", "set", self._cable, "up"])

    def command(self, words: Sequence[str]) -> list[str]:
        """The command that runs `words` in this host; it is killed with the process that this one becomes."""
        enter = ["nsenter", "--target", str(self.pid), "--net", "--mount", "--pid", "--uts", "--ipc", f"--wd={os.sep}"]
        return ["taskset", "--cpu-list", str(self.core), *enter, "--", "setpriv", "--pdeathsig", "KILL", "--", *words]

    def popen(self, words: Sequence[str], cwd: Path | None = None, **options: Any) -> "subprocess.Popen[str]":
        """Start a command in this host; `signal_inside` sends it a signal, `kill` ends it."""
        assert self.up, f"{self.name} is not running"
        inside = ["env", f"--chdir={cwd}", *words] if cwd else words
        options = {"stdin": subprocess.DEVNULL, "start_new_session": True, "text": True, **options}
        return subprocess.Popen(self.command(inside), preexec_fn=_die_with_parent, **options)

    def run(
        self, words: Sequence[str], timeout: float, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command in this host to its end. Raises where it fails or takes longer than `timeout` seconds."""
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = self.popen(words, cwd, **streams, **({"env": dict(env)} if env is not None else {}))
        try:
            out, error = process.communicate(timeout=timeout)
        finally:
            if process.poll() is None:
                process.kill()
        assert process.returncode == 0, (
            f"{self.name}: {' '.join(words)}: {process.returncode}\n{out[-3000:]}{error[-3000:]}"
        )
        return subprocess.CompletedProcess(words, 0, out, error)

    @contextmanager
    def network(self) -> Iterator[None]:
        """Have what this thread opens, and what it starts, be on this host's network until the block ends."""
        with ExitStack() as files:
            here = files.enter_context(open(f"/proc/self/task/{threading.get_native_id()}/ns/net"))
            there = files.enter_context(open(f"/proc/{self.pid}/ns/net"))
            _enter(there.fileno())
            try:
                yield
            finally:
                _enter(here.fileno())

    @property
    def _cable(self) -> str:
        return f"cable{self.number}"


def signal_inside(process: "subprocess.Popen[str]", number: signal.Signals) -> None:
    """Send a signal to the command that a host runs for `process`, which itself only waits for it."""
    for pid in _children(process.pid):
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _start(command: list[str], settings: Mapping[str, str]) -> "subprocess.Popen[str]":
    """Start a process that says "ready" and ends with this one."""
    with tempfile.TemporaryFile("w+") as told:
        process = subprocess.Popen(
            command,
            env={"PATH": os.environ.get("PATH", os.defpath), **settings},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=told,
            text=True,
            start_new_session=True,
            preexec_fn=_die_with_parent,
        )
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            process.kill()
            process.wait()
            told.seek(0)
            raise RuntimeError(f"no namespace for a host: {told.read().strip()[-500:]}")
    return process


def _end(process: "subprocess.Popen[str]") -> None:
    """Kill a process and what unshare started for it, and wait until both are gone."""
    inside = _children(process.pid)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in inside) and time.monotonic() < deadline:
        time.sleep(0.05)


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _die_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _enter(namespace: int) -> None:
    if _LIBC.setns(namespace, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def _ip(*words: str) -> None:
    _check(["ip", *words])


def _check(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, list(command), done.stdout, done.stderr)
