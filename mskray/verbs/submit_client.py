"""A cluster's dashboard, asked before it is trusted with a token or given a job.

    mskray submit --address https://HEAD:8265 …

The first question goes without a token: whoever answers it runs what anyone sends. An address, a scheme or a token that
does not do is one line within seconds.
"""

import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import urlsplit

import ray
import requests
from ray.dashboard.modules.job.pydantic_models import JobDetails
from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient

from mskray.cluster import doors
from mskray.cluster.asking import token_headers, token_source
from mskray.errors import UserError
from mskray.progress import Progress, Report, silent

DEFAULT = "http://127.0.0.1:8265"
_CONNECT_S, _ANSWER_S = 5.0, 60.0
_NAMES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
T = TypeVar("T")


class Lost(Exception):
    """The dashboard does not answer now; it may later."""


class Unknown(Exception):
    """The dashboard knows no such job."""


class Taken(Exception):
    """A job of this name is there already."""


class _Client(JobSubmissionClient):
    """Ray's own, which would wait for an answer without end."""

    def _do_request(self, method: str, endpoint: str, **more: Any) -> requests.Response:
        return super()._do_request(method, endpoint, timeout=(_CONNECT_S, _ANSWER_S), **more)


class Jobs:
    """The jobs of a cluster. Each question raises Lost where the dashboard is away, UserError where it refuses.

    Args:
        url: of the dashboard, http or https.
        headers: of each request: the token.
        verify: what requests takes: certificates of the authorities to trust, True for the usual ones.
    """

    def __init__(self, url: str, headers: Mapping[str, str], verify: str | bool) -> None:
        self.url, self.headers = url, dict(headers)
        with _without_addresses():
            self._client = _ask(lambda: _Client(url, headers=dict(headers), verify=verify))
        self.tls = self._client._ssl_context

    def submit(self, entrypoint: str, identifier: str, folder: str, metadata: Mapping[str, str]) -> None:
        """Start a job in a copy of a local folder. Raises Taken."""
        environment = {"working_dir": folder}
        _ask(
            lambda: self._client.submit_job(
                entrypoint=entrypoint, submission_id=identifier, runtime_env=environment, metadata=dict(metadata)
            )
        )

    def info(self, identifier: str) -> JobDetails:
        """What is known of a job. Raises Unknown."""
        return _ask(lambda: self._client.get_job_info(identifier))

    def all(self) -> list[JobDetails]:
        """Every job that was submitted to this cluster, the oldest first."""
        found = [job for job in _ask(self._client.list_jobs) if job.submission_id]
        return sorted(found, key=lambda job: job.start_time or 0)

    def words(self, identifier: str) -> str:
        """All that a job has printed. Raises Unknown."""
        return _ask(lambda: self._client.get_job_logs(identifier))

    def stop(self, identifier: str) -> bool:
        """Ask a job to end; False where it has ended. Raises Unknown."""
        return _ask(lambda: self._client.stop_job(identifier))


def connect(address: str | None, report: Report = silent) -> Jobs:
    """Find the dashboard and how to speak to it.

    Args:
        address: its URL; that of RAY_API_SERVER_ADDRESS or RAY_ADDRESS, or this machine's, where none is given.
    Raises:
        UserError: nothing answers there, or not as a dashboard does; the token or the certificate does not do; it asks
            for no token, and others can reach it.
    """
    url = _url(address)
    verify: str | bool = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("SSL_CERT_FILE") or True
    host = urlsplit(url).hostname or ""
    first = _version(url, {}, verify)
    headers: dict[str, str] = {}
    if first.status_code == 200:
        if not doors.is_loopback(host):
            doors.refuse_open(url)
    elif first.status_code == 401:
        headers = token_headers()
        if not headers:
            raise UserError(
                f"{url} asks for a token, and there is none here: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH (or "
                "RAY_AUTH_TOKEN) to the cluster's own"
            )
        if url.startswith("http://") and not doors.is_loopback(host):
            report(Progress(f"warning: the token goes to {url} in the clear: use https, or a tunnel"))
        first = _version(url, headers, verify)
        if first.status_code in (401, 403):
            raise UserError(f"{url} does not accept the token of {token_source()}: give the cluster's own")
    _check_version(url, first)
    return Jobs(url, headers, verify)


