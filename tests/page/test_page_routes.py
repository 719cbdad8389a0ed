"""The page's files over HTTP: what is given, with which headers, and what is not."""

from pathlib import Path
from typing import Any

import pytest
import requests
from fastapi import FastAPI

from mskray.serving import problems
from mskray.serving.routes.page import page_router


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("built") / "page"
    place.mkdir()
    (place / "index.html").write_text("<!doctype html><title>page</title>")
    (place / "page.js").write_text("let page;")
    (place / "licences.txt").write_text("MIT")
    (place / "notes.exe").write_text("no")
    (place.parent / "secret.txt").write_text("secret")
    return place


def asked(folder: Path, path: str, headers: dict[str, str] | None = None) -> Any:
    from serving_samples import ask

    app = FastAPI(redirect_slashes=False)
    problems.install(app)
    app.include_router(page_router(folder))
    return ask(app, "GET", path, headers=headers)


@pytest.mark.parametrize(
    ("path", "kind", "start"),
    [
        ("/", "text/html; charset=utf-8", b"<!doctype"),
        ("/page/page.js", "text/javascript; charset=utf-8", b"let"),
        ("/page/licences.txt", "text/plain; charset=utf-8", b"MIT"),
    ],
)
def test_a_file_is_given_with_its_type_and_kept_to_itself(folder: Path, path: str, kind: str, start: bytes) -> None:
    answered = asked(folder, path)
    assert (answered.status, answered.headers["content-type"]) == (200, kind)
    assert answered.body.startswith(start)
    assert answered.headers["content-security-policy"].startswith("default-src 'self';")
    assert "unsafe" not in answered.headers["content-security-policy"]
    expected = {"x-content-type-options": "nosniff", "referrer-policy": "no-referrer", "x-frame-options": "DENY"}
    assert {name: answered.headers[name] for name in expected} == expected
    again = asked(folder, path, {"If-None-Match": answered.headers["etag"]})
    assert (again.status, again.body) == (304, b"")


@pytest.mark.parametrize(
    "path",
    [
        "/page/",
        "/page/nothing.js",
        "/page/notes.exe",
        "/page/../secret.txt",
        "/page/..%2fsecret.txt",
        "/page/%2e%2e/secret.txt",
        "/page/a/page.js",
    ],
)
def test_nothing_else_is_given(folder: Path, path: str) -> None:
    answered = asked(folder, path)
    assert answered.status == 404
    assert answered.headers["content-type"] == problems.MEDIA_TYPE
    assert b"secret" not in answered.body


def test_a_page_that_is_not_built_says_how_and_is_there_once_it_is(tmp_path: Path) -> None:
    answered = asked(tmp_path, "/")
    assert (answered.status, b"make page" in answered.body) == (404, True)
    (tmp_path / "index.html").write_text("built")
    assert asked(tmp_path, "/").body == b"built"


def test_the_server_gives_the_page_to_whom_has_no_token(url: str, built: Path) -> None:
    answered = requests.get(url + "/", timeout=30)
    assert answered.text == (built / "index.html").read_text(encoding="utf-8")
    licences = requests.get(url + "/page/licences.txt", timeout=30).text
    assert all(name in licences for name in ("preact", "d3-zoom", "marked"))
