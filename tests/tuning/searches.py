"""Ledgers made by hand, for the tests of what a search shows."""

import hashlib
from typing import Any

from mskray.tuning.ledger import Description, TrialRecord

KAPPA = "validation.study.kappa"


def description(space: dict[str, Any] | None = None, metrics: tuple[str, ...] = (KAPPA,), **other: Any) -> Description:
    values: dict[str, Any] = {
        "family": "classifier",
        "cohort": "s3://bucket/knees",
        "cohort_hash": "ab12",
        "task": "",
        "base": {},
        "space": space or {},
        "metrics": metrics,
        "search": {"method": "random"},
        "scheduler": {},
        "folds": {},
        "repeats": {},
        "fingerprint": "f00d",
        "created": "2026-01-01T00:00:00+00:00",
        "versions": {"mskray": "0.1"},
    }
    return Description(**{**values, **other})


def trial(
    number: int, parameters: dict[str, Any] | None = None, kappa: float | None = None, **other: Any
) -> TrialRecord:
    """A trial; finished where it has a figure, unless told otherwise."""
    figures = {} if kappa is None else {KAPPA: kappa}
    values: dict[str, Any] = {
        "id": hashlib.sha256(str(number).encode()).hexdigest()[:12],
        "number": number,
        "parameters": parameters if parameters is not None else {"a": number},
        "state": "open" if kappa is None else "finished",
        "figures": {**figures, **other.pop("more", {})},
    }
    return TrialRecord(**{**values, **other})
