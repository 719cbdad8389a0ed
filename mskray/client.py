"""Ask a served ensemble from Python.

    from mskray.client import Client

    with Client("https://msk.example", token=os.environ["MSKRAY_TOKEN"]) as client:
        answer = client.predict_study(["front.dcm", "side.dcm"])
        print(answer.study.label, answer.study.probabilities)

`AsyncClient` has the same methods to be awaited. A server that is busy, starting or away for a moment is asked again,
after as long as it says; a prediction changes nothing, so that asking twice does no harm. Neither torch nor Ray is
imported.
"""

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx2
from pydantic import ValidationError

import mskray
from mskray.errors import UserError
from mskray.serving.problems import ProblemDetails
from mskray.serving.schemas.common import Answer
from mskray.serving.schemas.models import Models
from mskray.serving.schemas.studies import StudyAnswer

View = str | Path | bytes
"""A view: the path of a file, or its content."""

_AGAIN = (429, 502, 503, 504)
_LONGEST_WAIT_S = 30.0
A = TypeVar("A", bound=Answer)


class RequestRefused(UserError):
    """The server said no.

    Args:
        status: of HTTP; 0 where there was no answer.
        problem: what the server said, where it was a problem detail.
    """

    def __init__(self, message: str, status: int = 0, problem: ProblemDetails | None = None) -> None:
        super().__init__(message)
        self.status, self.problem = status, problem


@dataclass(frozen=True)
class _Request:
    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    fields: Mapping[str, str] = field(default_factory=dict)
    files: Sequence[tuple[str, tuple[str, bytes]]] = ()
    json: Mapping[str, Any] | None = None

    def options(self) -> dict[str, Any]:
        return {
            "params": dict(self.query),
            "data": dict(self.fields) or None,
            "files": list(self.files) or None,
            "json": self.json,
        }


class _Base:
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
            "verify": verify,
        }

    def _refusal(self, response: httpx2.Response) -> RequestRefused:
        try:
            problem = ProblemDetails.model_validate_json(response.content)
        except ValidationError:
            return RequestRefused(f"{self.url} answered {response.status_code}: is it a server of mskray?")
        told = problem.detail or problem.title
        return RequestRefused(f"{self.url} answered {problem.status}: {told}", problem.status, problem)

    def _after(self, error: httpx2.HTTPError, wait: float | None) -> float:
        """Return seconds to wait after no answer. Raises RequestRefused where `wait` has come to its end."""
        if wait is not None:
            return wait
        told = str(error) or type(error).__name__
        where = f"{self.url} does not answer ({told})"
        raise RequestRefused(f"{where}: is the address right, and does the server run?") from None

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

    def _waits(self) -> Iterator[float]:
        """Seconds to wait before each further attempt, unless the server says how long."""
        for attempt in range(self._attempts - 1):
            yield min(0.25 * 2**attempt, _LONGEST_WAIT_S)


class Client(_Base):
    """Asks, and waits for the answer. Safe to use from several threads."""

    def __init__(self, url: str, token: str | None = None, **options: Any) -> None:
        super().__init__(url, token, **options)
        self._http = httpx2.Client(**self._options)

    def predict_study(
        self, views: Sequence[View], *, body_part: str | None = None, partial: bool = False
    ) -> StudyAnswer:
        """Predict a study of radiographs: PNG, JPEG, TIFF or DICOM files, told by their content.

        Args:
            body_part: DICOM body part of all views; without it, that of each DICOM header counts.
            partial: answer the views that can be read although others cannot.
        Raises:
            UserError: a file that cannot be read here.
            RequestRefused: the server said no, or does not answer.
        """
        return self._ask(_study(views, body_part, partial), StudyAnswer)

    def models(self) -> Models:
        """Return which models answer. Raises RequestRefused."""
        return self._ask(_Request("GET", "/v1/models"), Models)

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, request: _Request, kind: type[A]) -> A:
        waits = self._waits()
        while True:
            wait = next(waits, None)
            try:
                response = self._http.request(request.method, request.path, **request.options())
            except httpx2.HTTPError as error:
                pause = self._after(error, wait)
            else:
                again = _after_answer(response, wait)
                if again is None:
                    return self._read(response, kind)
                pause = again
            time.sleep(pause)


class AsyncClient(_Base):
    """As `Client`, for an event loop."""

    def __init__(self, url: str, token: str | None = None, **options: Any) -> None:
        super().__init__(url, token, **options)
        self._http = httpx2.AsyncClient(**self._options)

    async def predict_study(
        self, views: Sequence[View], *, body_part: str | None = None, partial: bool = False
    ) -> StudyAnswer:
        """As `Client.predict_study`."""
        request = await asyncio.to_thread(_study, views, body_part, partial)
        return await self._ask(request, StudyAnswer)

    async def models(self) -> Models:
        """As `Client.models`."""
        return await self._ask(_Request("GET", "/v1/models"), Models)

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _ask(self, request: _Request, kind: type[A]) -> A:
        waits = self._waits()
        while True:
            wait = next(waits, None)
            try:
                response = await self._http.request(request.method, request.path, **request.options())
            except httpx2.HTTPError as error:
                pause = self._after(error, wait)
            else:
                again = _after_answer(response, wait)
                if again is None:
                    return self._read(response, kind)
                pause = again
            await asyncio.sleep(pause)


def _study(views: Sequence[View], body_part: str | None, partial: bool) -> _Request:
    if not views:
        raise UserError("a study needs a view: give files or their content")
    files = [("views", (f"view-{number}", _content(view))) for number, view in enumerate(views, start=1)]
    fields = {} if body_part is None else {"body_part": body_part}
    return _Request("POST", "/v1/studies", {"partial": "true"} if partial else {}, fields, files)


def _content(view: View) -> bytes:
    if isinstance(view, bytes):
        return view
    try:
        return Path(view).read_bytes()
    except OSError as error:
        raise UserError(f"view {view}: {error.strerror or error}") from None


def _after_answer(response: httpx2.Response, wait: float | None) -> float | None:
    """Return seconds to wait, those that the server asks for if it does; None where the answer is final."""
    if wait is None or response.status_code not in _AGAIN:
        return None
    stated = response.headers.get("retry-after", "")
    return min(float(stated), _LONGEST_WAIT_S) if stated.isdecimal() else wait
