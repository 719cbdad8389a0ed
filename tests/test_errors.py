"""The UserError of a worker is found behind whatever Ray wraps it in."""

import pytest

from mskray.errors import UserError, user_error_in


class WorkersFailed(Exception):
    def __init__(self, failures: dict[int, Exception]) -> None:
        super().__init__("training failed")
        self.worker_failures = failures


class TaskFailed(Exception):
    def __init__(self, cause: Exception) -> None:
        super().__init__("a long\ntrace")
        self.cause = cause


def chained() -> Exception:
    outer = RuntimeError("outer")
    outer.__cause__ = TaskFailed(UserError("mend this"))
    return outer


@pytest.mark.parametrize(
    "error",
    [
        TaskFailed(UserError("mend this")),
        WorkersFailed({1: TaskFailed(UserError("mend this"))}),
        chained(),
        RuntimeError("Traceback:\n  File x\nmskray.errors.UserError: mend this\n\nThe above exception was …\nOther: y"),
    ],
)
def test_it_is_found(error: Exception) -> None:
    found = user_error_in(error)
    assert type(found) is UserError
    assert str(found) == "mend this"


def test_a_defect_stays_a_defect() -> None:
    assert user_error_in(TaskFailed(ValueError("UserError: not one"))) is None
