"""What is kept when the store is away, when repeats of a key meet, and who may read it on disk."""

import asyncio
import hashlib
import json
import os
import stat
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Response
from serving_samples import ask
from starlette.requests import Request

from mskray.errors import Fault, UserError
from mskray.serving import idempotency, problems
from mskray.serving.api import _tidy
from mskray.serving.batches import distinct_names
from mskray.serving.forms import Form, Upload
from mskray.serving.idempotency import Once
from mskray.serving.jobs import Jobs
from mskray.serving.problems import Problem
from mskray.serving.schemas.common import Answer
from mskray.serving.store import KEPT, Store, try_read_json
from mskray.storage import Location, locate

FORM = Form({"views": (Upload(0, None, b"1"),)})


class Said(Answer):
    text: str


def request() -> Request:
    headers = [(b"idempotency-key", b"key-number-1")]
    return Request({"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": headers})


async def said(_: str | None) -> Said:
    return Said(text="yes")


def answer(store: Store, make: Callable[[str | None], Awaitable[Said]] = said) -> Said | Response:
    return asyncio.run(Once(store).answer(request(), "ward", FORM, make))


def away(*_: Any, **__: Any) -> Any:
    raise Fault("the store is away")


def stale(store: Store) -> Location:
    """Leave a claim of somebody who is gone."""

    async def gone(_: str | None) -> Said:
        raise SystemExit

    made: dict[str, bytes] = {}

    async def keep(name: str | None) -> Said:
        (file,) = Path(store.keys.path).iterdir()
        made[str(file)] = file.read_bytes()
        return await gone(name)

    with pytest.raises(SystemExit):
        answer(store, keep)
    ((name, content),) = made.items()
    locate(name).write_json({**json.loads(content), "by": "somebody"})
    return locate(name)


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Claims fall silent within a second."""
    monkeypatch.setattr(idempotency, "_SILENT_S", 0.6)
    monkeypatch.setattr(idempotency, "_BEAT_S", 0.1)
    monkeypatch.setattr(idempotency, "_LOOK_S", 0.05)


@pytest.mark.parametrize("damaged", ["{", "[]", None])
def test_damaged_is_none_and_away_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: str | None
) -> None:
    place = locate(tmp_path / "a.json")
    if damaged:
        place.write_bytes(damaged.encode())
    assert try_read_json(place) is None
    place.write_json({})
    monkeypatch.setattr(Location, "read_bytes", away)
    with pytest.raises(Fault):
        try_read_json(place)
    locate(tmp_path / ("0" * 32) / "job.json").write_json({})
    with pytest.raises(Fault):
        asyncio.run(Jobs(locate(tmp_path), {}).find("0" * 32, "ward"))


@pytest.mark.parametrize("error", [Fault("s3://secret is away"), UserError("s3://secret is not valid JSON")])
def test_a_store_that_is_away_is_no_defect(error: Exception) -> None:
    app = FastAPI()
    problems.install(app)

    @app.get("/")
    async def route() -> None:
        raise error

    answered = ask(app, "GET", "/")
    told = json.loads(answered.body)
    assert (answered.status, told["type"], answered.headers["retry-after"]) == (503, "urn:mskray:unavailable", "5")
    assert "secret" not in answered.body.decode()


def test_a_key_is_not_free_while_the_store_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(locate(tmp_path))
    answer(store)
    monkeypatch.setattr(Location, "read_bytes", away)
    with pytest.raises(Fault):
        answer(store)


def test_one_of_those_who_repeat_a_lost_request_goes_on(tmp_path: Path, soon: None) -> None:
    store, made = Store(locate(tmp_path)), 0
    stale(store)

    async def slow(_: str | None) -> Said:
        nonlocal made
        made += 1
        await asyncio.sleep(0.2)
        return Said(text="yes")

    async def together() -> list[Any]:
        repeats = (Once(store).answer(request(), "ward", FORM, slow) for _ in range(5))
        return await asyncio.gather(*repeats, return_exceptions=True)

    answers = asyncio.run(together())
    assert made == 1
    assert sorted(each.kind for each in answers if isinstance(each, Problem)) == ["key-in-use"] * 4
    assert isinstance(answer(store), Response), "it is remembered"


def test_who_took_over_and_died_is_taken_over(tmp_path: Path, soon: None) -> None:
    """Whether it died at work, or before it could say so in the claim's place."""
    store = Store(locate(tmp_path))
    place = stale(store)
    stem, right = place.uri.removesuffix(".json"), hashlib.sha256(b"somebody").hexdigest()[:32]
    locate(f"{stem}.takeover-{right}").write_json({**place.read_json(), "by": "another"})
    assert answer(store) == Said(text="yes")
    place.write_json({"fingerprint": place.read_json()["fingerprint"], "by": "a third", "beat": 4})
    assert answer(store) == Said(text="yes")


