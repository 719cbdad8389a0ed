"""The table of pairs as text, Markdown, HTML and JSON, below the figures that CRMO gives."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mskray.cohorts.change import CHANGE, IMPROVED
from mskray.estimators.pair_table import TableRow, text_cells
from mskray.evaluation.page import PageTable, tables_page
from mskray.verbs.tables import table as draw

SCHEMA_VERSION = 1
_COLUMNS = ("model", "training error", "dev error", "test error")
_PAPER: Mapping[str, tuple[tuple[str, str, str, str], ...]] = {
    CHANGE.name: (
        ("CRMO: CNN softmax", "0.08", "0.31", "0.64"),
        ("CRMO: NB-BOW, SIFT, |V| = 500", "0.00", "0.33", "0.78"),
        ("CRMO: ensemble", "0.05", "0.37", "0.58"),
    ),
    IMPROVED.name: (
        ("CRMO: CNN logistic", "0.05", "0.12", "0.29"),
        ("CRMO: SVM-BOW, ORB, |V| = 50", "0.00", "0.63", "0.83"),
        ("CRMO: ensemble", "0.11", "0.22", "0.29"),
    ),
}

_LEGEND = (
    "CRMO: figures of the paper, on its own 89 pairs of MR scans",
    "CNN softmax: the difference of a network's features; BOW: words of key points (ORB, SIFT or SURF), |V| of them, "
    "judged by a support vector machine (SVM) or naive Bayes (NB)",
    "training: pairs that a model has learned from; dev: those of the fold that it has not; test: held out from all",
    "regressed: the second image shows the disease worse than the first; improved: better",
)


@dataclass(frozen=True)
class PairTable:
    """What was found: rows by task, and how many pairs they rest on.

    Args:
        left_out: pairs that are judged by no model, and why.
        vocabularies: of each fold, how k-means ended and its seed.
    """

    cohort: str
    cohort_hash: str
    config: dict[str, Any]
    counts: dict[str, int]
    left_out: tuple[str, ...]
    vocabularies: tuple[dict[str, Any], ...]
    rows: dict[str, list[TableRow]]

    def to_dict(self) -> dict[str, Any]:
        """As written to pair-table.json."""
        given = {name: [row.to_dict() for row in rows] for name, rows in self.rows.items()}
        where = {"uri": self.cohort, "content_hash": self.cohort_hash}
        facts: dict[str, Any] = {"config": self.config, "pairs": self.counts, "left_out": list(self.left_out)}
        facts["vocabularies"] = list(self.vocabularies)
        return {"schema_version": SCHEMA_VERSION, "cohort": where, **facts, "tasks": given}

    def text(self) -> str:
        """As the terminal shows it: the paper's figures, and below them ours."""
        tables = [
            f"{self._title(name)}\n{draw(_COLUMNS, [*_PAPER.get(name, ()), *map(text_cells, rows)])}"
            for name, rows in self.rows.items()
        ]
        return "\n\n".join([*tables, *(["\n".join(self._sampled())] if self._sampled() else [])])

    def markdown(self) -> str:
        """As written to pair-table.md."""
        parts = []
        for name, rows in self.rows.items():
            lines = [_COLUMNS, ("---",) * len(_COLUMNS), *_PAPER.get(name, ()), *map(text_cells, rows)]
            drawn = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
            parts.append("\n".join([f"## {self._title(name)}", "", *drawn, ""]))
        return "\n".join([*parts, *(f"- {line}" for line in self._sampled())])

    def html(self) -> str:
        """As written to pair-table.html: one page that loads nothing."""
        tables = [
            PageTable(self._title(name), _COLUMNS, [*_PAPER.get(name, ()), *map(text_cells, rows)])
            for name, rows in self.rows.items()
        ]
        return tables_page("Image pairs", f"Cohort {self.cohort}", tables, [*_LEGEND, *self._sampled(), *self.left_out])

    def _sampled(self) -> list[str]:
        """Say of each descriptor what share of all its vocabularies rest on, where it is not all of them."""
        return [
            f"{each['model']}, {each['fold']}: k-means learned from {each['rows']:,} of {each['of']:,} descriptors; "
            "kmeans.most=0 takes all"
            for each in self.vocabularies
            if each["rows"] < each["of"] and each["fold"] == "all folds"
        ]

    def _title(self, task: str) -> str:
        counts = ", ".join(f"{what} {count:,}" for what, count in self.counts.items())
        return f"{task}: error = 1 − F1 with 95 % interval by patient; pairs: {counts}"
