"""The audit: what stands in it, that files are never written again, and a store that is away."""

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pytest
from serving_samples import SECRET_NAME, Answered, Local, asked, encoded, multipart, radiograph

from mskray.ensemble import Voter
from mskray.errors import UserError
from mskray.serving import audit
from mskray.serving.api import build_api
from mskray.serving.audit import Audit, Row
from mskray.serving.forms import Upload
from mskray.serving.settings import Limits
from mskray.serving.tokens import Access, add_token
from mskray.storage import Location, locate

PNG = encoded(radiograph(1), "PNG")
ROW = Row(datetime.now(UTC), "id-1", "ward", "POST", "/v1/studies", 200, 0.5, ("a" * 64,), "b" * 64)


def rows(folder: Path) -> list[dict[str, Any]]:
    table = ds.dataset(str(folder), partitioning="hive").to_table().sort_by("time")
    return [{key: value for key, value in row.items() if key != "date"} for row in table.to_pylist()]


def test_nobody_hashes_what_nobody_asks_for(voter: Voter, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked_for(upload: Upload) -> str:
        raise AssertionError("a file was hashed")

    monkeypatch.setattr(Upload, "digest", property(asked_for))
    body, kind = multipart([("views", ("a.png", PNG))])

    app = build_api(Local(voter), Limits(), Access())
    answer = asyncio.run(asked(app, "POST", "/v1/studies", [body], {"content-type": kind}))
    assert answer.status == 200


def test_who_asked_what_and_what_answered(voter: Voter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "_EVERY_S", 0.01)
    secret, local = add_token(str(tmp_path / "tokens.json"), "ward", ["predict"]), Local(voter)
    body, kind = multipart([("views", (f"{SECRET_NAME}.png", PNG)), ("views", ("b.png", b"%PDF"))])
    headers = {"content-type": kind, "authorization": f"Bearer {secret}"}

    async def session() -> list[Answered]:
        app = build_api(local, Limits(), Access(tokens=str(tmp_path / "tokens.json")), str(tmp_path / "audit"))
        answers = [
            await asked(app, "POST", "/v1/studies?partial=true", [body], {**headers, "x-request-id": "id-1"}),
            await asked(app, "POST", "/v1/studies", [body], headers),
            await asked(app, "GET", "/v1/models"),
            await asked(app, "GET", f"/v1/{SECRET_NAME}", headers=headers),
            await asked(app, "GET", "/healthz"),
        ]
        await asyncio.sleep(1.0)
        return answers

    answers = asyncio.run(session())
    assert [answer.status for answer in answers] == [200, 422, 401, 404, 200]
    found = rows(tmp_path / "audit")
    assert [(row["who"], row["method"], row["route"], row["status"]) for row in found] == [
        ("ward", "POST", "/v1/studies", 200),
        ("ward", "POST", "/v1/studies", 422),
        ("", "GET", "/v1/models", 401),
        ("", "GET", "none", 404),
    ]
    digests = [sha256(content).hexdigest() for content in (PNG, b"%PDF")]
    assert [row["images"] for row in found] == [digests, digests, [], []]
    assert found[0]["model"] == json.loads(answers[0].body)["model"]["hash"]
    assert found[0]["request_id"] == "id-1"
    ids = [answer.headers.get("x-request-id", "id-1") for answer in answers]
    assert [row["request_id"] for row in found] == ids[:4]
    assert all(0 < row["seconds"] < 60 for row in found)
    written = b"".join(file.read_bytes() for file in (tmp_path / "audit").rglob("*.parquet"))
    assert SECRET_NAME.encode() not in written
    assert secret.encode() not in written


def test_a_file_is_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "_EVERY_S", 0.01)

    async def three() -> list[dict[Path, bytes]]:
        log, states = Audit(locate(tmp_path)), []
        for number in range(3):
            log.add(replace(ROW, request_id=str(number)))
            await asyncio.sleep(0.3)
            states.append({file: file.read_bytes() for file in tmp_path.rglob("*.parquet")})
        return states

    states = asyncio.run(three())
    assert [len(state) for state in states] == [1, 2, 3]
    for before, after in pairwise(states):
        assert before.items() <= after.items()


def test_what_waits_is_written_at_the_end(tmp_path: Path) -> None:
    async def one() -> None:
        log = Audit(locate(tmp_path))
        log.add(ROW)
        await asyncio.sleep(0)
        await log.close()

    asyncio.run(one())
    assert [row["request_id"] for row in rows(tmp_path)] == ["id-1"]


def test_rows_wait_for_a_store_that_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(audit, "_EVERY_S", 0.01)
    monkeypatch.setattr(audit, "_MOST_WAITING", 2)
    write, away = Location.write_bytes, [True]

    def sometimes(place: Location, data: bytes) -> None:
        if away[0]:
            raise UserError("the store is away")
        write(place, data)

    monkeypatch.setattr(Location, "write_bytes", sometimes)

    async def session() -> None:
        log = Audit(locate(tmp_path))
        for number in range(3):  # one more than may wait
            log.add(replace(ROW, request_id=f"id-{number}"))
        await asyncio.sleep(0.2)
        away[0] = False
        await asyncio.sleep(0.3)

    asyncio.run(session())
    assert sorted(row["request_id"] for row in rows(tmp_path)) == ["id-0", "id-1"]
    assert "request id-2 is not in it" in caplog.text
    assert "2 rows wait" in caplog.text
