"""Who is kept out before anybody shows a token: other pages, endless bodies, bodies that arrive a byte at a time."""

import socket
import time

import pytest
import requests
from serving_samples import DIGEST, Local, ask, encoded, multipart, over_http, radiograph

from mskray.ensemble import Voter
from mskray.serving import forms
from mskray.serving.api import build_api
from mskray.serving.settings import Limits
from mskray.serving.tokens import Access

PNG = encoded(radiograph(1), "PNG")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"host": "127.0.0.1:8000"}, 200),
        ({"host": "localhost:8000", "origin": "http://localhost:8000"}, 200),
        ({"host": "[::1]:8000", "origin": "http://[::1]:8000"}, 200),
        ({"host": "localhost:8000", "origin": "https://elsewhere.example"}, 403),
        ({"host": "localhost:8000", "origin": "null"}, 403),
        ({"host": "elsewhere.example:8000", "origin": "http://elsewhere.example:8000"}, 403),
        ({"host": "[x"}, 403),
    ],
)
def test_an_open_server_answers_its_own_page_alone(voter: Voter, headers: dict[str, str], status: int) -> None:
    app = build_api(Local(voter), Limits(), Access())
    answered = ask(app, "GET", "/v1/models", headers=headers)
    assert answered.status == status
    if status == 403:
        assert b"urn:mskray:foreign-page" in answered.body
        assert answered.headers["content-type"] == "application/problem+json"


def test_with_tokens_a_proxy_may_call_it_what_it_likes(voter: Voter) -> None:
    app = build_api(Local(voter), Limits(), Access(DIGEST))
    assert ask(app, "GET", "/healthz", headers={"host": "msk.example", "origin": "https://pacs.example"}).status == 200


def test_nobody_without_a_token_is_listened_to_for_long(voter: Voter) -> None:
    app = build_api(Local(voter), Limits(max_body=64 << 20), Access(DIGEST))
    for method, path in (("PUT", "/v1/models"), ("POST", "/v1/studies")):
        chunks = [b"x" * (1 << 20)] * 60
        answered = ask(app, method, path, chunks, {"content-type": "multipart/form-data; boundary=edge"})
        assert (answered.status in (401, 413), answered.taken <= 2) == (True, True), (method, answered.taken)


@pytest.mark.parametrize("pause_s", [0.05, 60.0])
def test_a_slow_body_holds_its_place_no_longer(voter: Voter, monkeypatch: pytest.MonkeyPatch, pause_s: float) -> None:
    monkeypatch.setattr(forms, "_PATIENCE_S", 0.5)
    body, kind = multipart([("views", ("a.png", PNG))])
    with over_http(build_api(Local(voter), Limits(max_open=1, max_waiting=0), Access())) as url:
        host, _, port = url.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port)), timeout=30) as slow:
            lines = ["POST /v1/studies HTTP/1.1", f"host: {host}", f"content-type: {kind}"]
            head = "\r\n".join([*lines, f"content-length: {len(body)}", "", ""])
            slow.sendall(head.encode() + body[:10])
            left = iter(body[10:])
            slow.settimeout(pause_s)
            began, answer = time.monotonic(), b""
            while not answer and time.monotonic() - began < 20:
                try:
                    answer = slow.recv(65536)
                except TimeoutError:
                    slow.sendall(bytes([next(left)]))
        assert b" 408 " in answer.splitlines()[0]
        assert time.monotonic() - began < 10
        assert requests.post(f"{url}/v1/studies", files={"views": ("a.png", PNG)}, timeout=30).status_code == 200
