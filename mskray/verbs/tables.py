"""Plain tables for the terminal: no borders, wide enough to be piped on."""

import json
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from mskray.config import Setting

_WIDTH = 160


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return aligned text; the first column never wraps."""
    console = Console(width=_WIDTH, color_system=None)
    drawn = Table(box=None, pad_edge=False)
    for index, column in enumerate(columns):
        drawn.add_column(column, overflow="fold", no_wrap=index == 0)
    for row in rows:
        drawn.add_row(*[cell.replace("[", r"\[") for cell in row])
    with console.capture() as capture:
        console.print(drawn)
    return "\n".join(line.rstrip() for line in capture.get().rstrip().splitlines())


def settings_table(settings: Sequence[Setting]) -> str:
    """Return config keys as a table: type, bounds, default, unit, source, what each does."""
    return table(
        ["key", "type", "bounds", "default", "unit", "source", "what it does"], [_row(each) for each in settings]
    )


def _row(setting: Setting) -> list[str]:
    default = "required" if setting.required else json.dumps(setting.default)
    return [setting.key, setting.type, setting.bounds, default, setting.unit, setting.source, setting.text]
