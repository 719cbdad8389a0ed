"""Self-contained pages: style inside, nothing loaded, and everything that comes from data escaped.

html = tables_page("Pairs", "cohort …", [PageTable("change", ("model", "error"), [("SVM", "0.31")])], notes)
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from mskray.evaluation import wording

_FOLDER = Path(__file__).parent


class PageTable(NamedTuple):
    """A table of text; the first cell of a row names it."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def render(template: str, **values: Any) -> str:
    """Fill a template of this folder, with the style that all pages share."""
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = Markup((_FOLDER / "report.css").read_text(encoding="utf-8"))  # nosec B704 # a file of this package
    return environment.get_template(template).render(style=style, not_a_device=wording.NOT_A_DEVICE, **values)


def tables_page(title: str, lede: str, tables: Sequence[PageTable], notes: Sequence[str] = ()) -> str:
    """Return a page of tables, and notes below them."""
    return render("tables.html", title=title, lede=lede, tables=tables, notes=notes)
