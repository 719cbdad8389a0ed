"""What a server keeps: links, jobs, answers by key; who may see them, and what becomes of them."""

import asyncio
import io
import itertools
import threading
import time
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import requests
from block_spine import BlockSpine
from disc_layouts import metaimage, series
from serving_samples import Local, encoded, over_http, radiograph

from mskray.client import Client, RequestRefused
from mskray.ensemble import Voter
from mskray.families.vertebra_finding import Spine
from mskray.imaging.decode import decode
from mskray.imaging.spine import FoundVertebra
from mskray.imaging.volumes import Volume
from mskray.serving import idempotency, jobs
from mskray.serving.api import build_api
from mskray.serving.schemas.spines import Reached, SpineReading
from mskray.serving.schemas.studies import DecodedView, StudyVote
from mskray.serving.settings import Limits
from mskray.serving.spines import SpineReader
from mskray.serving.tokens import Access, add_token
from mskray.storage import locate

SPINE = BlockSpine(("L3", "L4", "L5"), shape=(9, 200, 160))
PNG = encoded(radiograph(1), "PNG")


class Served(Local):
    """Models in this process that know where the bodies of `SPINE` are; studies wait for `go`."""

    def __init__(self, voter: Voter, reader: SpineReader) -> None:
        super().__init__(voter, spines=reader)
        self.reader, self.asked, self.go = reader, 0, threading.Event()
        self.go.set()

    async def vote(self, views: list[DecodedView], explain: Any = ()) -> StudyVote:
        self.asked += 1
        while not self.go.is_set():
            time.sleep(0.01)
        return await super().vote(views, explain)

    async def spine(self, volume: Volume, copies: int | None) -> AsyncIterator[Reached | SpineReading]:
        bodies = [FoundVertebra(each.level, each.slice, each.corners, 0.9) for each in SPINE.vertebrae.values()]
        for each in self.reader.read_known(volume, Spine(tuple(bodies)[::-1], ()), copies):
            yield each


@pytest.fixture(scope="module")
def reader(spine_uris: tuple[str, str]) -> SpineReader:
    return SpineReader(*spine_uris)


@pytest.fixture
def served(voter: Voter, reader: SpineReader) -> Served:
    return Served(voter, reader)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def tokens(tmp_path: Path) -> dict[str, str]:
    """Secrets by name; only `head` is an admin."""
    file = str(tmp_path / "tokens.json")
    scopes = {"ward": ["predict"], "other": ["predict"], "head": ["admin"]}
    return {"file": file, **{name: add_token(file, name, each) for name, each in scopes.items()}}


@pytest.fixture
def url(served: Served, store: Path, tokens: dict[str, str]) -> Iterator[str]:
    app = build_api(served, Limits(), Access(tokens=tokens["file"]), store=str(store))
    with over_http(app) as address:
        yield address


def headers(secret: str, **more: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}", **{name.replace("_", "-"): value for name, value in more.items()}}


def within(seconds: float, holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.02)


def kept(store: Path, kind: str) -> list[Path]:
    return [path for path in sorted((store / kind).rglob("*")) if path.is_file()]


def test_a_spine_is_read_as_a_job(url: str, store: Path, tokens: dict[str, str], tmp_path: Path) -> None:
    files = sorted(series(tmp_path / "series", SPINE.volume).iterdir())
    with Client(url, tokens["ward"]) as client:
        answer = client.read_spine(files, explain="hotspots", copies=2)
        assert [body.level for body in answer.bodies] == ["L3", "L4", "L5"]
        assert [disc.level for disc in answer.discs] == ["L3/L4", "L4/L5"]
        assert (answer.volume.slices, answer.volume.rows, answer.volume.columns) == SPINE.volume.pixels.shape
        for disc in answer.discs:
            assert disc.placement is not None
            for grade in disc.grades.values():
                assert grade.hotspots is not None
                assert len(grade.hotspots) == len(disc.placement.slices)
                picture = cv2.imdecode(np.frombuffer(client.fetch(grade.hotspots[0]), np.uint8), cv2.IMREAD_UNCHANGED)
                assert picture.shape == (disc.placement.rows, disc.placement.columns)
        link = str(answer.discs[0].grades["side"].hotspots[0])  # type: ignore[index]
        with Client(url, tokens["other"]) as stranger, pytest.raises(RequestRefused, match="no such picture of yours"):
            stranger.fetch(link)
    within(5, lambda: [path.name for path in kept(store, "jobs")] == ["job.json"])


