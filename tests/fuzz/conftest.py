"""How long fuzzing lasts, and what it tells at its end.

    make fuzz COUNT=20000                                       # prints answers by route and class of status
    MSKRAY_FUZZ=2000 .venv/bin/python -m pytest tests/fuzz      # the same, shorter

Without MSKRAY_FUZZ each test takes some examples, always the same ones.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

_HERE = Path(__file__).parent
sys.path[:0] = [str(_HERE.parent / name) for name in ("serving", "imaging")]
COUNT = int(os.environ.get("MSKRAY_FUZZ", "0"))
_CHECKS = (
    HealthCheck.too_slow,
    HealthCheck.data_too_large,
    HealthCheck.filter_too_much,
    HealthCheck.large_base_example,
)

settings.register_profile("fuzz-small", derandomize=True, database=None, deadline=None, suppress_health_check=_CHECKS)
settings.register_profile("fuzz", database=None, deadline=None, suppress_health_check=_CHECKS, print_blob=True)


def examples(small: int, share: float = 1.0) -> settings:
    """Settings of a test: so many examples where no count is given, else this share of the count."""
    profile = settings.get_profile("fuzz" if COUNT else "fuzz-small")
    # Making a failing example smaller takes its time; what failed is printed either way.
    phases = (Phase.explicit, Phase.generate, Phase.shrink)
    return settings(profile, max_examples=max(1, int(COUNT * share)) if COUNT else small, phases=phases)


@pytest.fixture(scope="session")
def app(tmp_path_factory: pytest.TempPathFactory) -> "object":
    from room import build_app

    return build_app(tmp_path_factory.mktemp("fuzz"))


@pytest.fixture(scope="session")
def room(app: "object") -> Iterator["object"]:
    from room import Room

    made = Room(app)
    yield made
    made.close()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Answers by route and class of status."""
    room = sys.modules.get("room")
    if COUNT and room is not None:
        terminalreporter.section("answers")
        for line in room.table():
            terminalreporter.write_line(line)
