"""What a request may weigh, and who may ask: the rules that make the server safe by default.

    MSKRAY_SERVE_TOKEN=<16 characters or more> mskray serve ENSEMBLE --host 0.0.0.0

Without a token the server listens on this machine alone. With one, every /v1 route asks for it.
"""

import hashlib
import hmac
import ipaddress
import os

from mskray.config import Section, setting
from mskray.errors import UserError

TOKEN_VARIABLE = "MSKRAY_SERVE_TOKEN"
_SHORTEST_TOKEN = 16


class Limits(Section):
    """What one request may ask for, and how many a replica of the ingress takes."""

    max_body: int = setting(64 << 20, "size of the whole request body", unit="bytes", ge=1 << 10, le=4 << 30)
    max_views: int = setting(32, "views of a study", ge=1, le=256)
    max_pixels: int = setting(200_000_000, "pixels of a study's views together", unit="px", ge=1 << 10, le=4 << 30)
    max_seconds: float = setting(120.0, "time from a study's first byte to its answer", unit="s", ge=0.1, le=3600)
    max_open: int = setting(16, "studies read and decoded at a time: each is in memory", unit="studies", ge=1, le=1024)
    max_waiting: int = setting(64, "studies that wait their turn; more are refused", unit="studies", ge=0, le=4096)


def is_loopback(host: str) -> bool:
    """Whether a server that listens on `host` can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def token_digest() -> str | None:
    """Return the SHA-256 of the token in MSKRAY_SERVE_TOKEN, None where there is none.

    Replicas get the digest, never the token: what Ray keeps of an application opens no door.

    Raises:
        UserError: a token that could be guessed.
    """
    token = os.environ.get(TOKEN_VARIABLE, "")
    if not token:
        return None
    if len(token) < _SHORTEST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise UserError(
            f"{TOKEN_VARIABLE} must have {_SHORTEST_TOKEN} or more ASCII characters and no space: "
            "make one with `openssl rand -hex 32`"
        )
    return _digest(token)


def check_exposure(host: str, digest: str | None) -> None:
    """Raise UserError when others could reach the server without a token."""
    if digest is None and not is_loopback(host):
        raise UserError(
            f"serving on {host} lets other machines ask: set {TOKEN_VARIABLE} to a secret first "
            "(`openssl rand -hex 32`), or keep to 127.0.0.1"
        )


def is_allowed(token: str | None, digest: str | None) -> bool:
    """Whether a client's token opens the door, in the same time however wrong it is."""
    return digest is None or (token is not None and hmac.compare_digest(_digest(token), digest))


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
