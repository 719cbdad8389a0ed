"""What the benchmarks of the server share: small real models, pictures, `mskray serve` as a process, a light client."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import psutil

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "serving")]

from block_spine import BlockSpine  # noqa: E402
from disc_layouts import metaimage  # noqa: E402
from serving_samples import encoded, fitted, multipart, radiograph  # noqa: E402
from small_spinenet import fitted as fitted_grader  # noqa: E402
from small_spinenet import recipe  # noqa: E402
from spine_run import vertebra_bundle  # noqa: E402

from mskray.bundles import save_bundle  # noqa: E402
from mskray.ensemble import join, save_ensemble  # noqa: E402
from mskray.families.vertebra_detector import VertebraDetectorConfig  # noqa: E402
from mskray.serving.tokens import TOKEN_VARIABLE  # noqa: E402
from mskray.storage import locate  # noqa: E402

TOKEN = "benchmarks-ask-with-this-token"
BACKBONES = ("mobilenet_v3_small", "resnet18", "mobilenet_v2")
INGRESS, MEMBERS, SPINES = "Ingress", "Members", "Spines"
_STARTS_S, _STOPS_S = 300.0, 90.0
_REPLICA, _PROXIES = "ray::ServeReplica:mskray:", ("ray::ProxyActor", "ray::HAProxy", "haproxy")


def make_ensemble(folder: Path, backbones: Sequence[str] = BACKBONES, size: int = 224) -> str:
    """Write bundles of random weights and their ensemble; return its path."""
    uris = []
    for seed, backbone in enumerate(backbones):
        uris.append(str(folder / backbone))
        save_bundle(fitted(seed, ("KNEE",), backbone, size, images=16), locate(uris[-1]), fingerprint=backbone)
    save_ensemble(join(uris, "small"), locate(folder / "ensemble"))
    return str(folder / "ensemble")


def make_spine_models(folder: Path) -> tuple[str, str]:
    """Write bundles of random weights that grade discs and find vertebrae; return their paths."""
    network = {"backbone": "mobilenet_v3_small", "weights": "none", "channels": 8}
    config = VertebraDetectorConfig.model_validate({"network": network, "data": {"image_size": 64}})
    save_bundle(fitted_grader(recipe()), locate(folder / "grader"), "f00")
    return str(folder / "grader"), vertebra_bundle(folder / "detector", config)


def spine_file(folder: Path) -> bytes:
    """Return a MetaImage file of a sagittal spine."""
    return metaimage(folder / "spine.mha", BlockSpine(("L3", "L4", "L5")).volume).read_bytes()


def picture(seed: int, rows: int = 512, columns: int = 448, dtype: type = np.uint8) -> np.ndarray:
    """Return (rows, columns) that compress as a radiograph does: broad shades under a detector's noise."""
    most = np.iinfo(dtype).max
    shades = cv2.resize(radiograph(seed, dtype=dtype), (columns, rows), interpolation=cv2.INTER_LINEAR)
    noise = np.random.default_rng(seed).normal(0, 3 * most / 255, shades.shape)
    return np.clip(shades + noise, 0, most).astype(dtype)


def png_request(pixels: np.ndarray) -> bytes:
    """Return a whole HTTP request that asks for a study of one PNG."""
    return http_request(*multipart([("views", ("view.png", encoded(pixels, "PNG")))]))


def http_request(body: bytes, kind: str, *headers: str) -> bytes:
    """Return a POST to /v1/studies as it goes over the wire."""
    lines = [
        "POST /v1/studies HTTP/1.1",
        "Host: localhost",
        f"Authorization: Bearer {TOKEN}",
        f"Content-Type: {kind}",
        f"Content-Length: {len(body)}",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


@dataclass
class Answer:
    """Status, header lines (name in lower case, value) and body."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


class Wire:
    """One connection that is kept: as little work for the machine that also serves as can be."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: bytes) -> Answer:
        """Send a prepared request. Raises OSError or IncompleteReadError where the connection breaks."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        try:
            writer.write(request)
            await writer.drain()
            first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").rstrip().split("\r\n")
            headers = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
            body = await reader.readexactly(int(dict(headers).get("content-length", 0)))
        except BaseException:
            self.close()
            raise
        if dict(headers).get("connection", "").lower() == "close":
            self.close()
        return Answer(int(first.split()[1]), headers, body)

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


@dataclass
class Server:
    """`mskray serve` in a process group of its own."""

    port: int
    process: "subprocess.Popen[bytes]"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def replicas(self, deployment: str) -> list[psutil.Process]:
        """Processes of a deployment's replicas: of this server alone, being its descendants."""
        return [each for each, title in self._titled() if title.startswith(f"{_REPLICA}{deployment}")]

    def proxies(self) -> list[psutil.Process]:
        return [each for each, title in self._titled() if title.startswith(_PROXIES) or "/haproxy " in title]

    def metric(self, name: str) -> float:
        """Sum of a metric's samples over labels, as /metrics tells it; some ten seconds old."""
        ask = urllib.request.Request(f"{self.url}/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
        with urllib.request.urlopen(ask, timeout=30) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.split("{")[0].split(" ")[0] == name)

    def _titled(self) -> list[tuple[psutil.Process, str]]:
        found = []
        for each in psutil.Process(self.process.pid).children(recursive=True):
            try:
                found.append((each, " ".join(each.cmdline())))
            except psutil.Error:  # ended meanwhile
                continue
        return found


@contextmanager
def serving(arguments: Sequence[str], log: Path, haproxy: bool = False) -> Iterator[Server]:
    """Run `mskray serve` with these arguments until the block ends; what it says goes to `log`."""
    environment = {"RAY_SERVE_ENABLE_HA_PROXY": str(int(haproxy)), TOKEN_VARIABLE: TOKEN}
    port = free_port()
    command = [sys.executable, "-m", "mskray.cli", "serve", *arguments, "--port", str(port)]
    with running(command, port, log, environment) as server:
        yield server


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def running(command: Sequence[str], port: int, log: Path, environment: Mapping[str, str]) -> Iterator[Server]:
    """Run a server that answers /readyz when it is ready, until the block ends; what it says goes to `log`."""
    environment = {**os.environ, **environment, "PYTHONPATH": str(ROOT)}
    with log.open("wb") as said:
        process = subprocess.Popen(
            command, stdout=said, stderr=subprocess.STDOUT, env=environment, cwd=log.parent, start_new_session=True
        )
        server = Server(port, process)
        try:
            _wait_until_ready(server, log)
            yield server
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_STOPS_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
            with suppress(ProcessLookupError):  # what it left behind
                os.killpg(process.pid, signal.SIGKILL)


def _wait_until_ready(server: Server, log: Path) -> None:
    deadline = time.monotonic() + _STARTS_S
    while True:
        if server.process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"the server did not start:\n{log.read_text(errors='replace')[-2000:]}")
        try:
            with urllib.request.urlopen(f"{server.url}/readyz", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
