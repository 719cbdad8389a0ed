"""The command line of a verb that is to run elsewhere, read here first: a slip is told before anything is sent."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import typer

from mskray.errors import UserError, did_you_mean

SUBMITTED = (
    "compare",
    "ensemble",
    "evaluate",
    "explain",
    "find-vertebrae",
    "grade",
    "ingest",
    "pair-table",
    "predict",
    "remove-flags",
    "report",
    "reproduce",
    "spine-table",
    "train",
    "tune",
)
"""Verbs that can be jobs: those that compute and end."""


@dataclass(frozen=True)
class Command:
    """Words behind a verb.

    Args:
        params: what they mean, by the names of the verb's parameters, with defaults.
    """

    words: tuple[str, ...]
    params: Mapping[str, Any]


def read_command(app: typer.Typer, verb: str, words: Sequence[str]) -> Command:
    """Read a verb's words as it would itself. Raises UserError for what is no such verb, Typer's own for its words."""
    if verb not in SUBMITTED:
        raise UserError(
            f"{verb} cannot be submitted: {did_you_mean(verb, SUBMITTED)}give one of {', '.join(SUBMITTED)}"
        )
    whole: Any = typer.main.get_command(app)
    with typer.Context(whole, info_name="mskray") as above:
        context = whole.commands[verb].make_context(verb, list(words), parent=above)
    return Command(tuple(words), dict(context.params))
