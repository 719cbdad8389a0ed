"""`mskray families [NAME] [--json]`: what there is to train, and every knob of it."""

import json
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from mskray.config import Setting, describe
from mskray.families import families, family
from mskray.verbs.train import job_model

_WIDTH = 160


def families_table(as_json: bool = False) -> str:
    """Return every family with what it reads and learns."""
    rows = [{"name": name, "reads": list(each.kinds), "summary": each.summary} for name, each in families().items()]
    if as_json:
        return json.dumps(rows, indent=2)
    return _table(
        ["family", "reads", "learns"], [[row["name"], ", ".join(row["reads"]), row["summary"]] for row in rows]
    )


def family_table(name: str, as_json: bool = False) -> str:
    """Return every config key of a family, job keys included. Raises UserError for an unknown family."""
    chosen = family(name)
    settings = list(describe(job_model(chosen)))
    if as_json:
        return json.dumps(
            {
                "name": chosen.name,
                "summary": chosen.summary,
                "settings": [asdict(setting) for setting in settings],
                "search_space": chosen.search_space(),
            },
            indent=2,
        )
    return _table(
        ["key", "type", "bounds", "default", "unit", "source", "what it does"], [_row(each) for each in settings]
    )


def _row(setting: Setting) -> list[str]:
    default = "required" if setting.required else json.dumps(setting.default)
    return [setting.key, setting.type, setting.bounds, default, setting.unit, setting.source, setting.text]


def _table(columns: list[str], rows: list[list[Any]]) -> str:
    console = Console(width=_WIDTH)
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column == "key")
    for row in rows:
        table.add_row(*[str(cell).replace("[", r"\[") for cell in row])
    with console.capture() as capture:
        console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().rstrip().splitlines())