def test_a_job_tells_how_far_it_is(url: str, tokens: dict[str, str], tmp_path: Path) -> None:
    metaimage(tmp_path / "spine.mha", SPINE.volume)
    mine, theirs = headers(tokens["ward"]), headers(tokens["other"])
    file = ("files", ("spine.mha", (tmp_path / "spine.mha").read_bytes()))
    accepted = requests.post(f"{url}/v1/spines", files=[file], headers=mine, timeout=30)
    job = accepted.json()
    assert (accepted.status_code, accepted.headers["location"]) == (202, job["href"])
    assert requests.get(f"{url}{job['href']}", headers=theirs, timeout=30).status_code == 404
    seen = []
    while job["status"] not in ("done", "failed"):
        time.sleep(0.05)
        job = requests.get(f"{url}{job['href']}", headers=mine, timeout=30).json()
        seen.append(job["status"])
    assert job["status"] == "done", job
    assert job["done"] == job["total"] == 2
    assert job["spine"]["request_id"] == accepted.headers["x-request-id"]
    assert job["spine"]["discs"][0]["grades"]["side"]["hotspots"] is None


@pytest.mark.parametrize(
    ("path", "field", "content", "status", "kind"),
    [
        ("/v1/spines", "files", b"?", 422, "unreadable-volume"),
        ("/v1/spines", "views", b"?", 422, "invalid-value"),
        ("/v1/spines?copies=1", "files", b"?", 422, "invalid-value"),
        ("/v1/batches", "studies", PNG, 422, "invalid-value"),
        ("/v1/pairs", "before", PNG, 404, "not-served"),
        ("/v1/pixels", "files", b"?", 422, "unreadable-views"),
        ("/v1/pixels?index=1", "files", PNG, 422, "invalid-value"),
        ("/v1/studies?explain=magic", "views", PNG, 422, "invalid-value"),
    ],
)
def test_what_is_refused_at_once(
    url: str, tokens: dict[str, str], path: str, field: str, content: bytes, status: int, kind: str
) -> None:
    answered = requests.post(
        f"{url}{path}", files=[(field, ("a", content))], headers=headers(tokens["ward"]), timeout=30
    )
    assert (answered.status_code, answered.json()["type"]) == (status, f"urn:mskray:{kind}"), answered.text


def test_a_batch_answers_each_study(url: str, tokens: dict[str, str]) -> None:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in {"a/1.png": PNG, "b/1.png": b"?", "a/2.png": PNG, "c/d/1.png": PNG}.items():
            archive.writestr(name, content)
    with Client(url, tokens["ward"]) as client:
        job = client.predict_batch(target.getvalue(), body_part="knee")
        alone = client.predict_study([PNG, PNG], body_part="KNEE")
    assert job.batch is not None
    told = [(each.index, each.name, each.answer is None) for each in job.batch]
    assert told == [(0, "a", False), (1, "b", True), (2, "d", False)]
    first, second, _ = job.batch
    assert first.answer is not None
    assert second.problem is not None
    assert first.answer.study == alone.study
    assert second.problem.type == "urn:mskray:unreadable-views"


def test_a_job_outlives_the_replica_that_began_it(served: Served, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "_SILENT_S", 0.5)
    monkeypatch.setattr(jobs, "_BEAT_S", 0.1)
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("a/1.png", PNG)
    held = Held()
    with over_http(build_api(served, Limits(), Access(), store=str(store))) as address:
        with over_http(build_api(held, Limits(), Access(), store=str(store))) as dying:
            job = requests.post(f"{dying}/v1/batches", files={"studies": ("a", target.getvalue())}, timeout=30).json()
            within(5, lambda: held.began)
        assert requests.get(f"{address}{job['href']}", timeout=30).json()["status"] == "running"
        within(10, lambda: requests.get(f"{address}{job['href']}", timeout=30).json()["status"] == "done")


class Held(Local):
    """A replica whose model never answers."""

    def __init__(self) -> None:
        self.served, self.began = ("studies",), False

    async def vote(self, views: list[DecodedView], explain: Any = ()) -> StudyVote:
        self.began = True
        await asyncio.Event().wait()
        raise AssertionError("nobody sets it")


def test_a_key_answers_once(url: str, served: Served, tokens: dict[str, str]) -> None:
    def ask(key: str, content: bytes = PNG, who: str = "ward") -> requests.Response:
        files = [("views", ("a.png", content))]
        return requests.post(
            f"{url}/v1/studies", files=files, headers=headers(tokens[who], idempotency_key=key), timeout=30
        )

    first, again = ask("key-number-1"), ask("key-number-1")
    assert (first.status_code, again.status_code, served.asked) == (200, 200, 1)
    assert (again.json(), again.headers["idempotency-replayed"]) == (first.json(), "true")
    assert "idempotency-replayed" not in first.headers
    assert ask("key-number-1", encoded(radiograph(2), "PNG")).json()["type"] == "urn:mskray:key-used"
    assert ask("key-number-1", who="other").status_code == 200, "another asker's key is another key"
    assert ask("key-number-2", b"?").status_code == 422
    assert ask("key-number-2").status_code == 200, "an error lets go of the key"
    assert ask("short").json()["errors"][0]["where"] == "header.idempotency-key"


