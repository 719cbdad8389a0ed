"""Who else could run code on a cluster: whoever reaches one of its ports, where no token is asked for.

Ray runs what it is sent; that is what it is for. Its head listens on every interface of its machine. So a cluster that
answers without a token is refused where others can reach it, unless the one who runs it says that its network keeps
them out:

    MSKRAY_OPEN_CLUSTER=allowed
"""

import ipaddress
import os
import socket
import sys
from urllib.parse import urlsplit

import requests

from mskray.cluster.wire import WAIT_S, connect
from mskray.errors import UserError

ALLOWED = "MSKRAY_OPEN_CLUSTER"
_MEND = (
    "start it with RAY_AUTH_MODE=token and the token of `ray get-auth-token --generate` on every node, "
    f"or set {ALLOWED}=allowed where its network keeps strangers out"
)


def refuse_open(place: str) -> None:
    """Refuse a place that others can reach and that asks for no token; only warn where that is allowed.

    Raises:
        UserError: it is not allowed.
    """
    what = f"anyone who reaches {place} can run code there: it asks for no token"
    if os.environ.get(ALLOWED) != "allowed":
        raise UserError(f"{what}; {_MEND}")
    print(f"warning: {what} ({ALLOWED}=allowed)", file=sys.stderr)


def check_own() -> None:
    """Refuse to start a session here that asks for no token and that other machines can reach. Raises UserError."""
    mode = os.environ.get("RAY_AUTH_MODE", "token")  # without it Ray makes a token; whatever else it holds means none
    if mode.lower() != "token" and (own := own_address()):
        what = f"RAY_AUTH_MODE={mode}, and Ray listens on every interface: anyone who reaches {own} could run code here"
        if os.environ.get(ALLOWED) != "allowed":
            raise UserError(f"{what}; unset it, or set {ALLOWED}=allowed where the network keeps strangers out")
        print(f"warning: {what} ({ALLOWED}=allowed)", file=sys.stderr)


def check_dashboard_door(url: str) -> None:
    """Refuse a cluster whose dashboard others can reach and that asks for no token: it runs jobs.

    Raises:
        UserError: it does, and that is not allowed.
    """
    if is_open_dashboard(url if "://" in url else f"http://{url}"):
        refuse_open(url)


def is_open_dashboard(url: str) -> bool:
    """Whether a dashboard beyond the loopback interface answers without a token; one that does not answer is none."""
    if is_loopback(urlsplit(url).hostname or ""):
        return False
    try:
        return requests.get(f"{url.rstrip('/')}/api/version", timeout=WAIT_S, allow_redirects=False).status_code == 200
    except requests.RequestException:
        return False


def reachable_by_others(host: str, port: int) -> bool:
    """Whether what listens there can be reached from other machines, as far as this one can tell."""
    if not is_loopback(host):
        return True
    own = own_address()
    if own is None:
        return False
    try:
        connect(own, port)
    except OSError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether a name or address is this machine's own alone; False where it cannot be told."""
    try:
        return all(ipaddress.ip_address(str(each[4][0])).is_loopback for each in socket.getaddrinfo(host, None))
    except (OSError, ValueError):
        return False


def own_address() -> str | None:
    """This machine's address in its network; None where it is in none. Nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as way:
        try:
            way.connect(("192.0.2.1", 9))  # RFC 5737: nobody's
            found = str(way.getsockname()[0])
        except OSError:
            return None
    return None if is_loopback(found) or found == "0.0.0.0" else found  # nosec B104 # compares, binds nothing
