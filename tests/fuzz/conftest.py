"""The application that is fuzzed, and what its answers came to."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

_HERE = Path(__file__).parent
sys.path[:0] = [str(_HERE.parent / name) for name in ("serving", "imaging")]

if TYPE_CHECKING:
    from fastapi import FastAPI
    from room import Room

# Imports stand inside the fixtures: Ray reads its authentication mode when it is imported, and `tests/conftest.py`
# sets it only after pytest has imported this file.


@pytest.fixture(scope="session")
def app(tmp_path_factory: pytest.TempPathFactory) -> "FastAPI":
    from room import build_app

    return build_app(tmp_path_factory.mktemp("fuzz"))


@pytest.fixture(scope="session")
def room(app: "FastAPI") -> "Iterator[Room]":
    from room import Room

    made = Room(app)
    yield made
    made.close()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Answers by route and class of status, where a count was asked for."""
    room, amount = sys.modules.get("room"), sys.modules.get("amount")
    if room is not None and amount is not None and amount.COUNT:
        terminalreporter.section("answers")
        for line in room.table():
            terminalreporter.write_line(line)
