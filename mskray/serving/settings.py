"""What a request may weigh, and who may ask: the rules that make the server safe by default.

    mskray serve ENSEMBLE --tokens tokens.json --host 0.0.0.0

Without tokens the server listens on this machine alone. With them, every /v1 route asks for one (`tokens`).
"""

import ipaddress

from mskray.config import Section, setting
from mskray.errors import UserError
from mskray.serving.tokens import TOKEN_VARIABLE, Access


class Limits(Section):
    """What one request may ask for, and how many a replica of the ingress takes."""

    max_body: int = setting(64 << 20, "size of the whole request body", unit="bytes", ge=1 << 10, le=4 << 30)
    max_unpacked: int = setting(256 << 20, "size of the files of a zip together", unit="bytes", ge=1 << 10, le=16 << 30)
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


def check_exposure(host: str, access: Access) -> None:
    """Raise UserError when others could reach the server without a token."""
    if access.open and not is_loopback(host):
        raise UserError(
            f"serving on {host} lets other machines ask: give --tokens FILE (`mskray tokens add` makes one) or set "
            f"{TOKEN_VARIABLE} to a secret first (`openssl rand -hex 32`), or keep to 127.0.0.1"
        )
