"""The client against a real HTTP server: answers, what is tried again, what is refused in one line."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from serving_samples import DIGEST, TOKEN, Local, dicom, encoded, over_http, radiograph
from starlette.types import Receive, Scope, Send

from mskray.cli import main
from mskray.client import AsyncClient, Client, RequestRefused
from mskray.ensemble import Voter
from mskray.errors import UserError
from mskray.families import Images
from mskray.imaging.decode import decode
from mskray.serving.api import build_api
from mskray.serving.schemas.jobs import Job
from mskray.serving.settings import Limits
from mskray.serving.tokens import Access
from mskray.verbs.predict_remote import TOKEN_VARIABLE

PNG = encoded(radiograph(1), "PNG")


class Flaky:
    """An application before another: the first `times` requests get this answer, or none at all for status 0."""

    def __init__(self, app: Any) -> None:
        self.app, self.times, self.status, self.headers = app, 0, 503, [(b"retry-after", b"0")]
        self.kind, self.asked = b"application/problem+json", 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        self.asked += 1
        if self.asked > self.times:
            await self.app(scope, receive, send)
            return
        if not self.status:
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"100")]})
            raise ConnectionError("the server breaks off")
        headers = [*self.headers, (b"content-type", self.kind)]
        problem = {"type": "urn:mskray:unavailable", "title": "away", "status": self.status, "detail": "ask again"}
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(problem).encode()})


@pytest.fixture(scope="module")
def served(voter: Voter) -> Iterator[tuple[str, Flaky]]:
    flaky = Flaky(build_api(Local(voter), Limits(max_body=2_000_000), Access(DIGEST)))
    with over_http(flaky) as url:
        yield url, flaky


@pytest.fixture
def url(served: tuple[str, Flaky]) -> str:
    served[1].times = served[1].asked = 0
    return served[0]


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Client, "_waits", lambda self: iter([0.01] * (self._attempts - 1)))
    monkeypatch.setattr(AsyncClient, "_waits", lambda self: iter([0.01] * (self._attempts - 1)))


def test_a_study_is_answered_as_the_voter_does(url: str, voter: Voter, tmp_path: Path) -> None:
    images = [radiograph(2), radiograph(3, 120, 200)]
    (tmp_path / "patient-name.png").write_bytes(encoded(images[0], "PNG"))
    with Client(url, TOKEN) as client:
        answer = client.predict_study([tmp_path / "patient-name.png", dicom(images[1])], body_part="knee")
        assert client.models().ensemble.name == "knees"
    given = [[view.probabilities[name] for name in voter.classes] for view in answer.views]
    decoded = [images[0], decode(dicom(images[1])).pixels]
    np.testing.assert_allclose(given, voter(Images(decoded)).probabilities, atol=1e-5)
    assert [view.name for view in answer.views] == ["view-1", "view-2"], "names of files stay here"
    assert {view.body_part for view in answer.views} == {"KNEE"}


def test_many_at_once(url: str, voter: Voter) -> None:
    images = [radiograph(100 + index) for index in range(12)]

    async def together() -> list[float]:
        async with AsyncClient(url, TOKEN) as client:
            answers = await asyncio.gather(*(client.predict_study([encoded(each, "PNG")]) for each in images))
            assert (await client.models()).ensemble.name == "knees"
        return [answer.study.probabilities["abnormal"] for answer in answers]

    np.testing.assert_allclose(asyncio.run(together()), voter(Images(images)).probabilities[:, 1], atol=1e-5)


@pytest.mark.parametrize("status", [429, 502, 503, 504, 0])
def test_a_server_that_is_away_for_a_moment_is_asked_again(url: str, served: tuple[str, Flaky], status: int) -> None:
    flaky = served[1]
    for ask in (_ask, _ask_async):
        flaky.asked, flaky.times, flaky.status = 0, 3, status
        assert ask(url) == "knees"
        assert flaky.asked == 4


@pytest.mark.parametrize(("status", "asked"), [(503, 6), (400, 1), (500, 1), (401, 1)])
def test_a_server_that_stays_away_is_given_up(url: str, served: tuple[str, Flaky], status: int, asked: int) -> None:
    flaky = served[1]
    for ask in (_ask, _ask_async):
        flaky.asked, flaky.times, flaky.status = 0, 100, status
        with pytest.raises(RequestRefused, match=f"answered {status}: ask again") as raised:
            ask(url)
        assert (raised.value.status, flaky.asked) == (status, asked)
    flaky.times = 0


def test_a_replica_that_died_while_it_answered_is_asked_again(url: str, served: tuple[str, Flaky]) -> None:
    """Serve's own proxy then answers 500 in plain text; the server's own 500 is a defect and final."""
    flaky = served[1]
    flaky.times, flaky.status, flaky.kind = 2, 500, b"text/plain; charset=utf-8"
    try:
        assert _ask(url) == "knees"
    finally:
        flaky.kind = b"application/problem+json"
    assert flaky.asked == 3


def _ask(url: str) -> str:
    with Client(url, TOKEN) as client:
        return client.models().ensemble.name


def _ask_async(url: str) -> str:
    async def once() -> str:
        async with AsyncClient(url, TOKEN) as client:
            return (await client.models()).ensemble.name

    return asyncio.run(once())


def test_the_wait_that_the_server_asks_for_is_kept(
    url: str, served: tuple[str, Flaky], monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr("mskray.client.synchronous.time.sleep", waited.append)
    flaky = served[1]
    flaky.asked, flaky.times, flaky.status, flaky.headers = 0, 2, 429, [(b"retry-after", b"7")]
    try:
        assert _ask(url) == "knees"
    finally:
        flaky.headers = [(b"retry-after", b"0")]
    assert waited == [7.0, 7.0]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda url: Client("localhost:8000"), "begins with http"),
        (lambda url: Client(url, "a b"), "token has characters"),
        (lambda url: Client("http://127.0.0.1:9", attempts=2).models(), "does not answer"),
        (lambda url: Client(url, "wrong").models(), "answered 401: this token is not known"),
        (lambda url: Client(url, TOKEN).predict_study([]), "a study needs a view"),
        (lambda url: Client(url, TOKEN).predict_study([b"%PDF"]), "1 of 1 views cannot be read"),
        (lambda url: Client(url, TOKEN).predict_study(["no/such.png"]), "file no/such.png: No such file"),
        (lambda url: Client(url + "/elsewhere", TOKEN).models(), "answered 404"),
    ],
)
def test_refusals(url: str, make: Callable[[str], object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        make(url)


JOB = Job(
    id="0" * 32,
    kind="spine",
    status="running",
    done=0,
    total=0,
    what="reading",
    href=f"/v1/jobs/{'0' * 32}",
    spine=None,
    batch=None,
    problem=None,
)


async def wait_async(url: str, job: Job, timeout_s: float) -> Job:
    async with AsyncClient(url, TOKEN) as client:
        return await client.wait(job, timeout_s)


@pytest.mark.parametrize(
    "wait",
    [
        lambda url, *args: Client(url, TOKEN).wait(*args),
        lambda url, *args: asyncio.run(wait_async(url, *args)),
    ],
)
def test_a_job_is_not_waited_for_without_end(url: str, served: tuple[str, Flaky], wait: Callable[..., Job]) -> None:
    with pytest.raises(RequestRefused, match=r"job 0+: not ended within 0 s"):
        wait(url, JOB, 0)
    with pytest.raises(UserError, match="give a link of an answer"):
        wait(url, JOB.model_copy(update={"href": "https://elsewhere.example/v1/jobs/1"}), 30)
    assert served[1].asked == 0, "no token goes elsewhere"


def test_both_clients_have_the_same_methods() -> None:
    def methods(kind: type) -> set[str]:
        return {name for name in vars(kind) if not name.startswith("_")}

    assert methods(Client) == methods(AsyncClient)


def test_neither_torch_nor_ray_is_imported() -> None:
    code = "import sys, mskray.client; print([name for name in ('torch', 'ray', 'cv2') if name in sys.modules])"
    answered = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answered.stdout.strip() == "[]"


def test_a_folder_is_predicted_by_a_server(
    url: str, voter: Voter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    images = {f"b{index}.png": radiograph(index) for index in range(3)}
    for name, pixels in images.items():
        (tmp_path / "in" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_bytes(encoded(pixels, "PNG"))
    (tmp_path / "in" / "a.png").write_bytes(PNG[:-40])
    out = tmp_path / "out.parquet"
    with pytest.raises(SystemExit) as ended:
        main(["predict", "--server", url, str(tmp_path / "in"), "--out", str(out)])
    assert ended.value.code == 0
    assert "4 images: 3 predicted, 1 not readable" in capsys.readouterr().out
    table = pq.read_table(out)
    assert table.column_names == ["path", "body_part", "prob_normal", "prob_abnormal", "error"]
    assert table["path"].to_pylist() == ["a.png", *images]
    assert "truncated" in table["error"][0].as_py()
    expected = voter(Images(list(images.values()))).probabilities
    np.testing.assert_allclose(table["prob_abnormal"].to_pylist()[1:], expected[:, 1], atol=1e-5)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--server", "URL", "model", "IN"], "takes the images alone"),
        (["--server", "URL", "IN/empty"], "holds no files"),
        (["--server", "ftp://x", "IN"], "begins with http"),
        (["IN"], "needs a model and images"),
    ],
)
def test_the_command_line_says_what_is_wrong(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    (tmp_path / "empty").mkdir()
    given = [word.replace("URL", url).replace("IN", str(tmp_path)) for word in words]
    with pytest.raises(SystemExit) as ended:
        main(["predict", *given, "--out", str(tmp_path / "out.parquet")])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out.parquet").exists()
