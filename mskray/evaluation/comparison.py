"""Two models on the same held-out studies: what the new one gains, and which studies it calls otherwise.

    found = compare(old, new, ("normal", "abnormal"))

A difference is new − old on the same samples: each resample draws patients once, for both models, so that what is hard
for both cancels out. An interval that holds 0 means that this many patients do not tell the two apart.

McNemar's test looks at the studies that one of the two calls right alone: were the models equally good, either would be
right in half of these. The exact binomial probability is given (McNemar 1947; Fagerland et al. 2013, doi
10.1186/1471-2288-13-91, section "the exact conditional test"), without a correction for patients with several studies.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.stats import binomtest

from mskray.errors import UserError
from mskray.evaluation.bootstrap import CONFIDENCE, DECIMALS, Figure, bootstrapped, figures_with_intervals, too_few
from mskray.evaluation.calibration import decision
from mskray.evaluation.metrics import LOWER_IS_BETTER, weighted_figures
from mskray.evaluation.page import PageTable, tables_page
from mskray.evaluation.studies import Samples, read_predictions, to_studies
from mskray.evaluation.wording import NAMES, count, interval, percent

SCHEMA_VERSION = 1
SHOWN = ("auroc", "kappa", "quadratic_kappa", "accuracy", "balanced_accuracy", "sensitivity", "specificity", "brier")
"""Figures of the table, in its order; all are in `compare.json`."""


class Side(NamedTuple):
    """One model: its name, its predictions, and from where it calls the second of two classes."""

    name: str
    predictions: pa.Table
    threshold: float


@dataclass(frozen=True)
class Changes:
    """Studies by who called them right.

    p: of McNemar's test, two-sided.
    called: calls of the old and of the new model → studies, where the two differ.
    """

    both_right: int
    both_wrong: int
    wrong_to_right: int
    right_to_wrong: int
    p: float
    called: dict[str, int]


@dataclass(frozen=True)
class Comparison:
    """What `compare` found, of studies.

    old, new: figures of each. difference: new − old, paired.
    left_out: images without a label, or that a model could not judge; they count for neither.
    """

    names: tuple[str, str]
    classes: tuple[str, ...]
    thresholds: tuple[float, float]
    studies: int
    patients: int
    images: int
    left_out: int
    old: dict[str, Figure]
    new: dict[str, Figure]
    difference: dict[str, Figure]
    changes: Changes
    resamples: int
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """The content of `compare.json`."""
        sides = {"old": self.old, "new": self.new, "difference": self.difference}
        return {
            "schema_version": SCHEMA_VERSION,
            "classes": list(self.classes),
            "thresholds": dict(zip(("old", "new"), self.thresholds, strict=True)),
            "intervals": {
                "method": "percentile bootstrap by patient, the same resamples for both models",
                "confidence": CONFIDENCE,
                "resamples": self.resamples,
                "seed": self.seed,
            },
            "counts": {
                "images": self.images,
                "left_out": self.left_out,
                "studies": self.studies,
                "patients": self.patients,
            },
            "figures": {
                side: {name: each.to_dict() for name, each in figures.items()} for side, figures in sides.items()
            },
            "changes": {**vars(self.changes), "p": round(self.changes.p, DECIMALS)},
        }


def compare(
    old: Side, new: Side, classes: Sequence[str], *, ordinal: bool = False, resamples: int = 1000, seed: int = 0
) -> Comparison:
    """Compare two models by what they say of the same images.

    Args:
        old, new: predictions as `studies.read_predictions` takes them, of the same images.
        classes: in the order of the label's index.
        ordinal: the classes are grades in order; adds the quadratic weighted kappa.
        resamples: bootstrap resamples of the patients.
    Raises:
        UserError: nothing was judged by both, or the images are others.
    """
    tables, rows = _common(old.predictions, new.predictions)
    (before, _), (after, _) = (to_studies(read_predictions(table, list(classes))[0]) for table in tables)
    images = int(before.views.sum())
    thresholds = (old.threshold, new.threshold)
    graded = ordinal and len(classes) > 2
    _, patient = np.unique(before.patient.astype(str), return_inverse=True)

    def side(samples: Samples, weights: NDArray[np.float64], threshold: float) -> Mapping[str, NDArray[np.float64]]:
        return weighted_figures(samples.label, samples.prob, weights, threshold=threshold, ordinal=graded)

    def differences(weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        one, other = side(before, weights, old.threshold), side(after, weights, new.threshold)
        return {name: other[name] - one[name] for name in one}

    own = [
        figures_with_intervals(each, list(classes), threshold=threshold, ordinal=graded, resamples=resamples, seed=seed)
        for each, threshold in zip((before, after), thresholds, strict=True)
    ]
    return Comparison(
        names=(old.name, new.name),
        classes=tuple(classes),
        thresholds=thresholds,
        studies=len(before),
        patients=int(patient.max()) + 1,
        images=images,
        left_out=rows - images,
        old=own[0],
        new=own[1],
        difference=bootstrapped(
            differences,
            patient,
            lambda name: (own[0][name].n, own[0][name].patients),
            lambda name: too_few(patient) or own[0][name].reason,
            resamples,
            seed,
        ),
        changes=_changes(before, after, thresholds, classes),
        resamples=resamples,
        seed=seed,
    )


def _common(old: pa.Table, new: pa.Table) -> tuple[tuple[pa.Table, pa.Table], int]:
    """The rows that both have judged and that have a label, and how many rows there were."""
    old, new = (table.sort_by("instance_id") for table in (old, new))
    if not old["instance_id"].equals(new["instance_id"]):
        raise UserError("the two models did not predict the same images: predict the same split by both")
    good = pc.is_valid(old["label"])
    for table in (old, new):
        good = pc.and_(good, pc.is_null(table["error"]))
    if not pc.any(good).as_py():
        raise UserError("no image has a label and was judged by both models: choose a split with labelled images")
    return (old.filter(good), new.filter(good)), len(old)


def _changes(before: Samples, after: Samples, thresholds: tuple[float, float], classes: Sequence[str]) -> Changes:
    calls = [decision(each.prob, limit) for each, limit in zip((before, after), thresholds, strict=True)]
    was, now = (each == before.label for each in calls)
    gained, lost = int((~was & now).sum()), int((was & ~now).sum())
    pairs, counts = np.unique(np.stack(calls)[:, calls[0] != calls[1]], axis=1, return_counts=True)
    called = {
        f"{classes[one]} → {classes[other]}": int(number) for one, other, number in zip(*pairs, counts, strict=True)
    }
    return Changes(
        both_right=int((was & now).sum()),
        both_wrong=int((~was & ~now).sum()),
        wrong_to_right=gained,
        right_to_wrong=lost,
        p=float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0,
        called=called,
    )


def comparison_tables(found: Comparison) -> list[PageTable]:
    """The comparison as tables of text."""
    shown = [name for name in SHOWN if name in found.difference]
    figures = [
        (
            NAMES[name] + (" (lower is better)" if name in LOWER_IS_BETTER else ""),
            interval(found.old[name]),
            interval(found.new[name]),
            signed(found.difference[name]),
        )
        for name in shown
    ]
    changes = found.changes
    rows = [
        ("right by both", f"{changes.both_right:,}"),
        ("wrong by both", f"{changes.both_wrong:,}"),
        ("wrong → right", f"{changes.wrong_to_right:,}"),
        ("right → wrong", f"{changes.right_to_wrong:,}"),
        ("McNemar’s exact p", f"{changes.p:.3g}"),
    ]
    tables = [
        PageTable("Figures of studies", ("figure", *found.names, "difference"), figures),
        PageTable("Studies by who called them right", ("called", "studies"), rows),
    ]
    if changes.called:
        called = [(name, f"{number:,}") for name, number in changes.called.items()]
        tables.append(PageTable("Studies that are called otherwise", ("old call → new call", "studies"), called))
    return tables


def comparison_page(found: Comparison, lede: str, notes: Sequence[str]) -> str:
    """The comparison as one self-contained page."""
    old, new = found.names
    said = (
        f"{new} against {old}, {lede}: {count(found.studies, 'study')} of {count(found.patients, 'patient')}. "
        f"A difference is {new} − {old}."
    )
    left = [f"{found.left_out:,} images have no label or could not be judged by both, and count for neither."]
    how = (
        f"Intervals of {percent(CONFIDENCE)} by patient, {found.resamples:,} resamples, the same for both models. A "
        "difference whose interval holds 0 is not told from chance by these patients."
    )
    return tables_page(
        f"{old} and {new}", said, comparison_tables(found), [how, *(left if found.left_out else []), *notes]
    )


def signed(figure: Figure) -> str:
    """A difference with its interval, or why there is none."""
    if figure.value is None or figure.low is None or figure.high is None:
        return figure.reason or ""
    return f"{figure.value:+.3f} ({figure.low:+.3f} to {figure.high:+.3f})"
