"""The application under Ray Serve, over real HTTP."""

import hashlib
import http.client
import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pyarrow.dataset as dataset
import pytest
import ray
import requests
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample
from serving_samples import (
    SECRET_NAME,
    SECRET_PATIENT,
    TOKEN,
    Files,
    dicom,
    encoded,
    multipart,
    radiograph,
)

from mskray.client import Client, RequestRefused
from mskray.ensemble import Voter
from mskray.errors import UserError
from mskray.families import Images
from mskray.imaging.decode import decode
from mskray.serving.run import Place, start, stop
from mskray.serving.settings import Limits, Offer
from mskray.serving.tokens import TOKEN_VARIABLE, add_token, remove_token

pytestmark = pytest.mark.slow

LIMITS = Limits(max_body=2_000_000, max_views=4)
AUTHORISED = {"Authorization": f"Bearer {TOKEN}"}
PNG = encoded(radiograph(1), "PNG")


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """The file of tokens and the folder of the audit."""
    folder = tmp_path_factory.mktemp("server")
    return str(folder / "tokens.json"), str(folder / "audit")


@pytest.fixture(scope="module")
def ward(rooms: tuple[str, str]) -> str:
    """A token that may predict and no more."""
    return add_token(rooms[0], "ward", ["predict"])


@pytest.fixture(scope="module")
def url(ray_cluster: str, ensemble_uri: str, rooms: tuple[str, str], ward: str) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(TOKEN_VARIABLE, TOKEN)
        yield start(Offer(ensemble=ensemble_uri), Place(port=0, tokens=rooms[0], audit=rooms[1]), LIMITS)
    stop()


@pytest.fixture(scope="module")
def document(url: str) -> dict[str, Any]:
    return requests.get(f"{url}/openapi.json", timeout=60).json()


def send(url: str, files: Files, **fields: str) -> requests.Response:
    return requests.post(f"{url}/v1/studies", files=files, data=fields, headers=AUTHORISED, timeout=60)


def views(*contents: bytes) -> Files:
    return [("views", (f"{SECRET_NAME}-{index}.png", content)) for index, content in enumerate(contents)]


def check_schema(value: Any, name: str, document: dict[str, Any]) -> None:
    schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
    jsonschema.Draft202012Validator(schema).validate(value)


@pytest.mark.parametrize(
    "contents",
    [
        [PNG],
        [encoded(radiograph(2), "JPEG")],
        [encoded(radiograph(3), "TIFF")],
        [dicom(radiograph(4, dtype=np.uint16))],
        [PNG, encoded(radiograph(5, 400, 300), "JPEG"), dicom(radiograph(6, 120, 200)), dicom(radiograph(7))],
    ],
    ids=["png", "jpeg", "tiff", "dicom", "mixed"],
)
def test_a_study_is_answered_as_the_voter_does(
    url: str, document: dict[str, Any], voter: Voter, contents: list[bytes]
) -> None:
    response = send(url, views(*contents), body_part="knee")
    answer = response.json()
    assert response.status_code == 200, answer
    check_schema(answer, "StudyAnswer", document)
    vote = voter(Images([decode(content).pixels for content in contents]))
    given = [[view["probabilities"][name] for name in voter.classes] for view in answer["views"]]
    np.testing.assert_allclose(given, vote.probabilities, atol=1e-5)
    for name, votes in vote.members.items():
        given = [[view["members"][name][label] for label in voter.classes] for view in answer["views"]]
        np.testing.assert_allclose(given, votes, atol=1e-5)
    mean = vote.probabilities.mean(axis=0)
    np.testing.assert_allclose([answer["study"]["probabilities"][name] for name in voter.classes], mean, atol=1e-5)
    assert answer["study"]["label"] == voter.classes[int(mean[1] >= 0.4)]
    assert (answer["study"]["threshold"], answer["study"]["views"]) == (0.4, len(contents))
    assert [view["format"] for view in answer["views"]] == [decode(content).format for content in contents]
    assert {view["body_part"] for view in answer["views"]} == {"KNEE"}
    assert answer["warnings"] == answer["unreadable"] == []
    assert answer["request_id"] == response.headers["X-Request-Id"]


def test_models_are_described(url: str, document: dict[str, Any], voter: Voter) -> None:
    models = requests.get(f"{url}/v1/models", headers=AUTHORISED, timeout=60).json()
    check_schema(models, "Models", document)
    assert models["ensemble"] | {"hash": ""} == {
        "name": "knees",
        "hash": "",
        "task": "abnormality",
        "classes": ["normal", "abnormal"],
        "threshold": 0.4,
        "calibration": {"temperature": 1.5, "fitted_on": "held-out"},
        "usual": None,
    }
    first = voter.bundles[0]
    card = models["members"][0].pop("card")
    assert card.startswith("# first")
    assert "Not a medical device" in card
    assert models["members"][0] == {
        "serves": "studies",
        "name": "first",
        "family": "classifier",
        "task": "abnormality",
        "classes": ["normal", "abnormal"],
        "body_parts": ["KNEE", "WRIST"],
        "metrics": {"epoch": 1, "val_auroc": 0.75},
        "hash": first.hash,
        "cohort_hash": "c" * 64,
        "weight": 0.75,
    }
    answer = send(url, views(PNG)).json()
    assert answer["model"]["hash"] == models["ensemble"]["hash"]
    assert answer["model"]["members"] == [
        {"name": member["name"], "hash": member["hash"]} for member in models["members"]
    ]


