"""The OpenAPI document against the application, by Schemathesis: with data that it allows, and with data that it does
not, no answer is a defect, and each is one that the document tells of."""

import pytest
import schemathesis
from amount import COUNT, examples
from fastapi import FastAPI
from hypothesis import strategies as st
from room import count
from samples import pictures, volumes, zipped
from schemathesis.checks import (
    content_type_conformance,
    not_a_server_error,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from schemathesis.schemas import BaseSchema

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
pytestmark = pytest.mark.timeout(300 + COUNT)
FILES = [*pictures().values(), *(zipped(each) for each in volumes().values())]
schemathesis.openapi.format("binary", st.sampled_from(FILES) | st.binary(max_size=64))
HOST = {"host": "127.0.0.1"}
"""A server that knows no tokens answers no other."""
routes = schemathesis.pytest.from_fixture("described")


@pytest.fixture(scope="session")
def described(app: FastAPI) -> BaseSchema:
    return schemathesis.openapi.from_asgi("/openapi.json", app, headers=HOST)


@routes.parametrize()
@examples(small=8, share=0.01)
def test_routes(case: schemathesis.Case) -> None:
    response = case.call(headers=HOST)
    count(case.method, case.path, response.status_code)
    case.validate_response(response, checks=CHECKS)
