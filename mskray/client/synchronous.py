"""The client that waits."""

import time
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


class Client(Asking):
    """Asks, and waits for the answer. Safe to use from several threads. Every method raises RequestRefused where the
    server says no or does not answer, and UserError for a file that cannot be read here."""

    def __init__(self, url: str, token: str | None = None, **options: Any) -> None:
        super().__init__(url, token, **options)
        self._http = opened(httpx2.Client, self._options)

    def predict_study(
        self,
        views: Sequence[File],
        *,
        body_part: str | None = None,
        partial: bool = False,
        explain: Sequence[str] = (),
        arrays: bool = False,
    ) -> StudyAnswer:
        """Predict a study of radiographs: PNG, JPEG, TIFF or DICOM files, told by their content.

        Args:
            body_part: DICOM body part of all views; without it, that of each DICOM header counts.
            partial: answer the views that can be read although others cannot.
            explain: methods whose overlays are wanted, such as "grad_cam".
            arrays: overlays as matrices in the answer; else as links, see `fetch`.
        """
        return self._ask(requests.study(views, body_part, partial, explain, arrays), StudyAnswer)

    def predict_pair(self, before: File, after: File, *, body_part: str | None = None) -> PairAnswer:
        """Predict what changed between two pictures of one place."""
        return self._ask(requests.pair(before, after, body_part), PairAnswer)

    def read_spine(
        self,
        files: Sequence[File],
        *,
        explain: str | None = None,
        copies: int | None = None,
        timeout_s: float = JOB_S,
    ) -> SpineAnswer:
        """Read a sagittal volume: the files of a DICOM series, a zip of them, a NIfTI or a MetaImage file.

        Args:
            explain: "saliency" or "hotspots": where each grade has its reasons, as links.
            copies: augmented ones that hotspots are the mean of.
            timeout_s: how long the job is waited for, in seconds.
        """
        return self._spine(self.wait(self._ask(self._once(requests.spine(files, explain, copies)), Job), timeout_s))

    def predict_batch(self, archive: File, *, body_part: str | None = None, timeout_s: float = JOB_S) -> Job:
        """Predict many studies, each a folder of a zip; return the job when it has ended: see its `batch`."""
        return self.wait(self._ask(self._once(requests.batch(archive, body_part)), Job), timeout_s)

    def wait(self, job: Job, timeout_s: float = JOB_S) -> Job:
        """Return a job when it is done. Raises RequestRefused also where it failed, or has not ended in `timeout_s`."""
        looks = self._looks(job, timeout_s)
        while job.status in ("waiting", "running"):
            time.sleep(next(looks))
            job = self._ask(self._link(job.href), Job)
        return self._ended(job)

    def fetch(self, href: str) -> bytes:
        """Return the PNG that an answer links to."""
        return self._content(self._send(self._link(href)))

    def models(self) -> Models:
        """Return which models answer."""
        return self._ask(Request("GET", "/v1/models"), Models)

    def roll_out(self, ensemble: str) -> Models:
        """Have every replica answer by another ensemble; `models().rollout` tells how far it is."""
        return self._ask(Request("PUT", "/v1/models", json={"ensemble": ensemble}), Models)

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, request: Request, kind: type[A]) -> A:
        return self._read(self._send(request), kind)

    def _send(self, request: Request) -> httpx2.Response:
        waits = self._waits()
        while True:
            wait = next(waits, None)
            try:
                response = self._http.request(request.method, request.path, **request.options())
            except httpx2.HTTPError as error:
                pause = self._after(error, wait)
            else:
                again = after_answer(response, wait)
                if again is None:
                    return response
                pause = again
            time.sleep(pause)
