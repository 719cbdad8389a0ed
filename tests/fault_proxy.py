"""A proxy in front of an object store that makes the network fail on purpose (for `tests/storage/test_s3_faults.py`).

S3 signatures cover the Host header. Clients therefore take the proxy for the endpoint and sign its address; the
proxy forwards Host unchanged and the store verifies it as received.

    with FaultProxy(store.port) as proxy:
        proxy.inject(Fault("status", methods="PUT", first=2))       # the first two PUTs are answered 503 SlowDown
        ...                                                         # AWS_ENDPOINT_URL=proxy.endpoint
        assert proxy.hits("status") == 2
"""

import http.client
import random
import re
import socket
import ssl
import struct
import threading
import time
from contextlib import closing, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any

KINDS = {
    "latency": "wait `seconds`, then serve the request",
    "status": "answer `status` without asking the store",
    "cut_before_answer": "close before asking the store",
    "cut_get_body": "close after half of the answer's body",
    "stall_get_body": "send half of the answer's body, then nothing for `seconds`, then close",
    "cut_put_body": "pass half of the request's body to the store, then close both ends",
    "cut_after_put": "let the store finish, then close without passing its answer on",
}
GATEWAY_PAGE = "<html><head><title>error</title></head><body>the server is busy</body></html>"
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}


@dataclass
class Fault:
    """One way to fail (`KINDS`) for requests whose method and path?query match the two regular expressions.

    It strikes the `first` matching requests (None: all), each with `probability`.
    """

    kind: str
    methods: str = ".*"
    path: str = ""
    first: int | None = None
    probability: float = 1.0
    seconds: float = 0.0
    status: int = 503
    code: str = "SlowDown"  # S3's error code; empty: a load balancer answers, which knows nothing of S3
    reset: bool = False  # cut with a TCP reset instead of an orderly close, which looks like the end of the data

    def __post_init__(self) -> None:
        assert self.kind in KINDS, f"unknown fault {self.kind}: one of {', '.join(KINDS)}"


class FaultProxy:
    """Threaded HTTP proxy on a free port; `log` holds (method, path, kind of fault or "") by arrival.

    `certificate` (PEM with certificate and key) makes clients speak TLS to it. It listens at `host`, where the store
    is too; it takes the network of the thread that makes it (`Host.network` in tests/cluster).
    """

    def __init__(
        self, upstream_port: int, seed: int = 0, certificate: Path | None = None, host: str = "127.0.0.1"
    ) -> None:
        self.log: list[tuple[str, str, str]] = []
        self._upstream = (host, upstream_port)
        self._faults: list[Fault] = []
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._server = _Server((host, 0), type("Handler", (_Handler,), {"proxy": self}))
        if certificate is not None:
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            tls.load_cert_chain(certificate)
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        scheme = "http" if certificate is None else "https"
        self.endpoint = f"{scheme}://{host}:{self._server.server_address[1]}"

    def __enter__(self) -> "FaultProxy":
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()

    def inject(self, *faults: Fault) -> None:
        """Replace the present faults and start a new log."""
        with self._lock:
            self._faults = list(faults)
            self.log = []

    def hits(self, kind: str) -> int:
        """How many requests this kind of fault has struck since `inject`."""
        return sum(entry[2] == kind for entry in self.log)

    def choose(self, method: str, path: str) -> Fault | None:
        with self._lock:
            chosen = next((fault for fault in self._faults if self._strikes(fault, method, path)), None)
            if chosen is not None and chosen.first is not None:
                chosen.first -= 1
            self.log.append((method, path, chosen.kind if chosen else ""))
        return chosen

    def _strikes(self, fault: Fault, method: str, path: str) -> bool:
        if fault.first == 0 or not re.fullmatch(fault.methods, method) or not re.search(fault.path, path):
            return False
        return self._random.random() < fault.probability

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(*self._upstream, timeout=60)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are what this proxy is for; they are no news."""


class _Handler(BaseHTTPRequestHandler):
    proxy: FaultProxy
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """The log is `FaultProxy.log`."""

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except OSError:
            self.close_connection = True

    def serve(self) -> None:
        fault = self.proxy.choose(self.command, self.path)
        kind = fault.kind if fault else ""
        body = self._read_body()
        if fault and kind == "status":
            self._refuse(fault)
        elif fault and kind == "cut_before_answer":
            self._cut(fault)
        elif fault and kind == "cut_put_body":
            with closing(self.proxy.connect()) as upstream:
                self._forward(upstream, body[: len(body) // 2])
            self._cut(fault)
        else:
            if fault and kind == "latency":
                time.sleep(fault.seconds)
            with closing(self.proxy.connect()) as upstream:
                self._forward(upstream, body)
                answer = upstream.getresponse()
                content = answer.read()
            if fault and kind == "cut_after_put":
                self._cut(fault)
            else:
                self._answer(answer, content, fault if kind in ("cut_get_body", "stall_get_body") else None)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = serve

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        frames = []  # passed on as they came, since the signature may cover the framing
        while True:
            size = self.rfile.readline()
            frames.append(size + self.rfile.read(int(size.split(b";")[0], 16) + 2))
            if int(size.split(b";")[0], 16) == 0:
                return b"".join(frames)

    def _forward(self, upstream: http.client.HTTPConnection, body: bytes) -> None:
        upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in ("connection", "expect"):
                upstream.putheader(name, value)
        upstream.endheaders()
        upstream.send(body)

    def _answer(self, answer: http.client.HTTPResponse, content: bytes, fault: Fault | None) -> None:
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.getheaders():
            if name.lower() not in HOP_BY_HOP:
                self.send_header(name, value)
        length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
        if length is not None:
            self.send_header("Content-Length", length)
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if fault else content)
        if fault:
            self.wfile.flush()
            time.sleep(fault.seconds)
            self._cut(fault)

    def _refuse(self, fault: Fault) -> None:
        page = f"<Error><Code>{fault.code}</Code><Message>injected</Message></Error>" if fault.code else GATEWAY_PAGE
        text = page.encode()
        self.send_response_only(fault.status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else text)

    def _cut(self, fault: Fault) -> None:
        self.close_connection = True
        with suppress(OSError):
            if fault.reset:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            else:
                self.connection.shutdown(socket.SHUT_RDWR)
            self.connection.close()
