"""One question over the wire, answered within seconds: what Ray itself would wait half a minute or more for.

`ray.init` retries a connection for as long as a cluster might take to start. These ask once, with a deadline, as the
driver would: over TCP, then TLS where it is set, then gRPC, with a token or without.
"""

import os
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc

WAIT_S = 5.0
TLS_FILES = ("RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY", "RAY_TLS_CA_CERT")
_messages: Any = gcs_service_pb2  # made by protoc, without types
_PLAIN = {"WRONG_VERSION_NUMBER", "UNEXPECTED_EOF_WHILE_READING", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE"}
"""What OpenSSL says of an answer that is no TLS."""


class Unauthenticated(Exception):
    """The token is missing or wrong."""


class NoAnswer(Exception):
    """Whatever is there does not answer as Ray does; the message says how it failed."""


def tls_wanted() -> bool:
    """Whether this process's Ray speaks TLS."""
    return os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true")


def connect(host: str, port: int) -> None:
    """Open and close a connection. Raises OSError (of which `socket.gaierror` is one) where that does not work."""
    socket.create_connection((host, port), timeout=WAIT_S).close()


def speaks_tls(host: str, port: int) -> bool:
    """Whether what listens there answers a greeting of TLS, whatever its certificate."""
    try:
        _greet(host, port, _trusting())
    except ssl.SSLError as error:
        return error.reason not in _PLAIN and not isinstance(error, ssl.SSLEOFError)
    except OSError:  # closed, or silent
        return False
    return True


def check_certificate(host: str, port: int) -> None:
    """Raises ssl.SSLError, OSError: the certificate there is not one of RAY_TLS_CA_CERT's authority for `host`."""
    context = ssl.create_default_context(cafile=os.environ["RAY_TLS_CA_CERT"])
    context.load_cert_chain(os.environ["RAY_TLS_SERVER_CERT"], os.environ["RAY_TLS_SERVER_KEY"])
    _greet(host, port, context)


@dataclass(frozen=True)
class Head:
    """A cluster's head, to be asked before it is joined.

    Args:
        target: HOST:PORT.
        headers: of each request, such as the token's.
    """

    target: str
    headers: Mapping[str, str]

    def metadata(self) -> bytes:
        """The cluster's description of itself, JSON with `ray_version` and `python_version`; empty while it starts."""
        request = _messages.InternalKVGetRequest(namespace=b"cluster", key=b"CLUSTER_METADATA")
        return bytes(self._call(gcs_service_pb2_grpc.InternalKVGcsServiceStub, "InternalKVGet", request).value)

    def node_ids(self) -> set[str]:
        """Nodes that are alive, each 56 hex digits."""
        reply = self._call(
            gcs_service_pb2_grpc.NodeInfoGcsServiceStub, "GetAllNodeInfo", _messages.GetAllNodeInfoRequest()
        )
        return {node.node_id.hex() for node in reply.node_info_list if node.state == 0}

    def _call(self, stub: Any, name: str, request: Any) -> Any:
        """Raises Unauthenticated, NoAnswer."""
        with channel(self.target) as way:
            try:
                headers = tuple((key.lower(), value) for key, value in self.headers.items())
                return getattr(stub(way), name)(request, timeout=WAIT_S, metadata=headers)
            except grpc.RpcError as error:
                code, told = error.code(), error.details()
        if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
            raise Unauthenticated(told)
        raise NoAnswer(f"{code.name.lower().replace('_', ' ')}: {told}")


def channel(target: str) -> grpc.Channel:
    """A gRPC channel as Ray would open it, past proxies of the web. The caller closes it."""
    # A thousand nodes, and as many that are gone, are more than gRPC's usual 4 MiB.
    options = (("grpc.enable_http_proxy", 0), ("grpc.max_receive_message_length", -1))
    if not tls_wanted():
        return grpc.insecure_channel(target, options=options)
    certificate, key, authority = (Path(os.environ[name]).read_bytes() for name in TLS_FILES)
    return grpc.secure_channel(target, grpc.ssl_channel_credentials(authority, key, certificate), options=options)


def _trusting() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _greet(host: str, port: int, context: ssl.SSLContext) -> None:
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection((host, port), timeout=WAIT_S) as plain,
        context.wrap_socket(plain, server_hostname=host),
    ):
        pass