def test_a_part_that_no_member_knows_is_a_warning(url: str) -> None:
    (doubt,) = send(url, views(PNG), body_part="SKULL").json()["warnings"]
    assert (doubt["code"], doubt["views"]) == ("body-part-not-trained", [0])


FORM = "multipart/form-data; boundary=edge"
STUDY = "/v1/studies"
LARGE = multipart(views(b"\0" * (LIMITS.max_body + 1)))
ERRORS: list[tuple[str, str, str | None, bytes, int]] = [
    # method, path, content type, body, status
    ("GET", "/nowhere", None, b"", 404),
    ("GET", STUDY, None, b"", 405),
    ("DELETE", "/v1/models", None, b"", 405),
    ("POST", STUDY, None, b"", 415),
    ("POST", STUDY, "image/png", PNG, 415),
    ("POST", STUDY, FORM, b"", 422),
    ("POST", STUDY, FORM, b"nothing like a form", 400),
    ("POST", STUDY, *reversed(multipart([("other", ("a.png", PNG))])), 422),
    ("POST", STUDY, *reversed(multipart(views(b"%PDF-1.7 ..."))), 422),
    ("POST", STUDY, *reversed(multipart(views(PNG, PNG[:-40]))), 422),
    ("POST", STUDY, *reversed(multipart(views(*[PNG] * 5))), 422),
    ("POST", STUDY, *reversed(LARGE), 413),
]


@pytest.mark.parametrize(
    ("method", "path", "kind", "body", "status"),
    ERRORS,
    ids=[f"{number} {row[0]} {row[1]} {row[4]}" for number, row in enumerate(ERRORS)],  # a boundary is random
)
@pytest.mark.parametrize("chunked", [False, True], ids=["stated length", "chunked"])
def test_errors(
    url: str,
    document: dict[str, Any],
    method: str,
    path: str,
    kind: str | None,
    body: bytes,
    status: int,
    chunked: bool,
) -> None:
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)
    pieces = iter([body[start : start + 65_536] for start in range(0, len(body), 65_536)])
    headers = {**AUTHORISED, **({"Content-Type": kind} if kind else {})}
    connection.request(method, path, pieces if chunked else body, headers, encode_chunked=chunked)
    response = connection.getresponse()
    problem = json.loads(response.read())
    assert (response.status, response.headers["content-type"]) == (status, "application/problem+json"), problem
    check_schema(problem, "ProblemDetails", document)
    assert problem["request_id"] == response.headers["X-Request-Id"]
    connection.close()


@pytest.mark.parametrize("token", [None, "Bearer wrong", f"Bearer {TOKEN}x", f"Basic {TOKEN}"])
def test_the_token_is_asked_for(url: str, token: str | None) -> None:
    headers = {"Authorization": token} if token else {}
    for answered in (
        requests.get(f"{url}/v1/models", headers=headers, timeout=60),
        requests.post(f"{url}{STUDY}", files=views(PNG), headers=headers, timeout=60),
    ):
        assert (answered.status_code, answered.headers["content-type"]) == (401, "application/problem+json")
        assert answered.headers["www-authenticate"] == "Bearer"
    assert requests.get(f"{url}/healthz", headers=headers, timeout=60).json() == {"status": "ok"}


def test_an_endless_upload_is_cut_short(url: str) -> None:
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)
    connection.putrequest("POST", STUDY)
    for name, value in {**AUTHORISED, "Content-Type": FORM, "Transfer-Encoding": "chunked"}.items():
        connection.putheader(name, value)
    connection.endheaders()
    head = b'--edge\r\nContent-Disposition: form-data; name="views"; filename="a.png"\r\n\r\n'
    chunk = b"\0" * 65_536
    connection.send(b"%x\r\n%b\r\n" % (len(head), head))
    for _ in range(2 * LIMITS.max_body // len(chunk)):
        connection.send(b"%x\r\n%b\r\n" % (len(chunk), chunk))
    # The form has no end yet, and is answered all the same.
    response = connection.getresponse()
    assert response.status == 413
    connection.close()


def test_a_client_that_leaves_disturbs_nobody(url: str) -> None:
    for _ in range(3):
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)
        connection.putrequest("POST", STUDY)
        for name, value in {**AUTHORISED, "Content-Type": FORM, "Content-Length": "100000"}.items():
            connection.putheader(name, value)
        connection.endheaders(b"--edge\r\n")
        connection.close()
    assert send(url, views(PNG)).status_code == 200


