"""The page's TypeScript types have the fields of the server's schemas, no more and no less."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from mskray.explain.methods import METHODS
from mskray.imaging.spine import SPINE_TASKS

SOURCE = Path(__file__).parents[2] / "serve/page/src"
_INTERFACE = re.compile(r"^export interface (\w+) \{\n(.*?)^\}", re.MULTILINE | re.DOTALL)
_FIELD = re.compile(r"^  (\w+)\??: ", re.MULTILINE)


@pytest.fixture(scope="module")
def schemas(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    sys.path.insert(0, str(Path(__file__).parents[1] / "serving"))
    from reading_room import studies_alone

    from mskray.serving.settings import Limits
    from mskray.serving.tokens import Access

    app = studies_alone(tmp_path_factory.mktemp("contract"), Limits(), Access())
    found: dict[str, Any] = app.openapi()["components"]["schemas"]
    return found


def interfaces() -> dict[str, set[str]]:
    text = (SOURCE / "contract.ts").read_text(encoding="utf-8")
    return {name: set(_FIELD.findall(body)) for name, body in _INTERFACE.findall(text)}


@pytest.mark.parametrize("name", sorted(interfaces()))
def test_an_interface_has_the_fields_of_its_schema(name: str, schemas: dict[str, Any]) -> None:
    assert interfaces()[name] == set(schemas[name]["properties"])


def test_what_answers_hold_is_all_there(schemas: dict[str, Any]) -> None:
    """Each schema that an answer to the page can hold has its interface."""
    wanted, seen = {"Models", "StudyAnswer", "PairAnswer", "Job", "Feedback", "ProblemDetails"}, set()
    while wanted:
        name = wanted.pop()
        seen.add(name)
        wanted |= set(re.findall(r"'#/components/schemas/(\w+)'", str(schemas[name]))) - seen
    assert seen <= set(interfaces())


@pytest.mark.parametrize(
    ("path", "names"),
    [("modes/studies.tsx", METHODS), ("panels/grades.tsx", SPINE_TASKS)],
    ids=["methods", "tasks of discs"],
)
def test_what_the_page_knows_by_name_exists(path: str, names: dict[str, Any]) -> None:
    text = (SOURCE / path).read_text(encoding="utf-8")
    assert [name for name in names if not re.search(rf'"{name}"|\b{name}: "', text)] == []
