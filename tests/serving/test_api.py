"""The routes without Ray: errors as a table, limits while the body arrives, the OpenAPI document."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import jsonschema
import pytest
from fastapi import FastAPI
from serving_samples import DIGEST, SECRET_NAME, TOKEN, Answered, Local, ask, encoded, multipart, radiograph

from mskray.ensemble import Voter
from mskray.serving.api import build_api
from mskray.serving.schemas.models import Models
from mskray.serving.schemas.studies import DecodedView, StudyVote
from mskray.serving.settings import Limits
from mskray.serving.tokens import Access

LIMITS = Limits(max_body=200_000, max_views=3, max_pixels=100_000)
PNG = encoded(radiograph(1), "PNG")
FORM, END = "multipart/form-data; boundary=edge", b"--edge--\r\n"


class Failing:
    """An ensemble that breaks, with a name in what it says."""

    served = ("studies",)

    async def models(self) -> Models:
        raise RuntimeError(SECRET_NAME)

    async def vote(self, views: list[DecodedView], explain: Sequence[str] = ()) -> StudyVote:
        raise RuntimeError(SECRET_NAME)

    async def metrics(self) -> bytes:
        raise RuntimeError(SECRET_NAME)


@pytest.fixture(scope="module")
def app(voter: Voter) -> FastAPI:
    return build_api(Local(voter), LIMITS, Access())


@pytest.fixture(scope="module")
def document(app: FastAPI) -> dict[str, Any]:
    return json.loads(ask(app, "GET", "/openapi.json").body)


def part(disposition: str, content: bytes = b"") -> bytes:
    return f"--edge\r\nContent-Disposition: form-data; {disposition}\r\n\r\n".encode() + content + b"\r\n"


def views(*contents: bytes) -> bytes:
    return b"".join(part(f'name="views"; filename="{SECRET_NAME}.png"', each) for each in contents) + b"--edge--\r\n"


STUDY = "/v1/studies"
ERRORS: list[tuple[str, str, dict[str, str], bytes, int, str]] = [
    # method, path, headers, body, status, kind
    ("GET", "/nowhere", {}, b"", 404, "about:blank"),
    ("POST", STUDY + "/", {}, b"", 404, "about:blank"),
    ("GET", STUDY, {}, b"", 405, "about:blank"),
    ("DELETE", "/v1/models", {}, b"", 405, "about:blank"),
    ("POST", STUDY, {}, b"", 415, "not-a-form"),
    ("POST", STUDY, {"content-type": "application/json"}, b"{}", 415, "not-a-form"),
    ("POST", STUDY, {"content-type": "image/png"}, PNG, 415, "not-a-form"),
    ("POST", STUDY, {"content-type": "multipart/form-data"}, views(PNG), 400, "malformed-form"),
    ("POST", STUDY, {"content-type": FORM}, b"no form at all", 400, "malformed-form"),
    ("POST", STUDY, {"content-type": FORM}, part("filename=a", PNG) + b"--edge--\r\n", 400, "malformed-form"),
    ("POST", STUDY, {"content-type": FORM}, b"", 422, "no-files"),
    ("POST", STUDY, {"content-type": FORM}, b"--edge--\r\n", 422, "no-files"),
    ("POST", STUDY, {"content-type": FORM}, part('name="body_part"', b"KNEE") + b"--edge--\r\n", 422, "no-files"),
    ("POST", STUDY, {"content-type": FORM}, part('name="views"', b"no file") + b"--edge--\r\n", 422, "invalid-value"),
    ("POST", STUDY, {"content-type": FORM}, part('name="patient"', b"x") + views(PNG), 422, "invalid-value"),
    ("POST", STUDY, {"content-type": FORM}, part('name="body_part"', b"<b>") + views(PNG), 422, "invalid-value"),
    ("POST", STUDY, {"content-type": FORM}, part('name="body_part"', b"A") * 2 + views(PNG), 422, "invalid-value"),
    ("POST", STUDY + "?partial=perhaps", {"content-type": FORM}, views(PNG), 422, "invalid-value"),
    ("POST", STUDY, {"content-type": FORM}, views(PNG, PNG, PNG, PNG), 422, "too-many-files"),
    ("POST", STUDY, {"content-type": FORM}, views(b"%PDF-1.7"), 422, "unreadable-views"),
    ("POST", STUDY, {"content-type": FORM}, views(PNG, PNG[:-40]), 422, "unreadable-views"),
    ("POST", STUDY + "?partial=true", {"content-type": FORM}, views(b"", b"GIF89a"), 422, "unreadable-views"),
    ("POST", STUDY, {"content-type": FORM}, views(encoded(radiograph(1, 400, 400), "PNG")), 422, "unreadable-views"),
    ("POST", STUDY, {"content-type": FORM}, views(*[encoded(radiograph(1, 200, 200), "PNG")] * 3), 413, "too-large"),
    ("POST", STUDY, {"content-type": FORM}, views(b"\0" * 200_000), 413, "too-large"),
    ("POST", STUDY, {"content-type": FORM, "content-length": "200001"}, views(PNG), 413, "too-large"),
    # A file without a name that is left of it.
    ("POST", STUDY, {"content-type": FORM}, part('name="views"; filename="..."', b"x") + END, 422, "unreadable-views"),
    ("PUT", "/v1/models", {"content-type": "application/json"}, b"\xff", 400, "malformed-json"),
    ("PUT", "/v1/models", {"content-type": "application/json"}, b"[" * 100_000, 400, "malformed-json"),
    ("PUT", "/v1/models", {"content-type": "application/json"}, b" " * 200_001, 413, "too-large"),
    ("PUT", "/v1/models", {"content-type": "text/plain"}, b" " * 200_001, 413, "too-large"),
]


@pytest.mark.parametrize(("method", "path", "headers", "body", "status", "kind"), ERRORS)
def test_errors(
    app: FastAPI,
    document: dict[str, Any],
    method: str,
    path: str,
    headers: dict[str, str],
    body: bytes,
    status: int,
    kind: str,
) -> None:
    answered = ask(app, method, path, [body], {**headers, "x-request-id": "abc-1"})
    problem = check_problem(answered, status, document)
    assert problem["type"].removeprefix("urn:mskray:") == kind
    assert problem["request_id"] == "abc-1"
    if status in (404, 405):
        return
    described = document["paths"][path.partition("?")[0]][method.lower()]["responses"][str(status)]
    assert f"urn:mskray:{kind}" in [
        each["value"]["type"] for each in next(iter(described["content"].values()))["examples"].values()
    ]


def check_problem(answered: Answered, status: int, document: dict[str, Any]) -> dict[str, Any]:
    problem = json.loads(answered.body)
    assert (answered.status, answered.headers["content-type"]) == (status, "application/problem+json"), problem
    check_schema(problem, "ProblemDetails", document)
    assert problem["status"] == status
    assert problem["detail"]
    return problem


def check_schema(value: Any, name: str, document: dict[str, Any]) -> None:
    schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
    jsonschema.Draft202012Validator(schema).validate(value)


def test_allowed_methods_are_named(app: FastAPI) -> None:
    assert ask(app, "DELETE", STUDY).headers["allow"] == "POST"


def test_unreadable_views_are_listed(app: FastAPI, document: dict[str, Any]) -> None:
    body, kind = multipart(
        [("views", ("../a b.png", PNG)), ("views", ("b.png", b"%PDF-1.7")), ("views", ("c.dcm", b""))]
    )
    problem = check_problem(ask(app, "POST", STUDY, [body], {"content-type": kind}), 422, document)
    assert "2 of 3" in problem["detail"]
    assert [(view["index"], view["name"]) for view in problem["views"]] == [(1, "b.png"), (2, "c.dcm")]
    assert "PDF" in problem["views"][0]["reason"]


def test_partial_answers_the_others(app: FastAPI, document: dict[str, Any]) -> None:
    body, kind = multipart([("views", ("a.png", b"%PDF-1.7")), ("views", ("../b c.png", PNG))])
    answered = ask(app, "POST", STUDY + "?partial=true", [body], {"content-type": kind})
    answer = json.loads(answered.body)
    check_schema(answer, "StudyAnswer", document)
    assert answered.status == 200
    assert [view["index"] for view in answer["unreadable"]] == [0]
    assert [(view["index"], view["name"]) for view in answer["views"]] == [(1, "b_c.png")]
    assert answer["study"]["views"] == 1


@pytest.mark.parametrize("chunk", [1, 1_000, 65_536])
def test_an_endless_body_is_refused_while_it_arrives(app: FastAPI, document: dict[str, Any], chunk: int) -> None:
    def endless() -> Iterator[bytes]:
        yield part(f'name="views"; filename="{SECRET_NAME}"')[:-2]
        while True:
            yield b"\0" * chunk

    answered = ask(app, "POST", STUDY, endless(), {"content-type": FORM})
    check_problem(answered, 413, document)
    assert answered.taken <= LIMITS.max_body // chunk + 2


@pytest.mark.parametrize("length", [str(LIMITS.max_body + 1), "9" * 5000])
def test_a_stated_length_is_refused_before_the_body(app: FastAPI, length: str) -> None:
    answered = ask(app, "POST", STUDY, [b"x"], {"content-type": FORM, "content-length": length})
    assert (answered.status, answered.taken) == (413, 0)


@pytest.mark.parametrize(
    ("method", "path", "token", "status"),
    [
        ("GET", "/v1/models", None, 401),
        ("GET", "/v1/models", "Bearer " + TOKEN[:-1], 401),
        ("GET", "/v1/models", "Bearer", 401),
        ("GET", "/v1/models", "Basic " + TOKEN, 401),
        ("GET", "/v1/models", "Bearer " + DIGEST, 401),
        ("GET", "/v1/models", "Bearer " + TOKEN, 200),
        ("POST", STUDY, None, 401),
        ("POST", STUDY, "Bearer " + TOKEN, 415),
        ("GET", "/metrics", None, 401),
        ("GET", "/metrics", "Bearer " + TOKEN, 200),
        ("GET", "/healthz", None, 200),
        ("GET", "/readyz", None, 200),
        ("GET", "/openapi.json", None, 200),
    ],
)
def test_token(voter: Voter, document: dict[str, Any], method: str, path: str, token: str | None, status: int) -> None:
    guarded = build_api(Local(voter), LIMITS, Access(DIGEST))
    answered = ask(guarded, method, path, [b"x" * 1000], {"authorization": token} if token else {})
    assert answered.status == status
    if status == 401:
        check_problem(answered, 401, document)
        assert answered.headers["www-authenticate"] == "Bearer"
        assert answered.taken == 0, "a body was read for a client without the token"


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/v1/models"), ("POST", STUDY), ("GET", "/readyz"), ("GET", "/metrics")]
)
def test_a_defect_of_ours_tells_nothing(
    method: str, path: str, document: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    broken = build_api(Failing(), LIMITS, Access())
    answered = ask(broken, method, path, [views(PNG)], {"content-type": FORM, "x-request-id": "abc-2"})
    problem = check_problem(answered, 500, document)
    assert problem["request_id"] == "abc-2"
    assert SECRET_NAME not in answered.body.decode() + str(answered.headers)
    assert "RuntimeError" in caplog.text
    assert SECRET_NAME not in caplog.text


@pytest.mark.parametrize(("given", "echoed"), [("abc-1", "abc-1"), ("a b\tc<d>", "a_b_c_d_"), ("x" * 500, "x" * 128)])
def test_request_ids_are_made_safe(app: FastAPI, given: str, echoed: str) -> None:
    answered = ask(app, "GET", "/nowhere", headers={"x-request-id": given})
    assert json.loads(answered.body)["request_id"] == echoed


def test_a_request_without_an_id_gets_one(app: FastAPI) -> None:
    first, second = (ask(app, "GET", "/nowhere").headers["x-request-id"] for _ in range(2))
    assert len(first) == 32
    assert first != second


KINDS = {"/metrics": "text/plain", "/v1/pixels": "application/x-npy", "/v1/results/{id}/{name}": "image/png"}


def test_openapi_is_complete(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1")
    below = (
        "batches",
        "feedback",
        "jobs/{id}",
        "models",
        "pairs",
        "pixels",
        "results/{id}/{name}",
        "spines",
        "studies",
    )
    assert set(document["paths"]) == {*(f"/v1/{name}" for name in below), "/healthz", "/readyz", "/metrics"}
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert operation["summary"]
            assert operation["description"]
            assert bool(operation.get("security")) == (path.startswith("/v1/") or path == "/metrics")
            (success,) = (each for each in operation["responses"] if each.startswith("2"))
            assert KINDS.get(path, "application/json") in operation["responses"][success]["content"]
            for status, response in operation["responses"].items():
                assert response["description"]
                if status != success:
                    (media,) = response["content"]
                    assert media == "application/problem+json"
                    for example in response["content"][media]["examples"].values():
                        check_schema(example["value"], "ProblemDetails", document)
    for name, schema in document["components"]["schemas"].items():
        jsonschema.Draft202012Validator.check_schema(schema)
        assert schema["description"], name
        for key, value in schema["properties"].items():
            assert value.get("description") or "$ref" in value, f"{name}.{key}"
            for example in value.get("examples", []):
                check_schema(
                    {key: example},
                    name,
                    {
                        "components": {
                            "schemas": {**document["components"]["schemas"], name: {**schema, "required": []}}
                        }
                    },
                )
    for reference in references(document):
        node: Any = document
        for step in reference.removeprefix("#/").split("/"):
            node = node[step]


def references(node: Any) -> Iterator[str]:
    """Yield every $ref below a node."""
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        node = list(node.values())
    if isinstance(node, list):
        for each in node:
            yield from references(each)