def test_clients_at_the_same_time_get_their_own_answers(url: str, voter: Voter) -> None:
    images = [radiograph(100 + index, 64 + 8 * (index % 5), 64) for index in range(24)]
    expected = voter(Images(images)).probabilities[:, 1]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda image: send(url, views(encoded(image, "PNG"))).json(), images))
    given = [answer["study"]["probabilities"]["abnormal"] for answer in answers]
    np.testing.assert_allclose(given, expected, atol=1e-5)


def test_logs_name_requests_and_nobody(url: str) -> None:
    contents = [dicom(radiograph(1)), dicom(radiograph(2), frames=3), b"%PDF"]
    answered = send(url, views(*contents))
    assert answered.status_code == 422
    assert SECRET_NAME in answered.text, "only the client hears its file names"
    requests.get(f"{url}/patients/{SECRET_NAME}?name={SECRET_NAME}", timeout=60)
    session = Path(os.path.realpath(ray.nodes()[0]["ObjectStoreSocketName"])).parents[1]
    logs = {path: path.read_bytes() for path in (session / "logs").rglob("*") if path.is_file()}
    assert any(answered.headers["X-Request-Id"].encode() in content for content in logs.values())
    for path, content in logs.items():
        for secret in (SECRET_NAME, SECRET_PATIENT, SECRET_PATIENT.partition("^")[0], TOKEN):
            assert secret.encode() not in content, path


def test_a_token_does_what_its_scopes_say(url: str, rooms: tuple[str, str], ward: str) -> None:
    with Client(url, ward) as client:
        assert client.predict_study([PNG]).study.views == 1
        refused = requests.get(f"{url}/metrics", headers={"Authorization": f"Bearer {ward}"}, timeout=60)
        assert (refused.status_code, refused.json()["type"]) == (403, "urn:mskray:not-allowed")
        added = add_token(rooms[0], "another", ["predict"])
        within(30, lambda: Client(url, added).models())
        remove_token(rooms[0], "another")
        within(30, lambda: refusal(Client(url, added)).status == 401)


def refusal(client: Client) -> RequestRefused:
    with pytest.raises(RequestRefused) as raised:
        client.models()
    return raised.value


def within(seconds: float, true: Callable[[], Any]) -> None:
    """Wait until this is so."""
    deadline = time.monotonic() + seconds
    while True:
        with suppress(RequestRefused, pytest.fail.Exception):
            if true():
                return
        assert time.monotonic() < deadline
        time.sleep(0.5)


def test_metrics_are_those_of_all_replicas(url: str, voter: Voter) -> None:
    """Ray exports every some seconds."""
    send(url, views(PNG))

    def told() -> dict[str, list[Sample]]:
        answered = requests.get(f"{url}/metrics", headers=AUTHORISED, timeout=60)
        assert answered.headers["content-type"].startswith("text/plain")
        found: dict[str, list[Sample]] = {}
        for family in text_string_to_metric_families(answered.text):
            for sample in family.samples:
                found.setdefault(sample.name.removeprefix("ray_mskray_"), []).append(sample)
        return found

    within(60, lambda: {"request_seconds_count", "batch_images_count", "score_count"} <= set(told()))
    found = told()
    assert {"first", "second"} <= {each.labels["member"] for each in found["member_seconds_count"]}
    assert {each.labels["class"] for each in found["score_count"]} == set(voter.classes)
    routes = {(each.labels["route"], each.labels["status"]) for each in found["request_seconds_count"]}
    assert ("/v1/studies", "200") in routes
    assert not any(SECRET_NAME in route for route, _ in routes)


def test_the_audit_knows_who_asked(url: str, rooms: tuple[str, str], ward: str) -> None:
    body, kind = multipart(views(PNG))
    headers = {"Authorization": f"Bearer {ward}", "Content-Type": kind}
    answered = requests.post(f"{url}{STUDY}", data=body, headers=headers, timeout=60)

    def row() -> dict[str, Any]:
        rows = dataset.dataset(rooms[1], partitioning="hive").to_table().to_pylist()
        return {each["request_id"]: each for each in rows}.get(answered.headers["X-Request-Id"], {})

    within(30, row)
    found = row()
    assert (found["who"], found["route"], found["status"]) == ("ward", STUDY, 200)
    assert found["images"] == [hashlib.sha256(PNG).hexdigest()]
    assert found["model"] == answered.json()["model"]["hash"]


def test_serve_runs_once_on_a_cluster(url: str, ensemble_uri: str) -> None:
    with pytest.raises(UserError, match="runs on this cluster already"):
        start(Offer(ensemble=ensemble_uri), Place(port=0))
    assert requests.get(f"{url}/healthz", timeout=60).status_code == 200
