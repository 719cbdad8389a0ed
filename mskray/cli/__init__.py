"""The command line, thin: it reads words, calls `mskray.verbs`, prints what came out.

    mskray --help

A user's mistake is one line on stderr and exit code 2. Modules that import torch or Ray are imported by the command
that needs them, so that `--help` and mistakes answer at once.
"""

import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

import typer

from mskray.cli import data, jobs, models, pairs, papers, serving, tuning, use  # noqa: F401  # each adds its commands
from mskray.cli.app import app
from mskray.errors import UserError

_INTERRUPTED = 130
_GOES_ON = {
    "ingest": "where this one was",
    "remove-flags": "where this one was",
    "find-vertebrae": "with the volumes that are not in its file yet",
    "tune": "with the trials that have not ended",
    "train": "after its last checkpoint, or begins anew if there is none",
    "pair-table": "with the cells that are left",
    "reproduce": "after its last checkpoint, or begins anew if there is none",
}
"""Commands that go on after an interruption, and from where."""


def main(words: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 for success, 2 for a user's mistake, 130 after Ctrl-C."""
    quiet_ray()
    signal.signal(signal.SIGTERM, _terminate)
    given = list(sys.argv[1:] if words is None else words)
    try:
        # Standalone, Typer would draw a box around each mistake; here a mistake is one line.
        code = app(args=given, standalone_mode=False) or 0
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        place = context.command_path if context else "mskray"
        print(f"error: {error.format_message() or 'a command is missing'} (see {place} --help)", file=sys.stderr)
        code = error.exit_code
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    if code == _INTERRUPTED and given[:1] not in (["submit"], ["jobs"]):  # those say that the job goes on
        hint = f"; the same command goes on {_GOES_ON[given[0]]}" if given[0] in _GOES_ON else ""
        print(f"\nstopped{hint}", file=sys.stderr)
    sys.exit(code)


def quiet_ray() -> None:
    """Ray reads its variables when it is first imported."""
    # It would have each worker build the environment anew when the driver runs under `uv run`.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    # Ending Serve in order makes Ray report its own controller as failed.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "graceful_shutdown failed")


def _terminate(number: int, frame: Any) -> None:
    raise KeyboardInterrupt
