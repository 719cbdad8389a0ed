"""What is asked of a cluster before `ray.init` joins it: each way in which it would hang is one line at once.

    RAY_ADDRESS=10.0.0.1:6379 mskray train …

In this order: is the address one that a driver can join; does anything listen; is TLS the same on both sides; does it
ask for a token, and is ours the one; are Ray and Python the same; is this machine one of its nodes.
"""

import json
import os
import platform
import socket
import ssl
import time
from pathlib import Path
from typing import Any

import ray
from ray._private import services
from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
from ray.exceptions import AuthenticationError

from mskray.cluster import doors, wire
from mskray.errors import UserError

_NODE_WAIT_S = 5.0
_raylet: Any = ray._raylet  # compiled, and its stubs lack names
_SUBMIT = "submit to it from here: `mskray submit --address http://HEAD:8265 VERB …`"


def ask(address: str) -> None:
    """Raise UserError where a driver on this machine cannot or should not join the cluster at `address`."""
    check_kind(address)
    host, port = _host_and_port(address)
    _check_there(address, host, port)
    _check_tls(address, host, port)
    headers = _check_token(address, host, port)
    head = wire.Head(_target(host, port), headers)
    try:
        _check_versions(address, head.metadata())
        _check_is_node(address, head)
    except wire.NoAnswer as error:  # it answered a moment ago
        raise UserError(f"the head of the cluster at {address} is too busy or ends ({error}): try again") from None


def check_kind(address: str) -> None:
    """Refuse addresses of the dashboard and of Ray Client, which a driver cannot join. Raises UserError."""
    if address.startswith(("http://", "https://")):
        raise UserError(
            f"RAY_ADDRESS={address} is the address for `ray job submit` and `mskray submit`: submit with it, or set "
            "RAY_ADDRESS to the cluster's own address, HOST:6379"
        )
    if address.startswith("ray://"):
        raise UserError(
            f"RAY_ADDRESS={address} is an address of Ray Client, which mskray does not use: set RAY_ADDRESS=HOST:6379 "
            f"on a node of the cluster, or {_SUBMIT}"
        )


def _host_and_port(address: str) -> tuple[str, int]:
    if address == "auto":
        try:
            address = services.canonicalize_bootstrap_address_or_die(address)
        except (ConnectionError, ValueError) as error:
            raise UserError(f"RAY_ADDRESS=auto: {error}") from None
    host, colon, port = address.rpartition(":")
    if not (host and colon and port.isdecimal() and 0 < int(port) < 65536) or "://" in address:
        raise UserError(f"no Ray cluster answers at {address}: give its address as HOST:PORT, such as 10.0.0.1:6379")
    return host.strip("[]"), int(port)


def _target(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _check_there(address: str, host: str, port: int) -> None:
    try:
        wire.connect(host, port)
    except socket.gaierror:
        raise UserError(f"no Ray cluster answers at {address}: no machine is called {host}") from None
    except TimeoutError:
        why = f"no answer within {wire.WAIT_S:.0f} s; is the machine on, and does a firewall let port {port} through?"
        raise UserError(f"no Ray cluster answers at {address}: {why}") from None
    except ConnectionRefusedError:
        why = f"nothing listens on port {port} there; start the head with `ray start --head`"
        raise UserError(f"no Ray cluster answers at {address}: {why}") from None
    except OSError as error:
        raise UserError(f"no Ray cluster answers at {address}: {error.strerror or error}") from None


def _check_tls(address: str, host: str, port: int) -> None:
    if not wire.tls_wanted():
        if wire.speaks_tls(host, port):
            files = ", ".join(wire.TLS_FILES)
            raise UserError(f"the cluster at {address} speaks TLS: set RAY_USE_TLS=1 and, to its files, {files}")
        return
    missing = [name for name in wire.TLS_FILES if not Path(os.environ.get(name) or "/dev/null/none").is_file()]
    if missing:
        raise UserError(
            f"RAY_USE_TLS is set, and {', '.join(missing)} names no file: set all of RAY_TLS_…, or unset it"
        )
    if not wire.speaks_tls(host, port):
        raise UserError(
            f"RAY_USE_TLS is set, and the cluster at {address} speaks no TLS: unset it, or set it there too"
        )
    try:
        wire.check_certificate(host, port)
    except ssl.SSLCertVerificationError as error:
        why = f"{error.verify_message}: RAY_TLS_CA_CERT must be its authority's certificate"
        raise UserError(f"the certificate of the cluster at {address} is not accepted: {why}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise UserError(f"no TLS connection to the cluster at {address}: {reason}; check RAY_TLS_…") from None


def _check_token(address: str, host: str, port: int) -> dict[str, str]:
    """The headers with which the cluster answers."""
    if _answers(address, wire.Head(_target(host, port), {})):
        if doors.reachable_by_others(host, port):
            doors.refuse_open(address)
        return {}
    headers = token_headers()
    if not headers:
        raise UserError(
            f"the cluster at {address} asks for a token, and there is none here: set RAY_AUTH_MODE=token and "
            "RAY_AUTH_TOKEN_PATH (or RAY_AUTH_TOKEN) to the cluster's own"
        )
    if not _answers(address, wire.Head(_target(host, port), headers)):
        raise UserError(
            f"the cluster at {address} does not accept the token of {token_source()}: it is another cluster's"
        )
    return headers


def _answers(address: str, head: wire.Head) -> bool:
    """Whether the head answers these headers; False where it asks for another token."""
    try:
        head.metadata()
    except wire.Unauthenticated:
        return False
    except wire.NoAnswer as error:
        raise UserError(
            f"what listens at {address} does not answer as the head of a Ray cluster ({error}): RAY_ADDRESS is "
            "HOST:6379, unless the head was started with another --port"
        ) from None
    return True


def token_headers() -> dict[str, str]:
    """The header with the token that Ray would send; empty where it would send none."""
    try:
        if not maybe_enable_token_auth_if_token_available(warn_if_disabled=False):
            return {}
        return dict(_raylet.AuthenticationTokenLoader.instance().get_token_for_http_header())
    except (AuthenticationError, RuntimeError) as error:
        raise UserError(f"the token of {token_source()} cannot be read: {str(error).partition(chr(10))[0]}") from None


def token_source() -> str:
    """Where Ray takes the token from, without the token."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return "RAY_AUTH_TOKEN"
    return os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token"


def _check_versions(address: str, metadata: bytes) -> None:
    """As Ray compares them: all of Ray's version, and of Python's as much as RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL."""
    if not metadata:
        return
    told = json.loads(metadata)
    theirs, python = str(told.get("ray_version")), str(told.get("python_version"))
    parts = 2 if os.environ.get("RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL") == "minor" else 3
    same = python.split(".")[:parts] == platform.python_version().split(".")[:parts]
    if (theirs, same) != (ray.__version__, True):
        raise UserError(
            f"the cluster at {address} runs Ray {theirs} with Python {python}, here are Ray {ray.__version__} and "
            f"Python {platform.python_version()}: install the same on both sides, or {_SUBMIT}"
        )


def _check_is_node(address: str, head: wire.Head) -> None:
    """A driver talks to the raylet of its own machine; Ray would look for one for a minute."""
    until = time.monotonic() + _NODE_WAIT_S
    while not head.node_ids() & set(services.find_node_ids()):
        if time.monotonic() > until:
            raise UserError(
                f"this machine is no node of the cluster at {address}, and a driver runs on one: start the command on "
                f"a node, or {_SUBMIT}"
            )
        time.sleep(0.5)
