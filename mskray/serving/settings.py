"""What a request may weigh, and who may ask: the rules that make the server safe by default.

    mskray serve ENSEMBLE --tokens tokens.json --host 0.0.0.0

Without tokens the server listens on this machine alone. With them, every /v1 route asks for one (`tokens`).
"""

import ipaddress
import os
import ssl
from dataclasses import dataclass

from mskray.config import Section, setting
from mskray.errors import UserError
from mskray.serving.tokens import TOKEN_VARIABLE, Access

_HAPROXY = "RAY_SERVE_ENABLE_HA_PROXY"


class Limits(Section):
    """What one request may ask for, and how many a replica of the ingress takes."""

    max_body: int = setting(64 << 20, "size of the whole request body", unit="bytes", ge=1 << 10, le=4 << 30)
    max_unpacked: int = setting(256 << 20, "size of the files of a zip together", unit="bytes", ge=1 << 10, le=16 << 30)
    max_views: int = setting(32, "views of a study", ge=1, le=256)
    max_pixels: int = setting(200_000_000, "pixels of a study's views together", unit="px", ge=1 << 10, le=4 << 30)
    max_seconds: float = setting(120.0, "time from a study's first byte to its answer", unit="s", ge=0.1, le=3600)
    max_open: int = setting(16, "studies read and decoded at a time: each is in memory", unit="studies", ge=1, le=1024)
    max_waiting: int = setting(64, "studies that wait their turn; more are refused", unit="studies", ge=0, le=4096)


class Offer(Section):
    """What a server answers."""

    ensemble: str = setting("", "URI of an ensemble or bundle for radiographs: studies")
    apart: int = setting(
        0, "deployments that the ensemble's members are spread over; 0 for all fused in one", ge=0, le=64
    )
    pairs: str = setting("", "URI of an ensemble or bundle for pairs")
    spines: str = setting("", "URI of a bundle that grades discs")
    vertebrae: str = setting("", "URI of a vertebra_detector, which `spines` needs")

    def check(self) -> None:
        """Raise UserError where it offers nothing, or a half."""
        if bool(self.spines) != bool(self.vertebrae):
            raise UserError("spines are read by two bundles: give --spines (a spinenet) and --vertebrae (a detector)")
        if not (self.ensemble or self.pairs or self.spines):
            raise UserError("nothing to serve: give an ensemble, --pairs, or --spines with --vertebrae")


@dataclass(frozen=True)
class Certificate:
    """What a server shows over TLS: paths of PEM files on its machine.

    Args:
        chain: the certificate and those that it stands on.
        key: its private key.
    """

    chain: str
    key: str

    def check(self) -> None:
        """Raise UserError where the files cannot be read or do not belong together."""
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.chain, self.key)
        except (OSError, ssl.SSLError) as error:
            why = error.strerror or getattr(error, "reason", None) or str(error)
            raise UserError(f"certificate {self.chain} with key {self.key}: {why}: give two PEM files") from None


def choose_proxy(host: str, certificate: Certificate | None) -> None:
    """Have a local Ray answer through HAProxy, which takes twice the requests; before Ray is imported.

    Its page of figures listens on all addresses of the machine, so it is used only where the server does too (and
    then every request needs a token); and it speaks no TLS.
    """
    os.environ.setdefault(_HAPROXY, "0" if is_loopback(host) or certificate else "1")


def is_loopback(host: str) -> bool:
    """Whether a server that listens on `host` can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def url_of(host: str, port: int, certificate: Certificate | None) -> str:
    """Return where a server is asked that listens there."""
    scheme = "https" if certificate else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def check_exposure(host: str, access: Access) -> None:
    """Raise UserError when others could reach the server without a token."""
    if access.open and not is_loopback(host):
        raise UserError(
            f"serving on {host} lets other machines ask: give --tokens FILE (`mskray tokens add` makes one) or set "
            f"{TOKEN_VARIABLE} to a secret first (`openssl rand -hex 32`), or keep to 127.0.0.1"
        )