def test_a_key_in_use_is_not_answered_twice(
    url: str, store: Path, tokens: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[requests.Response] = []

    def ask() -> None:
        marked = headers(tokens["ward"], idempotency_key="key-number-9")
        files = [("views", ("a.png", PNG))]
        answers.append(requests.post(f"{url}/v1/studies", files=files, headers=marked, timeout=30))

    first = threading.Thread(target=ask)
    first.start()
    within(5, lambda: bool(kept(store, "keys")))
    first.join()
    (name,) = kept(store, "keys")
    fingerprint, ended = locate(name).read_json()["fingerprint"], threading.Event()

    def beats(beat: int) -> None:
        locate(name).write_json({"fingerprint": fingerprint, "by": "somebody", "beat": beat})

    def work() -> None:
        for beat in itertools.count(1):
            if ended.wait(0.1):
                return
            beats(beat)

    beats(0)
    somebody = threading.Thread(target=work)
    somebody.start()
    ask()
    ended.set()
    somebody.join()
    assert [each.status_code for each in answers] == [200, 409]
    assert answers[1].headers["retry-after"] == "3"
    monkeypatch.setattr(idempotency, "_SILENT_S", 1.0)
    ask()
    assert answers[2].status_code == 200, "whoever began it is gone"


def test_without_a_store(voter: Voter) -> None:
    with over_http(build_api(Local(voter), Limits(), Access())) as address:
        files = [("views", ("a.png", PNG))]
        for query, more in (("?explain=grad_cam", {}), ("", {"idempotency-key": "key-number-1"})):
            answered = requests.post(f"{address}/v1/studies{query}", files=files, headers=more, timeout=30)
            assert (answered.status_code, answered.json()["type"]) == (503, "urn:mskray:no-store")
        assert requests.get(f"{address}/v1/jobs/{'0' * 32}", timeout=30).json()["type"] == "urn:mskray:no-store"
        arrays = requests.post(f"{address}/v1/studies?explain=grad_cam&explain_as=arrays", files=files, timeout=60)
        assert arrays.status_code == 200


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_pixels_of_a_picture(url: str, tokens: dict[str, str], dtype: str) -> None:
    pictures = [encoded(radiograph(3, dtype=np.dtype(dtype).type), "PNG"), encoded(radiograph(4, 64, 48), "PNG")]
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for number, content in enumerate(pictures):
            archive.writestr(f"{number}.png", content)
    for index, content in enumerate(pictures):
        answered = requests.post(
            f"{url}/v1/pixels?index={index}",
            files={"files": ("a.zip", target.getvalue())},
            headers=headers(tokens["ward"]),
            timeout=30,
        )
        np.testing.assert_array_equal(np.load(io.BytesIO(answered.content), allow_pickle=False), decode(content).pixels)


def test_pixels_of_a_volume(url: str, tokens: dict[str, str], tmp_path: Path) -> None:
    metaimage(tmp_path / "spine.mha", SPINE.volume)
    answered = requests.post(
        f"{url}/v1/pixels?kind=volume",
        files={"files": ("a", (tmp_path / "spine.mha").read_bytes())},
        headers=headers(tokens["ward"]),
        timeout=30,
    )
    pixels = np.load(io.BytesIO(answered.content), allow_pickle=False)
    assert answered.headers["x-spacing-mm"] == "4.0000,0.6000,0.6000"
    assert (pixels.shape, pixels.dtype) == (SPINE.volume.pixels.shape, np.uint16)
    order = np.argsort(SPINE.volume.pixels, axis=None, kind="stable")
    assert (np.diff(pixels.ravel()[order].astype(int)) >= 0).all(), "levels keep their order"


def test_another_ensemble_answers(url: str, tokens: dict[str, str], ensemble_uri: str) -> None:
    one = str(Path(ensemble_uri).parent / "first")
    with Client(url, tokens["ward"]) as client, pytest.raises(RequestRefused, match="answered 403"):
        client.roll_out(one)
    with Client(url, tokens["head"]) as client:
        before = client.predict_study([PNG]).model
        client.roll_out(one)
        after = client.predict_study([PNG]).model
        assert (before.name, after.name) == ("knees", "first")
        with pytest.raises(RequestRefused, match=r"answered 422: body\.ensemble: .* holds neither"):
            client.roll_out(ensemble_uri + "-none")
