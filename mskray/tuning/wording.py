"""How a search's keys, values and figures are written, on the terminal and on the page."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mskray.evaluation.wording import NAMES
from mskray.tuning.figures import LATENCY, SIZE
from mskray.tuning.leaderboard import Summary
from mskray.tuning.ledger import Description, TrialRecord

ABSENT = "–"
_OF_MODEL = {LATENCY: "Latency, ms", SIZE: "Size, MB"}


def keys_of(description: Description, records: Iterable[TrialRecord]) -> list[str]:
    """Keys of the parameters: in the order of the space, then whatever else trials have."""
    return list(dict.fromkeys((*description.space, *(key for record in records for key in record.parameters))))


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """Each key's last part, or as many of its last parts as tell it from the others and say more than "name"."""
    parts = {key: key.split(".") for key in keys}
    found = {}
    for key, own in parts.items():
        for count in range(2 if own[-1] == "name" else 1, len(own) + 1):
            if sum(other[-count:] == own[-count:] for other in parts.values()) == 1:
                break
        else:
            count = len(own)
        found[key] = ".".join(own[-count:])
    return found


def value_text(value: Any, most: int = 40) -> str:
    """A parameter's value in at most so many characters, all of them printable."""
    if isinstance(value, bool) or value is None:
        text = json.dumps(value)
    elif isinstance(value, float):
        text = f"{value:.4g}"
    elif isinstance(value, list | tuple):
        text = " ".join(value_text(each, most) for each in value) or "none"
    elif isinstance(value, dict):
        text = " ".join(f"{key}={value_text(each, most)}" for key, each in sorted(value.items())) or "none"
    else:
        text = str(value) or '""'
    return shortened("".join(letter if letter.isprintable() else "·" for letter in text), most)


def shortened(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def parameters_text(parameters: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """ "backbone vgg16, learning_rate 0.001", in the order of `names`."""
    return ", ".join(f"{name} {value_text(parameters[key])}" for key, name in names.items() if key in parameters)


def number(value: float) -> str:
    """A figure: three decimals up to 1, three digits above, and below 0.001 two."""
    size = abs(value)
    if size > 1:
        return f"{value:,.0f}" if size >= 100 else f"{value:.1f}" if size >= 10 else f"{value:.2f}"
    return f"{value:.3f}" if size == 0 or size >= 0.001 else f"{value:.2g}"


def figure_text(summary: Summary | None) -> str:
    """ "0.612 ± 0.014", or "–"."""
    if summary is None:
        return ABSENT
    return number(summary.mean) + ("" if summary.sd is None else f" ± {number(summary.sd)}")


def spread_text(summary: Summary | None) -> str:
    """What the figure after ± is over: "3 seeds", "5 folds", or "" without one."""
    return "" if summary is None or not summary.over else f"{summary.n} {summary.over}"


def metric_name(metric: str) -> str:
    """ "Cohen’s κ (study)"."""
    if metric in _OF_MODEL:
        return _OF_MODEL[metric]
    level, _, figure = metric.partition(".")[2].rpartition(".")
    words = NAMES.get(figure, figure.replace("_", " "))
    return f"{words} ({level})" if level else words


def kind_of(description: Description, key: str) -> str:
    """ "choice", "grid", "uniform" or "loguniform", and "" for a key that the space does not have."""
    there = description.space.get(key)
    named = there if isinstance(there, Mapping) else {}
    return next((kind for kind in ("choice", "grid", "uniform", "loguniform") if kind in named), "")


def values_of(description: Description, key: str) -> Sequence[Any]:
    """What the space lists for a key: values, or the two ends of a range."""
    kind = kind_of(description, key)
    listed = description.space[key][kind] if kind else ()
    return listed if isinstance(listed, list | tuple) else (listed,)


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
