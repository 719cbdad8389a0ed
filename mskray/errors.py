"""The one exception that reaches a user: a single line that says what was wrong, where, and what to do.

The command line prints it without a stack trace and exits with code 2 (`mskray.cli`). Anything else that
escapes is a defect of ours and keeps its trace.
"""


class UserError(Exception):
    """Something that the user can mend.

    The message is one line: what is wrong, where (path, key, row), and what to do about it.
    It survives pickling, so that a Ray task can raise it.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))
