"""What the two clients share: where and how often to ask, when to ask again, what an answer is."""

import os
import ssl
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import httpx2
from pydantic import ValidationError

import mskray
from mskray.client.requests import Request
from mskray.errors import UserError
from mskray.serving.problems import MEDIA_TYPE, ProblemDetails
from mskray.serving.schemas.common import Answer
from mskray.serving.schemas.jobs import Job
from mskray.serving.schemas.spines import SpineAnswer

_AGAIN = (429, 502, 503, 504)
_LONGEST_WAIT_S = 30.0
JOB_S = 3600.0
"""How long a job is waited for."""
A = TypeVar("A", bound=Answer)
C = TypeVar("C")


class RequestRefused(UserError):
    """The server said no.

    Args:
        status: of HTTP; 0 where there was no answer.
        problem: what the server said, where it was a problem detail.
    """

    def __init__(self, message: str, status: int = 0, problem: ProblemDetails | None = None) -> None:
        super().__init__(message)
        self.status, self.problem = status, problem


class Asking:
    """What both clients know: where, with what token, how long, how often."""

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        timeout_s: float = 150.0,
        attempts: int = 6,
        verify: bool | str = True,
    ) -> None:
        """Open nothing yet.

        Args:
            url: of the server, such as "http://127.0.0.1:8000".
            token: where the server has tokens.
            timeout_s: how long one attempt may take, in seconds.
            attempts: how often a server that is busy or away is asked.
            verify: whether to check its certificate; or the path of the certificates to trust.
        Raises:
            UserError: not an http or https address, a token that cannot stand in a header.
        """
        if not url.startswith(("http://", "https://")):
            raise UserError(f"server {url}: give an address that begins with http:// or https://")
        if token is not None and (not token.isascii() or not token.isprintable() or " " in token):
            raise UserError("the token has characters that cannot be sent: give it as the server printed it")
        self.url, self._attempts = url.rstrip("/"), max(1, attempts)
        headers = {"user-agent": f"mskray/{mskray.__version__}"}
        if token:
            headers["authorization"] = f"Bearer {token}"
        self._options: dict[str, Any] = {
            "base_url": self.url,
            "headers": headers,
            "timeout": httpx2.Timeout(timeout_s, connect=10.0),
            "verify": verify if isinstance(verify, bool) else _trusting(verify),
        }

    def _refusal(self, response: httpx2.Response) -> RequestRefused:
        try:
            problem = ProblemDetails.model_validate_json(response.content)
        except ValidationError:
            return RequestRefused(f"{self.url} answered {response.status_code}: is it a server of mskray?")
        told = problem.detail or problem.title
        if problem.views:
            told += f" (view {problem.views[0].index + 1}: {problem.views[0].reason})"
        return RequestRefused(f"{self.url} answered {problem.status}: {told}", problem.status, problem)

    def _after(self, error: httpx2.HTTPError, wait: float | None) -> float:
        """Return seconds to wait after no answer. Raises RequestRefused where `wait` has come to its end."""
        if wait is not None:
            return wait
        told = str(error) or type(error).__name__
        if "CERTIFICATE_VERIFY_FAILED" in told:
            raise RequestRefused(f"{self.url} is not trusted ({told}): set SSL_CERT_FILE to its authority") from None
        where = f"{self.url} does not answer ({told})"
        raise RequestRefused(f"{where}: is the address right (http or https), and does the server run?") from None

    def _read(self, response: httpx2.Response, kind: type[A]) -> A:
        if not response.is_success:
            raise self._refusal(response)
        try:
            return kind.model_validate_json(response.content)
        except ValidationError as error:
            raise RequestRefused(
                f"{self.url} gave an answer that mskray {mskray.__version__} cannot read ({error.error_count()} values "
                "differ): use the same version at both ends"
            ) from None

    def _content(self, response: httpx2.Response) -> bytes:
        if not response.is_success:
            raise self._refusal(response)
        return response.content

    def _link(self, href: str) -> Request:
        if not href.startswith("/v1/"):
            raise UserError(f"{href}: give a link of an answer of {self.url}")
        return Request("GET", href)

    def _once(self, request: Request) -> Request:
        """The request with a key, so that asking again does nothing twice."""
        return replace(request, headers={**request.headers, "idempotency-key": uuid.uuid4().hex})

    def _ended(self, job: Job) -> Job:
        if job.problem is None:
            return job
        told = job.problem.detail or job.problem.title
        raise RequestRefused(f"{self.url}, job {job.id}: {told}", job.problem.status, job.problem)

    def _spine(self, job: Job) -> SpineAnswer:
        if job.spine is None:
            raise RequestRefused(f"{self.url}, job {job.id} ended without a spine")
        return job.spine

    def _looks(self, job: Job, timeout_s: float) -> Iterator[float]:
        """Seconds to wait before each look at a job. Raises RequestRefused when `timeout_s` have passed."""
        pause, deadline = 0.2, time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            yield min(pause, max(0.0, deadline - time.monotonic()))
            pause = min(1.5 * pause, 2.0)
        raise RequestRefused(f"{self.url}, job {job.id}: not ended within {timeout_s:g} s; wait longer with timeout_s")

    def _waits(self) -> Iterator[float]:
        """Seconds to wait before each further attempt, unless the server says how long."""
        for attempt in range(self._attempts - 1):
            yield min(0.25 * 2**attempt, _LONGEST_WAIT_S)


def after_answer(response: httpx2.Response, wait: float | None) -> float | None:
    """Return seconds to wait, those that the server asks for if it does; None where the answer is final."""
    stated = response.headers.get("retry-after", "")
    # 409 is of a key whose request is being answered, perhaps by a replica that has just died.
    again = response.status_code in _AGAIN or (response.status_code == 409 and stated) or _cut_off(response)
    if wait is None or not again:
        return None
    return min(float(stated), _LONGEST_WAIT_S) if stated.isdecimal() else wait


def opened(kind: Callable[..., C], options: Mapping[str, Any]) -> C:
    """Make httpx's client. Raises UserError where the certificates that it is to trust cannot be read."""
    try:
        return kind(**options)
    except (OSError, ssl.SSLError) as error:
        given = os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR") or "of this system"
        why = getattr(error, "strerror", None) or str(error)
        raise UserError(f"certificates {given}: {why}: set SSL_CERT_FILE to a PEM file") from None


def _trusting(path: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=path)
    except (OSError, ssl.SSLError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UserError(f"certificates {path}: {why}: give a PEM file") from None


def _cut_off(response: httpx2.Response) -> bool:
    """Whether Serve's proxy says that who was answering died: with a 500 that is no problem detail."""
    kind = response.headers.get("content-type", "").partition(";")[0]
    return response.status_code == 500 and kind != MEDIA_TYPE