@pytest.mark.parametrize("jump_s", [-86_400.0, 86_400.0])
def test_clocks_that_jump_change_nothing(
    tmp_path: Path, soon: None, monkeypatch: pytest.MonkeyPatch, jump_s: float
) -> None:
    """Who is at work is left alone, and who is gone is followed, whatever the clocks of both machines say."""
    store, made = Store(locate(tmp_path)), 0
    now = time.time

    async def slow(_: str | None) -> Said:
        nonlocal made
        made += 1
        monkeypatch.setattr(time, "time", lambda: now() + jump_s)
        await asyncio.sleep(1.5)
        return Said(text="yes")

    async def repeated() -> list[Any]:
        async def later() -> Any:
            await asyncio.sleep(0.3)
            return await Once(store).answer(request(), "ward", FORM, slow)

        first = Once(store).answer(request(), "ward", FORM, slow)
        return await asyncio.gather(first, later(), return_exceptions=True)

    first, second = asyncio.run(repeated())
    assert first == Said(text="yes")
    assert (second.kind, made) == ("key-in-use", 1)
    other = Store(locate(tmp_path / "other"))
    stale(other)
    assert answer(other) == Said(text="yes")


def test_what_fails_beside_the_answer_does_not_hide_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(locate(tmp_path))

    async def refused(_: str | None) -> Said:
        raise Problem("no-files", "send one")

    monkeypatch.setattr(Location, "delete", away)
    with pytest.raises(Problem, match="send one"):
        answer(store, refused)
    monkeypatch.undo()
    store = Store(locate(tmp_path / "other"))
    monkeypatch.setattr(Location, "write_bytes", away)
    assert answer(store) == Said(text="yes")


def test_an_answer_that_is_too_large_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(locate(tmp_path))
    monkeypatch.setattr(idempotency, "JSON_BYTES", 50)
    assert answer(store) == answer(store) == Said(text="yes")
    assert not list(Path(store.keys.path).iterdir())


def test_on_disk_it_is_for_its_owner_alone(tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir(mode=0o755)
    store = Store(locate(tmp_path))
    store.keep("ward", {"a.png": b"1"})
    assert {each.name: stat.S_IMODE(each.stat().st_mode) for each in tmp_path.iterdir()} == dict.fromkeys(
        ("jobs", "keys", "results"), 0o700
    )


def test_no_empty_folder_stays(tmp_path: Path) -> None:
    store, before = Store(locate(tmp_path)), time.time() - KEPT.total_seconds() - 60
    store.keep("ward", {"a.png": b"1"})
    store.keep("other", {"a.png": b"1"})
    old = min(tmp_path.rglob("*.png"))
    os.utime(old, (before, before))
    store.forget()
    for folder in (old.parent, old.parent.parent):  # a day later
        os.utime(folder, (before, before))
    store.forget()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["jobs", "keys", "results"]
    assert not old.parent.exists()
    assert len(list((tmp_path / "results").rglob("*.png"))) == 1


@pytest.mark.parametrize("error", [Fault("away"), RuntimeError("a defect")])
def test_tidying_goes_on(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    monkeypatch.setattr("mskray.serving.api._TIDY_S", 0.01)
    asked_for = 0

    class Failing:
        def forget(self) -> int:
            nonlocal asked_for
            asked_for += 1
            raise error

    async def run() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(_tidy(Failing()), 0.3)  # type: ignore[arg-type]

    asyncio.run(run())
    assert asked_for > 1


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (["a-3", "a", "c/a"], ["a-3", "a", "a-4"]),
        (["a", "b/a", "a-2"], ["a", "a-2", "a-2-3"]),
        (["", "study-1", "Ä"], ["study-1", "study-1-2", "study-3"]),
    ],
)
def test_no_study_takes_the_name_of_another(folders: list[str], names: list[str]) -> None:
    assert distinct_names(folders) == names


def test_what_is_old_is_forgotten(tmp_path: Path) -> None:
    store, now = Store(locate(tmp_path)), time.time()
    links = [store.keep("ward", {"a.png": b"1"})["a.png"] for _ in range(2)]
    identifiers = [link.split("/")[3] for link in links]
    correction = tmp_path / "feedback" / "a.json"
    correction.parent.mkdir()
    correction.write_text("{}")
    (old,) = tmp_path.glob(f"results/*/{identifiers[0]}/a.png")
    for path in (old, correction):
        os.utime(path, (now, now - KEPT.total_seconds() - 60))
    assert store.forget() == 1
    assert [store.read("ward", each, "a.png") for each in identifiers] == [None, b"1"]
    assert correction.exists()


@pytest.mark.parametrize("name", ["../../../tokens.json", "a.json", ".png", "a/b.png", "a.png\0"])
def test_no_name_leads_elsewhere(tmp_path: Path, name: str) -> None:
    store = Store(locate(tmp_path))
    link = store.keep("ward", {"a.png": b"1"})["a.png"]
    assert store.read("ward", link.split("/")[3], name) is None
    assert store.read("ward", "..", "a.png") is None
    assert store.read("other", link.split("/")[3], "a.png") is None
