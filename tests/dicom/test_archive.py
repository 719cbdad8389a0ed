"""Servers that are not there, never answer or say nonsense: one line each, in the time that was given."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from mskray.dicom.archive import Archive
from mskray.errors import Fault, UserError


@pytest.fixture
def silent() -> Iterator[int]:
    """A port that takes connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(8)
        yield listener.getsockname()[1]


@pytest.fixture
def speaking() -> Iterator[tuple[int, list]]:
    """A server that gives the answers in a list, (status, body) each, the last one for ever."""
    answers: list[tuple[int, bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answers.pop(0) if len(answers) > 1 else answers[0]
            self.send_response(status)
            self.send_header("Content-Type", "application/dicom+json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_port, answers
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_server_that_never_answers_is_given_up_in_time(silent):
    begun = time.monotonic()
    with pytest.raises(Fault, match="did not answer in time when asked to list studies"):
        list(Archive(f"http://127.0.0.1:{silent}", timeout=(0.2, 0.2), attempts=2).studies())
    assert time.monotonic() - begun < 10


def test_a_server_that_is_not_there_is_a_fault():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(Fault, match="is not there or broke off: could not list studies"):
            list(Archive(url, attempts=2).studies())


def test_what_passes_is_asked_again(speaking):
    port, answers = speaking
    one = json.dumps([{"0020000D": {"vr": "UI", "Value": ["1.2.3"]}}]).encode()
    answers += [(503, b""), (200, one), (429, b""), (200, b"[]")]
    assert list(Archive(f"http://127.0.0.1:{port}").studies()) == [("1.2.3", None)]


@pytest.mark.parametrize(
    ("status", "body", "kind", "line"),
    [
        (503, b"", Fault, "answered 503 when asked to list studies"),
        (403, b"", UserError, "refuses to list studies"),
        (400, b"", UserError, "answered 400"),
        (200, b"<html>", UserError, "is no DICOMweb service"),
    ],
)
def test_what_a_server_says_is_one_line(speaking, status, body, kind, line):
    port, answers = speaking
    answers.append((status, body))
    with pytest.raises(kind, match=line):
        list(Archive(f"http://127.0.0.1:{port}", attempts=2).studies())


def test_names_that_are_no_uids_are_passed_over(speaking):
    port, answers = speaking
    items = [{"0020000D": {"vr": "UI", "Value": [name]}} for name in ("../../etc", "", "1.2", "1..2")]
    answers.extend([(200, json.dumps([*items, {}]).encode()), (200, b"[]")])
    assert list(Archive(f"http://127.0.0.1:{port}").studies()) == [("1.2", None)]


@pytest.mark.parametrize(
    ("url", "line"),
    [
        ("ftp://host/x", "is no DICOMweb server"),
        ("host:8042", "is no DICOMweb server"),
        ("", "is no DICOMweb server"),
        ("http://u:p@host/", "would end up in logs"),
    ],
)
def test_a_wrong_url_is_one_line(url, line):
    with pytest.raises(UserError, match=line):
        Archive(url)
