"""The client of an event loop."""

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import httpx2

from mskray.client import requests
from mskray.client.asking import JOB_S, A, Asking, after_answer, opened
from mskray.client.requests import File, Request
from mskray.serving.schemas.jobs import Job
from mskray.serving.schemas.models import Models
from mskray.serving.schemas.pairs import PairAnswer
from mskray.serving.schemas.spines import SpineAnswer
from mskray.serving.schemas.studies import StudyAnswer


class AsyncClient(Asking):
    """As `Client`, for an event loop."""

    def __init__(self, url: str, token: str | None = None, **options: Any) -> None:
        super().__init__(url, token, **options)
        self._http = opened(httpx2.AsyncClient, self._options)

    async def predict_study(
        self,
        views: Sequence[File],
        *,
        body_part: str | None = None,
        partial: bool = False,
        explain: Sequence[str] = (),
        arrays: bool = False,
    ) -> StudyAnswer:
        """As `Client.predict_study`."""
        request = await asyncio.to_thread(requests.study, views, body_part, partial, explain, arrays)
        return await self._ask(request, StudyAnswer)

    async def predict_pair(self, before: File, after: File, *, body_part: str | None = None) -> PairAnswer:
        """As `Client.predict_pair`."""
        return await self._ask(await asyncio.to_thread(requests.pair, before, after, body_part), PairAnswer)

    async def read_spine(
        self,
        files: Sequence[File],
        *,
        explain: str | None = None,
        copies: int | None = None,
        timeout_s: float = JOB_S,
    ) -> SpineAnswer:
        """As `Client.read_spine`."""
        request = await asyncio.to_thread(requests.spine, files, explain, copies)
        return self._spine(await self.wait(await self._ask(self._once(request), Job), timeout_s))

    async def predict_batch(self, archive: File, *, body_part: str | None = None, timeout_s: float = JOB_S) -> Job:
        """As `Client.predict_batch`."""
        request = await asyncio.to_thread(requests.batch, archive, body_part)
        return await self.wait(await self._ask(self._once(request), Job), timeout_s)

    async def wait(self, job: Job, timeout_s: float = JOB_S) -> Job:
        """As `Client.wait`."""
        looks = self._looks(job, timeout_s)
        while job.status in ("waiting", "running"):
            await asyncio.sleep(next(looks))
            job = await self._ask(self._link(job.href), Job)
        return self._ended(job)

    async def fetch(self, href: str) -> bytes:
        """As `Client.fetch`."""
        return self._content(await self._send(self._link(href)))

    async def models(self) -> Models:
        """As `Client.models`."""
        return await self._ask(Request("GET", "/v1/models"), Models)

    async def roll_out(self, ensemble: str) -> Models:
        """As `Client.roll_out`."""
        return await self._ask(Request("PUT", "/v1/models", json={"ensemble": ensemble}), Models)

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _ask(self, request: Request, kind: type[A]) -> A:
        return self._read(await self._send(request), kind)

    async def _send(self, request: Request) -> httpx2.Response:
        waits = self._waits()
        while True:
            wait = next(waits, None)
            try:
                response = await self._http.request(request.method, request.path, **request.options())
            except httpx2.HTTPError as error:
                pause = self._after(error, wait)
            else:
                again = after_answer(response, wait)
                if again is None:
                    return response
                pause = again
            await asyncio.sleep(pause)
