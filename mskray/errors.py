"""The one exception that reaches a user: a single line that says what was wrong, where, and what to do.

The command line prints it without a stack trace and exits with code 2 (`mskray.cli`). Anything else that
escapes is a defect of ours and keeps its trace.
"""

import difflib
import re
from collections.abc import Iterable

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
"""Of a terminal, in what libraries say."""


class UserError(Exception):
    """Something that the user can mend.

    The message is one line: what is wrong, where (path, key, row), and what to do about it.
    It survives pickling, so that a Ray task can raise it.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(_COLOUR.sub("", message).split()))


class Fault(UserError):
    """The cluster's or the store's: what was asked for may succeed later, as it is."""


def did_you_mean(given: str, known: Iterable[str], before: str = "") -> str:
    """Return "did you mean …? " with the closest of `known`, `before` in front of it; empty where none is."""
    close = difflib.get_close_matches(given, list(known), n=1)
    return f"did you mean {before}{close[0]}? " if close else ""


def user_error_in(error: BaseException) -> UserError | None:
    """Find the UserError that a worker raised behind an exception of Ray's, or None.

    Ray keeps it as `cause`, as one of `worker_failures`, or as the last line of a trace in the message.
    """
    cause: BaseException | None = error
    while cause is not None:
        for inner in [cause, *getattr(cause, "worker_failures", {}).values()]:
            inner = getattr(inner, "cause", inner)
            if isinstance(inner, UserError):
                return inner
        cause = cause.__cause__
    written = re.findall(r"^(?:\S+\.)?(UserError|Fault): (.+)$", str(error), re.MULTILINE)
    if not written:
        return None
    kind, message = written[-1]
    return Fault(message) if kind == Fault.__name__ else UserError(message)