def _url(address: str | None) -> str:
    named = next((os.environ[name] for name in _NAMES if os.environ.get(name, "").startswith("http")), DEFAULT)
    given = (address or named).rstrip("/")
    if given.startswith("ray://"):
        host = urlsplit(given).hostname
        raise UserError(f"{given} is an address of Ray Client: jobs go to the dashboard, --address http://{host}:8265")
    if not given.startswith(("http://", "https://")):
        host = re.sub(r":\d+$", "", given)
        raise UserError(f"{given} is no URL of a dashboard: give --address http://{host}:8265, or https://…")
    if urlsplit(given).username or urlsplit(given).password:
        raise UserError("the address holds a name or password: leave it out; the token is RAY_AUTH_TOKEN_PATH's")
    return given


def _version(url: str, headers: Mapping[str, str], verify: str | bool) -> requests.Response:
    try:
        return requests.get(
            f"{url}/api/version", headers=dict(headers), timeout=_CONNECT_S, verify=verify, allow_redirects=False
        )
    except requests.exceptions.SSLError as error:
        if "WRONG_VERSION_NUMBER" in str(error) or "record layer" in str(error).lower():
            raise UserError(f"{url} speaks no TLS: give http://… if the way there is safe") from None
        why = "set SSL_CERT_FILE to the certificate of its authority"
        raise UserError(f"the certificate of {url} is not accepted: {_reason(error)}; {why}") from None
    except requests.exceptions.Timeout:
        raise UserError(f"no dashboard answers at {url} within {_CONNECT_S:.0f} s: is the address right?") from None
    except requests.exceptions.ConnectionError as error:
        tls = " (or speaks TLS alone: give https://…)" if "Connection refused" not in str(error) else ""
        raise UserError(
            f"no dashboard answers at {url}{tls}: start the head with one, or reach it by a tunnel, as "
            "`ssh -L 8265:127.0.0.1:8265 HEAD`"
        ) from None
    except requests.exceptions.RequestException as error:
        raise UserError(f"{url} cannot be asked: {_reason(error)}") from None


def _check_version(url: str, answer: requests.Response) -> None:
    try:
        theirs = str(answer.json()["ray_version"]) if answer.status_code == 200 else ""
    except (ValueError, KeyError, TypeError):
        theirs = ""
    if not theirs:
        raise UserError(f"what answers at {url} is no Ray dashboard (status {answer.status_code}): is the port right?")
    if theirs.split(".")[:2] != ray.__version__.split(".")[:2]:
        raise UserError(
            f"the cluster at {url} runs Ray {theirs}, mskray here needs Ray {ray.__version__}: install this version on "
            "its nodes, or the mskray that goes with theirs here"
        )


def _ask(question: Callable[[], T]) -> T:
    try:
        return question()
    except AuthenticationError as error:
        raise UserError(f"the cluster does not accept the token any more: {str(error).partition(chr(10))[0]}") from None
    except (requests.exceptions.ConnectionError, requests.exceptions.Timeout, ConnectionError) as error:
        raise Lost(_reason(error)) from None
    except RuntimeError as error:
        raise _refused(error) from None


def _refused(error: RuntimeError) -> Exception:
    """What Ray's client says of an answer that is not 200: "Request failed with status code 404: text"."""
    text = str(error)
    found = re.search(r"status code (\d+)", text)
    status = int(found[1]) if found else 0
    if "already exists" in text:
        return Taken()
    if status == 404 or "does not exist" in text:
        return Unknown()
    if status in (429, 502, 503, 504) or "No available agent" in text or status == 500:
        return Lost(text.strip().rpartition("\n")[2][:300])
    return UserError(f"the cluster refuses: {text.strip().rpartition(chr(10))[2][:500]}")


def _reason(error: BaseException) -> str:
    """The innermost cause, in one line."""
    text = str(error)
    found = re.findall(r"(?:\w+Error|SSLError)\(([^()]*(?:\([^()]*\))?[^()]*)\)", text)
    return (found[-1] if found else text).strip("'\"")[:200]


@contextmanager
def _without_addresses() -> Iterator[None]:
    """Ray's client takes an address of the environment before the one that it is given."""
    before = {name: os.environ.pop(name) for name in _NAMES if name in os.environ}
    level = logging.getLogger("ray.dashboard.modules.dashboard_sdk").level
    logging.getLogger("ray.dashboard.modules.dashboard_sdk").setLevel(logging.WARNING)
    try:
        yield
    finally:
        os.environ.update(before)
        logging.getLogger("ray.dashboard.modules.dashboard_sdk").setLevel(max(level, logging.WARNING))
