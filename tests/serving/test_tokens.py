"""Who may ask for what: the file of tokens, its exchange while a server runs, and what is told of secrets."""

import asyncio
import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from serving_samples import DIGEST, TOKEN

from mskray.cli import main
from mskray.errors import UserError
from mskray.serving import tokens
from mskray.serving.problems import Problem
from mskray.serving.tokens import (
    ENVIRONMENT,
    NOBODY,
    TOKEN_VARIABLE,
    Access,
    Door,
    Scope,
    access,
    add_token,
    read_tokens,
    remove_token,
    token_digest,
)


@pytest.fixture
def file(tmp_path: Path) -> str:
    return str(tmp_path / "tokens.json")


def admitted(door: Door, token: str | None, scope: Scope = "predict") -> str | int:
    """Who came in, or the status of the refusal."""
    try:
        return asyncio.run(door.admit(token, scope))
    except Problem as problem:
        return problem.status_code


@pytest.mark.parametrize(
    ("token", "digest", "expected"),
    [
        (None, None, NOBODY),
        ("anything", None, NOBODY),
        (TOKEN, DIGEST, ENVIRONMENT),
        (None, DIGEST, 401),
        ("", DIGEST, 401),
        (TOKEN + "x", DIGEST, 401),
        (DIGEST, DIGEST, 401),  # the digest that Ray keeps opens nothing
        ("schlüssel", DIGEST, 401),
    ],
)
def test_the_token_of_the_environment_opens_everything(
    token: str | None, digest: str | None, expected: str | int
) -> None:
    assert admitted(Door(Access(digest)), token, "admin") == expected


@pytest.mark.parametrize(
    ("scopes", "asked", "expected"),
    [
        (["predict"], "predict", "ward"),
        (["predict"], "feedback", 403),
        (["predict"], "admin", 403),
        (["feedback", "predict"], "feedback", "ward"),
        (["admin"], "predict", "ward"),
    ],
)
def test_scopes(file: str, scopes: list[str], asked: Scope, expected: str | int) -> None:
    secret = add_token(file, "ward", scopes)
    door = Door(Access(tokens=file))
    assert admitted(door, secret, asked) == expected
    assert admitted(door, secret[:-1], asked) == 401
    assert admitted(door, None, asked) == 401


def test_tokens_are_exchanged_while_the_server_runs(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "_AGAIN_S", 0.0)
    old = add_token(file, "ward", ["predict"])
    door = Door(Access(tokens=file))
    new = add_token(file, "ward", ["predict"])
    assert [admitted(door, each) for each in (old, new)] == ["ward", "ward"], "what is the ward's stays its own"
    with pytest.raises(UserError, match="has two tokens ward already"):
        add_token(file, "ward", ["predict"])
    remove_token(file, "ward", older=True)
    assert [admitted(door, each) for each in (old, new)] == [401, "ward"]
    remove_token(file, "ward")
    assert [admitted(door, each) for each in (old, new)] == [401, 401]


def test_a_file_that_cannot_be_read_locks_nobody_out(
    file: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tokens, "_AGAIN_S", 0.0)
    secret = add_token(file, "ward", ["predict"])
    door = Door(Access(tokens=file))
    assert admitted(door, secret) == "ward"
    Path(file).write_text("{")
    assert admitted(door, secret) == "ward"
    assert "tokens cannot be read" in caplog.text
    assert secret not in caplog.text


def test_a_token_expires(file: str) -> None:
    secret = add_token(file, "ward", ["predict"], days=1)
    (token,) = read_tokens(file)
    assert token.expires is not None
    assert timedelta(hours=23) < token.expires - datetime.now(UTC) <= timedelta(days=1)
    content = json.loads(Path(file).read_text())
    content["tokens"][0]["expires"] = (datetime.now(UTC) - timedelta(seconds=1)).isoformat()
    Path(file).write_text(json.dumps(content))
    assert admitted(Door(Access(tokens=file)), secret) == 401


def test_the_file_keeps_no_secret(file: str) -> None:
    secrets = [add_token(file, name, ["predict"]) for name in ("one", "two")]
    assert len({*secrets}) == 2
    text = Path(file).read_text()
    assert all(len(secret) >= 43 and secret not in text for secret in secrets)


@pytest.mark.parametrize(
    ("name", "scopes", "said"),
    [
        ("environment", ["predict"], "the audit calls others so"),
        ("a b", ["predict"], "letters, digits"),
        ("", ["predict"], "letters, digits"),
        ("other", ["everything"], "scope everything: there are predict, feedback, admin"),
    ],
)
def test_what_cannot_be_added(file: str, name: str, scopes: list[str], said: str) -> None:
    add_token(file, "ward", ["predict"])
    before = Path(file).read_bytes()
    with pytest.raises(UserError, match=said):
        add_token(file, name, scopes)
    assert Path(file).read_bytes() == before


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "mskray tokens add"),
        ("[", "not valid JSON"),
        ("{}", "no schema_version"),
        ('{"schema_version": 99, "tokens": []}', "schema version 99"),
        ('{"schema_version": 1}', "is damaged"),
        ('{"schema_version": 1, "tokens": [{"name": "ward", "digest": "secret"}]}', "is damaged"),
    ],
)
def test_a_file_that_is_none_of_tokens_is_refused(file: str, content: str | None, said: str) -> None:
    if content is not None:
        Path(file).write_text(content)
    with pytest.raises(UserError, match=re.escape(said)):
        access(file)


def test_the_command_line(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["tokens", *words])
        return ended.value.code, *capsys.readouterr()  # type: ignore[return-value]

    code, secret, _ = run("add", file, "ward-3", "--scope", "predict", "--scope", "feedback", "--days", "90")
    assert code == 0
    assert admitted(Door(Access(tokens=file)), secret.strip(), "feedback") == "ward-3"
    code, listed, _ = run("list", file)
    assert "ward-3" in listed
    assert "predict, feedback" in listed
    assert secret.strip() not in listed
    assert run("remove", file, "ward-4")[0] == 2
    assert run("remove", file, "ward-3")[:2] == (0, "ward-3 removed\n")
    assert read_tokens(file) == ()


@pytest.mark.parametrize(
    ("token", "digest"),
    [
        (None, None),
        ("", None),
        (TOKEN, DIGEST),
        ("0123456789abcde", UserError),  # one short of sixteen
        ("0123456789 abcdef", UserError),
        ("0123456789äbcdef", UserError),
        ("0123456789abcdef\n", UserError),
    ],
)
def test_token_of_the_environment(
    token: str | None, digest: str | type[UserError] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    if token is not None:
        monkeypatch.setenv(TOKEN_VARIABLE, token)
    if digest is UserError:
        with pytest.raises(UserError, match=TOKEN_VARIABLE) as raised:
            token_digest()
        assert token not in str(raised.value)
    else:
        assert token_digest() == digest
